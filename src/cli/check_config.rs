//! `tribus check-config`: what the gateway would run with.

use std::process::ExitCode;

use super::serve::ConfigArgs;
use crate::auth::Authenticator;

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
    let options = config.auth.options();
    let has_keys = options.has_keys();
    if has_keys {
        Authenticator::new(options)?;
    }
    print!("{}", toml::to_string(&config)?);
    if !has_keys {
        eprintln!(
            "note: no key is configured: `tribus serve` would start in development mode, on \
             loopback only"
        );
    }
    eprintln!("the configuration is good");
    Ok(ExitCode::SUCCESS)
}
