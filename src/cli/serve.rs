//! `tribus serve`: the gateway itself.

use std::{
    borrow::Cow, fmt::Write, io::IsTerminal, path::PathBuf, process::ExitCode, sync::Arc,
    time::Duration,
};

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use super::{open_files, service_manager, variables};
use crate::{
    auth::{Authenticator, NewToken, Secret, sign_hs256},
    config::{Config, LogConfig, LogFormat, Origins},
    gateway::Gateway,
    listener::{self, Tls},
};

/// A development token outlives a working day, and not a week.
const DEVELOPMENT_TTL: Duration = Duration::from_secs(24 * 3600);

/// Run the gateway.
///
/// Every key of the configuration can also be set in the environment: TRIBUS__SECTION__KEY, such as
/// TRIBUS__AUTH__HS256_SECRET. Flags win over the environment, which wins over the file.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tribus serve                               development mode: a random secret, loopback only
  TRIBUS__AUTH__HS256_SECRET=$(openssl rand -hex 32) tribus serve --listen 0.0.0.0:8080
  tribus serve --config /etc/tribus.toml")]
pub struct Args {
    #[command(flatten)]
    pub source: ConfigArgs,
}

/// Where the configuration comes from.
#[derive(Debug, clap::Args)]
pub struct ConfigArgs {
    /// Configuration file (TOML).
    #[arg(long, value_name = "FILE", env = "TRIBUS_CONFIG")]
    pub config: Option<PathBuf>,
    /// Address for clients, such as 127.0.0.1:9000 or 0.0.0.0:8080.
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// Address for operators; keep it out of clients' reach.
    #[arg(long, value_name = "ADDRESS")]
    pub admin_listen: Option<String>,
    /// Worker threads; one a core by default.
    #[arg(long, value_name = "N")]
    pub workers: Option<usize>,
}

impl ConfigArgs {
    /// # Errors
    /// Names the key that is wrong.
    pub fn load(&self) -> anyhow::Result<Config> {
        Ok(self.load_explained()?.0)
    }

    /// # Errors
    /// Names the key that is wrong.
    pub fn load_explained(&self) -> anyhow::Result<(Config, Origins)> {
        variables::check(std::env::vars_os())?;
        let workers = self.workers.map(|workers| workers.to_string());
        let flags: Vec<(&str, String)> = [
            ("listen", self.listen.clone()),
            ("admin_listen", self.admin_listen.clone()),
            ("workers", workers),
        ]
        .into_iter()
        .filter_map(|(key, value)| Some((key, value?)))
        .collect();
        Ok(Config::load_explained(self.config.as_deref(), &flags)?)
    }
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut config = args.source.load()?;
    start_logging(&config.log)?;
    let development = if config.auth_options().has_keys() {
        None
    } else {
        Some(enter_development_mode(&mut config)?)
    };
    actix_web::rt::System::new().block_on(async {
        // Before anyone is told that it listens: until then a signal would just end the process.
        let hangup = signal(SignalKind::hangup())?;
        let stop = stop_signal()?;
        let connections = config.limits.connections;
        let gateway = Gateway::bind(config)?;
        allow_open_files(connections, development.is_some());
        let address = gateway.address()?;
        let scheme = if gateway.tls().is_some() {
            "https"
        } else {
            "http"
        };
        let url = format!("{scheme}://{address}");
        tracing::info!(%address, %url, admin = %gateway.admin_address()?, "listening");
        service_manager::ready();
        if let Some(secret) = &development {
            eprintln!("{}", development_notice(secret, &url)?);
        }
        let reloaded = Reloaded {
            // The secret of development mode ends with the process, so there is nothing to read again.
            keys: development
                .is_none()
                .then(|| Arc::clone(gateway.authenticator())),
            tls: gateway.tls().cloned(),
        };
        let reload = actix_web::rt::spawn(async move {
            reload_on_hangup(hangup, &args.source, &reloaded).await;
        });
        let ended = gateway.run(stop).await;
        reload.abort();
        ended
    })?;
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

/// Without keys nobody could connect, so for trying things out the gateway makes a secret that
/// ends with the process. Only on loopback: a token for everything is printed.
fn enter_development_mode(config: &mut Config) -> anyhow::Result<Secret> {
    ensure_loopback("listen", &config.listen)?;
    ensure_loopback("admin_listen", &config.admin_listen)?;
    let secret = Secret::random().context("the operating system has no randomness to give")?;
    config.auth.hs256_secret = Some(secret.clone());
    Ok(secret)
}

/// # Errors
/// Where other machines could reach the address of this key.
pub(super) fn ensure_loopback(key: &str, address: &str) -> anyhow::Result<()> {
    let addresses = listener::resolve(key, address)?;
    anyhow::ensure!(
        addresses.iter().all(|address| address.ip().is_loopback()),
        "no key is configured, and without one the gateway serves on loopback only, not on {address}\n\
         set auth.hs256_secret (for example TRIBUS__AUTH__HS256_SECRET=$(openssl rand -hex 32)), \
         auth.public_key_file, auth.jwks_file or auth.jwks_url, or auth.hook.url"
    );
    Ok(())
}

fn development_notice(secret: &Secret, url: &str) -> anyhow::Result<String> {
    let everything = Some(vec!["**".to_owned()]);
    let token = sign_hs256(
        secret,
        &NewToken {
            subject: "developer".to_owned(),
            subscribe: everything.clone(),
            publish: everything,
            stats: true,
            ttl: DEVELOPMENT_TTL,
            ..NewToken::default()
        },
    );
    let mut notice = String::new();
    writeln!(
        notice,
        "\n  DEVELOPMENT MODE: no key is configured, so this secret and this token were made up now,\n  \
         end with this process, and are good on this machine only. Not for production.\n"
    )?;
    writeln!(notice, "  Open in a browser:\n\n    {url}/#token={token}\n")?;
    writeln!(
        notice,
        "  Or in another terminal:\n\n    export TRIBUS_URL={url}"
    )?;
    writeln!(notice, "    export TRIBUS_TOKEN={token}")?;
    Ok(notice)
}

/// Completes on SIGINT or SIGTERM, also one that came before it was awaited.
fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        tracing::info!("draining");
        service_manager::stopping();
    })
}

/// What is read again on SIGHUP.
struct Reloaded {
    keys: Option<Arc<Authenticator>>,
    tls: Option<Arc<Tls>>,
}

/// Reads keys and certificates again on each SIGHUP.
async fn reload_on_hangup(mut hangup: Signal, source: &ConfigArgs, reloaded: &Reloaded) {
    while hangup.recv().await.is_some() {
        service_manager::reloading();
        match source.load() {
            Ok(config) => reloaded.reload(&config),
            Err(error) => tracing::error!("keys and certificates stay as they were: {error:#}"),
        }
        service_manager::ready();
    }
}

impl Reloaded {
    /// Those that are no good leave the old ones in place, and do not keep the others from being
    /// taken.
    fn reload(&self, config: &Config) {
        if let Some(authenticator) = &self.keys {
            match authenticator.reload(config.auth_options()) {
                Ok(()) => tracing::info!("read the keys again"),
                Err(error) => tracing::error!("the keys stay as they were: {error:#}"),
            }
        }
        if let Some(tls) = &self.tls {
            match tls.reload(&config.tls) {
                Ok(()) => tracing::info!("read the certificate again"),
                Err(error) => tracing::error!("the certificate stays as it was: {error:#}"),
            }
        }
    }
}

/// Each connection is an open file; a gateway that runs out of them can not even refuse clients. In development mode,
/// whose clients are on this machine, that is no news.
fn allow_open_files(connections: usize, is_development: bool) {
    match open_files::raise() {
        Ok(allowed) => match open_files::shortage(connections, allowed) {
            Some(shortage) if is_development => tracing::debug!("{shortage}"),
            Some(shortage) => tracing::warn!("{shortage}"),
            None => {}
        },
        Err(error) => tracing::warn!(%error, "can not raise the limit of open files"),
    }
}

fn start_logging(log: &LogConfig) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(directives(&log.level))
        .context("configuration key `log.level`: write a level such as info, or directives")?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match log.format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}

/// At plain `info` the server's own lines about its workers would push the link of development mode off the screen.
/// And where no more is asked for, the HTTP library says nothing: it reports what clients do wrong as errors, one line
/// for each, so that anyone could fill the disk. The gateway counts what it refuses. Nor does the library of NATS, which
/// reports each try to reach a server that is down.
fn directives(level: &str) -> Cow<'_, str> {
    match level.parse() {
        Ok(LevelFilter::INFO) => {
            format!("{level},actix_server=warn,actix_http=off,async_nats=off").into()
        }
        Ok(LevelFilter::WARN | LevelFilter::ERROR) => {
            format!("{level},actix_http=off,async_nats=off").into()
        }
        _ => level.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_levels_leave_out_what_libraries_say_of_workers_and_bad_clients() {
        for (level, expected) in [
            (
                "info",
                "info,actix_server=warn,actix_http=off,async_nats=off",
            ),
            (
                "INFO",
                "INFO,actix_server=warn,actix_http=off,async_nats=off",
            ),
            ("warn", "warn,actix_http=off,async_nats=off"),
            ("error", "error,actix_http=off,async_nats=off"),
            ("off", "off"),
            ("debug", "debug"),
            ("trace", "trace"),
            ("info,tribus=debug", "info,tribus=debug"),
        ] {
            assert_eq!(directives(level), expected);
        }
    }
}
