//! The command line: `serve`, `token`, `check-config`, `health`, `log`, `publish`, `subscribe`,
//! `bench`.

mod backoff;
mod endpoint;
mod failure;
mod open_files;
mod service_manager;
mod tag;
mod tls_failure;
mod variables;

mod bench;
mod check_config;
mod health;
mod log;
pub mod publish;
mod serve;
pub mod subscribe;
mod token;

#[cfg(test)]
mod scripted;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A real-time gateway: every event to every client, over WebSocket, SSE and long-poll, with one
/// cursor that is good on all three.
#[derive(Debug, Parser)]
#[command(name = "tribus", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Args),
    Token(token::Args),
    CheckConfig(check_config::Args),
    Health(health::Args),
    Log(log::Args),
    Publish(publish::Args),
    Subscribe(subscribe::Args),
    Bench(bench::Args),
}

impl Cli {
    /// Runs the command to its end.
    ///
    /// # Errors
    /// With what went wrong and what to do, for a person to read.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Serve(args) => serve::run(args),
            Command::Token(args) => token::run(args),
            Command::CheckConfig(args) => check_config::run(&args),
            Command::Log(args) => log::run(&args),
            Command::Health(args) => as_client(health::run(args)),
            Command::Publish(args) => as_client(publish::run(args)),
            Command::Subscribe(args) => as_client(subscribe::run(args)),
            Command::Bench(args) => as_client(bench::run(args)),
        }
    }
}

fn as_client(command: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(command)
}
