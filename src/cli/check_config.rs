//! `tribus check-config`: what the gateway would run with.

use std::{fmt::Write as _, process::ExitCode};

use super::serve::ConfigArgs;
use crate::{auth::Authenticator, config::Config};

/// Check the configuration and print what is effective, secrets left out.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tribus check-config --config /etc/tribus.toml
  TRIBUS__RETENTION__AGE=1h tribus check-config")]
pub struct Args {
    #[command(flatten)]
    source: ConfigArgs,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let config = args.source.load()?;
    let options = config.auth_options();
    let has_keys = options.has_keys();
    if has_keys {
        Authenticator::new(options)?;
    }
    print!("{}", effective(&config)?);
    if !has_keys {
        eprintln!(
            "note: no key is configured: `tribus serve` would start in development mode, on \
             loopback only"
        );
    }
    eprintln!("the configuration is good");
    Ok(ExitCode::SUCCESS)
}

/// The configuration as TOML; of the secrets a comment each, so that one that did not arrive is noticed.
fn effective(config: &Config) -> anyhow::Result<String> {
    let mut auth = "[auth]\n".to_owned();
    if config.auth.hs256_secret.is_some() {
        auth.push_str("# hs256_secret is set\n");
    }
    match config.auth.previous_secrets.0.len() {
        0 => {}
        count => writeln!(auth, "# previous_secrets is set, to {count}")?,
    }
    let mut hook = "[auth.hook]\n".to_owned();
    if config.auth.hook.secret.is_some() {
        hook.push_str("# secret is set\n");
    }
    let text = toml::to_string(config)?;
    Ok(text
        .replacen("[auth]\n", &auth, 1)
        .replacen("[auth.hook]\n", &hook, 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_secrets_it_tells_only_that_they_are_there() {
        let plain = effective(&Config::default()).unwrap();
        assert!(!plain.contains('#'), "{plain}");
        let toml = "[auth]\nhs256_secret = \"s3cret\"\nprevious_secrets = [\"s3cret\", \"s3cret\"]";
        let told = effective(&Config::from_toml(toml).unwrap()).unwrap();
        let comments = "[auth]\n# hs256_secret is set\n# previous_secrets is set, to 2\ncookie";
        assert!(told.contains(comments), "{told}");
        assert!(!told.contains("s3cret"), "{told}");
        let lines = |text: &str| text.lines().filter(|line| !line.starts_with('#')).count();
        assert_eq!(lines(&told), lines(&plain));
    }
}
