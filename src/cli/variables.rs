//! Variables that were meant for the configuration and do not reach it.

use std::ffi::OsString;

use anyhow::{Result, bail};

use crate::config::Config;

/// Refuses a variable that names a key of the configuration with one underscore where there should be two: it would be
/// passed over in silence, and a gateway without its secret starts in development mode.
pub fn check(variables: impl Iterator<Item = (OsString, OsString)>) -> Result<()> {
    let keys = toml::Table::try_from(Config::default())?;
    for (name, _) in variables {
        let name = name.to_string_lossy();
        if let Some(meant) = meant(&name, &keys) {
            bail!("{name} is no variable of the gateway: two underscores lead to a key, {meant}");
        }
    }
    Ok(())
}

/// The right name, where `name` looks like a key of the configuration.
fn meant(name: &str, keys: &toml::Table) -> Option<String> {
    let key = name.strip_prefix("TRIBUS_")?;
    // Kubernetes sets TRIBUS_LOG_SERVICE_HOST and TRIBUS_LOG_PORT for a service by the name of tribus-log.
    let is_link = key.contains("_SERVICE_") || key.contains("_PORT");
    if key.starts_with('_') || is_link {
        return None;
    }
    let lower = key.to_lowercase();
    if lower == "workers" || keys.get(&lower).is_some_and(|value| !value.is_table()) {
        return Some(format!("TRIBUS__{key}"));
    }
    let (section, rest) = key.split_once('_')?;
    let is_section = keys.get(&section.to_lowercase())?.is_table();
    let rest = rest.trim_start_matches('_');
    (is_section && !rest.is_empty()).then(|| format!("TRIBUS__{section}__{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(name: &str) -> Result<()> {
        check([(name.into(), "value".into())].into_iter())
    }

    #[test]
    fn one_underscore_too_few_is_told_with_the_right_name() {
        for (name, meant) in [
            ("TRIBUS_LISTEN", "TRIBUS__LISTEN"),
            ("TRIBUS_ADMIN_LISTEN", "TRIBUS__ADMIN_LISTEN"),
            ("TRIBUS_HEARTBEAT", "TRIBUS__HEARTBEAT"),
            ("TRIBUS_WORKERS", "TRIBUS__WORKERS"),
            ("TRIBUS_AUTH_HS256_SECRET", "TRIBUS__AUTH__HS256_SECRET"),
            ("TRIBUS_AUTH__HS256_SECRET", "TRIBUS__AUTH__HS256_SECRET"),
            ("TRIBUS_RETENTION_AGE", "TRIBUS__RETENTION__AGE"),
            ("TRIBUS_LIMITS_NESTING", "TRIBUS__LIMITS__NESTING"),
            ("TRIBUS_BUS_ENGINE", "TRIBUS__BUS__ENGINE"),
            ("TRIBUS_LOG_LEVEL", "TRIBUS__LOG__LEVEL"),
            ("TRIBUS_SHUTDOWN_GRACE", "TRIBUS__SHUTDOWN__GRACE"),
        ] {
            let error = checked(name).expect_err(name).to_string();
            assert!(error.starts_with(name), "{error}");
            assert!(error.ends_with(meant), "{error}");
            assert!(!error.contains("value"), "{error}");
        }
    }

    #[test]
    fn other_variables_are_left_alone() {
        for name in [
            "TRIBUS_URL",
            "TRIBUS_TOKEN",
            "TRIBUS_CA",
            "TRIBUS_CONFIG",
            "TRIBUS__LISTEN",
            "TRIBUS__AUTH__HS256_SECRET",
            "TRIBUS_HOPS",
            "TRIBUS_LOG_SERVICE_HOST",
            "TRIBUS_LOG_PORT_8080_TCP",
            "TRIBUS_AUTH",
            "LISTEN",
        ] {
            assert!(checked(name).is_ok(), "{name}");
        }
    }
}
