//! `tribus token`: a JWT for trying things out and for scripts.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context;

use super::variables;
use crate::{
    auth::{AuthOptions, Authenticator, NewToken, sign_hs256},
    config::{Config, Span},
    topic::TopicFilter,
};

/// Print a JWT signed with the configured HS256 secret.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  export TRIBUS__AUTH__HS256_SECRET=$(openssl rand -hex 32)
  tribus token --sub alice --subscribe 'order:*' --publish 'order:*'
  tribus token --sub backend --publish '**' --trusted --ttl 30d")]
pub struct Args {
    /// Who the token is for.
    #[arg(long, value_name = "NAME")]
    sub: String,
    /// Topic filter that the token may subscribe; repeat for more. Quote it.
    #[arg(long, value_name = "FILTER")]
    subscribe: Vec<String>,
    /// Topic filter that the token may publish to; repeat for more. Quote it.
    #[arg(long, value_name = "FILTER")]
    publish: Vec<String>,
    /// The tenant whose topics the token is about.
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
    /// May say in `user_id` on whose behalf it publishes.
    #[arg(long)]
    trusted: bool,
    /// May see what the whole node counts (`/stats`), for the charts of the page at `/`.
    #[arg(long)]
    stats: bool,
    /// How long the token is good: 250ms, 25s, 1h, 30d.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = parse_ttl)]
    ttl: Duration,
    /// The token's id, by which it can be revoked.
    #[arg(long, value_name = "ID")]
    jti: Option<String>,
    /// Configuration file (TOML) with auth.hs256_secret, where it is not in the environment.
    #[arg(long, value_name = "FILE", env = "TRIBUS_CONFIG")]
    config: Option<PathBuf>,
}

fn parse_ttl(text: &str) -> Result<Duration, String> {
    text.parse::<Span>().map(|span| span.0)
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    variables::check(std::env::vars_os())?;
    let config = Config::load(args.config.as_deref(), &[])?;
    let secret = config.auth.hs256_secret.context(
        "no auth.hs256_secret is configured, so there is nothing to sign with\n\
         set TRIBUS__AUTH__HS256_SECRET to the gateway's secret, or name its file with --config; \
         a gateway in development mode prints a ready token",
    )?;
    for filter in args.subscribe.iter().chain(&args.publish) {
        TopicFilter::parse(filter)?;
    }
    if args.subscribe.is_empty() && args.publish.is_empty() {
        eprintln!(
            "note: without --subscribe and --publish the token has only the gateway's default grants"
        );
    }
    let some = |list: Vec<String>| (!list.is_empty()).then_some(list);
    let token = NewToken {
        subject: args.sub,
        subscribe: some(args.subscribe),
        publish: some(args.publish),
        tenant: args.tenant,
        trusted: args.trusted,
        stats: args.stats,
        ttl: args.ttl,
        issuer: config.auth.issuer,
        audience: config.auth.audience,
        token_id: args.jti,
    };
    let signed = sign_hs256(&secret, &token);
    let gateway = Authenticator::new(AuthOptions {
        hs256_secret: Some(secret),
        ..AuthOptions::default()
    })?;
    gateway
        .verify(&signed)
        .context("the gateway would refuse this token")?;
    println!("{signed}");
    Ok(ExitCode::SUCCESS)
}
