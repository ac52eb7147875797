//! `tribus check-config`: what the gateway would run with, where each value comes from, and what is
//! dangerous or will not work.

mod effective;

use std::process::ExitCode;

use self::effective::Effective;
use super::{
    open_files,
    serve::{ConfigArgs, ensure_loopback},
};
use crate::{
    auth::Authenticator,
    config::{Advice, Config, Origins, Severity},
    listener::{self, Tls},
    telemetry::Telemetry,
};

/// Check the configuration, and print what is effective and from where. Secrets are left out.
///
/// What is printed is a configuration itself (TOML). Warnings and notes go to standard error.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tribus check-config --config /etc/tribus/tribus.toml
  TRIBUS__RETENTION__AGE=1h tribus check-config
  tribus check-config 2>/dev/null | grep -v '# default'   only what was set

Exit codes: 0 where `tribus serve` would start, with warnings or without; 1 where it would not.")]
pub struct Args {
    #[command(flatten)]
    source: ConfigArgs,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let (config, origins) = args.source.load_explained()?;
    check(&config)?;
    let effective = Effective::new(&config, &origins, args.source.config.as_deref())?;
    anstream::print!("{effective}");
    let advice = all_advice(&config, &origins);
    for advice in &advice {
        eprintln!("{advice}");
    }
    let warnings = advice
        .iter()
        .filter(|advice| advice.severity == Severity::Warning);
    match warnings.count() {
        0 => eprintln!("the configuration is good"),
        1 => eprintln!("the configuration is good, but for 1 warning"),
        count => eprintln!("the configuration is good, but for {count} warnings"),
    }
    Ok(ExitCode::SUCCESS)
}

/// What the values alone do not tell: whether the gateway would start with them here.
fn check(config: &Config) -> anyhow::Result<()> {
    let addresses = [
        ("listen", config.listen.as_str()),
        ("admin_listen", &config.admin_listen),
    ];
    listener::refuse_same(addresses[0], addresses[1])?;
    let options = config.auth_options();
    if options.has_keys() {
        Authenticator::new(options)?;
    } else {
        for (key, address) in addresses {
            ensure_loopback(key, address)?;
        }
    }
    Tls::load(&config.tls)?;
    Telemetry::check(&config.telemetry)
}

fn all_advice(config: &Config, origins: &Origins) -> Vec<Advice> {
    let mut advice = config.advice(origins);
    let allowed = open_files::hard_limit().unwrap_or(u64::MAX);
    let has_keys = config.auth_options().has_keys();
    let shortage = open_files::shortage(config.limits.connections, allowed);
    // Who tries it out on one machine will not have so many clients.
    let severity = if has_keys {
        Advice::warning
    } else {
        Advice::note
    };
    advice.extend(shortage.map(severity));
    if !has_keys {
        advice.push(Advice::note(
            "no key is configured: `tribus serve` would start in development mode, on loopback only",
        ));
    }
    advice
}
