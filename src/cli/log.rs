//! `tribus log`: what is in a log on disk, and whether it is sound.

use std::{fmt, path::PathBuf, process::ExitCode};

use anyhow::Context;
use bytesize::ByteSize;
use clap::Subcommand;
use jiff::Timestamp;

use super::variables;
use crate::{
    config::Config,
    engine::disk::{Depth, LogReport, SegmentReport, inspect},
};

/// Look at a log on disk: what is in it, and whether it is sound. Nothing is changed.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tribus log inspect --path /var/lib/tribus
  tribus log verify --config /etc/tribus/tribus.toml
  tribus log inspect --path /var/lib/tribus/lost-9nqzth6gt    one that was given up

While a gateway has the log open, its newest segment is left out.")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Tell what is in the log, and from where to where. Reads its indices only.
    Inspect(Place),
    /// Read all of it, and tell whether each event is what was written: exit code 0 where it is, 1
    /// where not.
    Verify(Place),
}

#[derive(Debug, clap::Args)]
struct Place {
    /// The log's directory; by default bus.disk.path of the configuration.
    #[arg(long, value_name = "DIRECTORY")]
    path: Option<PathBuf>,
    /// Configuration file (TOML) with bus.disk.path, where it is not in the environment.
    #[arg(long, value_name = "FILE", env = "TRIBUS_CONFIG")]
    config: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.command {
        Command::Inspect(place) => {
            place.show(&place.look(Depth::Index)?, false)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Verify(place) => {
            let report = place.look(Depth::Everything)?;
            place.show(&report, true)?;
            Ok(ExitCode::from(u8::from(!report.is_sound())))
        }
    }
}

impl Place {
    fn look(&self, depth: Depth) -> anyhow::Result<LogReport> {
        let path = match &self.path {
            Some(path) => path.clone(),
            None => {
                variables::check(std::env::vars_os())?;
                let config = Config::load(self.config.as_deref(), &[])?;
                config.bus.disk.path.context(
                    "where is the log? name its directory with --path, or the configuration that \
                     has bus.disk.path with --config",
                )?
            }
        };
        inspect(&path, depth).with_context(|| format!("the log in {}", path.display()))
    }

    fn show(&self, report: &LogReport, verified: bool) -> anyhow::Result<()> {
        if self.json {
            anstream::println!("{}", serde_json::to_string_pretty(report)?);
        } else {
            anstream::print!("{}", Shown { report, verified });
        }
        Ok(())
    }
}

/// A report for a person to read.
struct Shown<'a> {
    report: &'a LogReport,
    verified: bool,
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LogReport {
            label, segments, ..
        } = self.report;
        writeln!(
            f,
            "log {}, format {}, durability {}, {}",
            label.log.as_str(),
            label.format,
            label.durability.as_str(),
            match (self.report.in_use, label.clean) {
                (true, _) => "open in a gateway",
                (false, true) => "closed properly",
                (false, false) => "not closed properly: the next start repairs it",
            }
        )?;
        let events: usize = segments.iter().map(|segment| segment.events).sum();
        let bytes: u64 = segments.iter().map(|segment| segment.bytes).sum();
        writeln!(
            f,
            "{events} events of {} topics, {}\n",
            self.report.topics,
            ByteSize(bytes).display().iec()
        )?;
        writeln!(
            f,
            "{:<28} {:>10} {:>12} {:>12} {:>10}  {:<24}",
            "segment", "events", "after", "until", "size", "from"
        )?;
        for segment in segments {
            writeln!(f, "{}", Row(segment))?;
        }
        for segment in segments {
            if let Some(problem) = &segment.problem {
                writeln!(f, "\n{problem}")?;
            }
        }
        for problem in &self.report.problems {
            writeln!(f, "\n{problem}")?;
        }
        for name in &self.report.given_up {
            writeln!(
                f,
                "\n{name}: a log that was given up; look at it with --path"
            )?;
        }
        if !self.report.is_sound() {
            return writeln!(
                f,
                "\nThe log is damaged. The gateway sets it aside when it comes upon that, and begins \
                 a new one; clients get a reset."
            );
        }
        if self.verified {
            let newest = if self.report.in_use {
                ", but for the newest segment, which a gateway writes"
            } else {
                ""
            };
            writeln!(f, "\nThe log is sound{newest}.")?;
        }
        Ok(())
    }
}

struct Row<'a>(&'a SegmentReport);

impl fmt::Display for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let segment = self.0;
        let size = ByteSize(segment.bytes).display().iec().to_string();
        if segment.skipped {
            return write!(
                f,
                "{:<28} {:>10} {:>12} {:>12} {size:>10}  being written",
                segment.name, "", segment.after, ""
            );
        }
        let oldest = segment
            .oldest
            .and_then(|at| Timestamp::from_millisecond(at).ok());
        write!(
            f,
            "{:<28} {:>10} {:>12} {:>12} {size:>10}  {:<24}",
            segment.name,
            segment.events,
            segment.after,
            segment.until,
            oldest.map_or_else(String::new, |oldest| format!("{oldest:.3}")),
        )?;
        if segment.problem.is_some() {
            f.write_str("  damaged")?;
        }
        Ok(())
    }
}
