//! The outcome as one page: a file that needs no other one, and asks nobody for anything.

mod chart;

use std::path::Path;

use anyhow::{Context, Result};

use self::chart::{Chart, Line, Scale};
use super::outcome::Outcome;
use super::table;

const STYLE: &str = include_str!("report/style.css");

/// Writes the page.
pub fn write(outcome: &Outcome, file: &Path) -> Result<()> {
    let written = std::fs::write(file, page(outcome));
    written.with_context(|| format!("cannot write --report {}", file.display()))
}

/// Finds out before the run whether the page can be written after it.
pub fn try_file(file: &Path) -> Result<()> {
    let opened = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(file);
    let opened = opened.map(drop);
    opened.with_context(|| format!("cannot write --report {}", file.display()))
}

fn page(outcome: &Outcome) -> String {
    let memory = match &outcome.gateway {
        Some(_) => section("Memory of the gateway", "", &memory(outcome)),
        None => String::new(),
    };
    let title = escape(&table::title(outcome));
    let verdict = escape(&table::verdict(outcome));
    let class = if outcome.ok { "good" } else { "bad" };
    let notes: String = table::notes(outcome)
        .iter()
        .map(|line| format!("<li>{}</li>\n", escape(line)))
        .collect();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>tribus bench</title>\n<style>\n{STYLE}</style>\n<main>\n<h1>tribus bench</h1>\n<p>{title}</p>\n\
         <p class=\"{class}\">{verdict}</p>\n{}\n<ul>\n{notes}</ul>\n{}\n{}\n{memory}\n</main>\n</html>\n",
        rows(outcome),
        section(
            "Latency, from when an event was due until a client had it",
            &legend(outcome),
            &latency(outcome)
        ),
        section("Deliveries a second", "", &deliveries(outcome)),
    )
}

fn section(heading: &str, legend: &str, svg: &str) -> String {
    format!("<h2>{heading}</h2>\n{legend}{svg}\n")
}

fn rows(outcome: &Outcome) -> String {
    let cell = |tag: &str, text: &String| format!("<{tag}>{}</{tag}>", escape(text));
    let line = |tag: &str, cells: &[String]| {
        let cells: String = cells.iter().map(|text| cell(tag, text)).collect();
        format!("<tr>{cells}</tr>\n")
    };
    let (head, body) = table::columns(outcome);
    let body: String = body.iter().map(|cells| line("td", cells)).collect();
    format!(
        "<div class=\"wide\"><table>\n{}{body}</table></div>",
        line("th", &head)
    )
}

fn legend(outcome: &Outcome) -> String {
    let names = outcome.curves.iter().enumerate();
    let names: String = names
        .map(|(color, curve)| {
            format!(
                "<span class=\"key k{color}\">{}</span>\n",
                escape(&curve.name)
            )
        })
        .collect();
    format!("<p>{names}</p>\n")
}

/// By percentile, with as much room for the slowest hundredth as for the tenth above it.
fn latency(outcome: &Outcome) -> String {
    let nines = |share: f64| -(1.0 - share).log10();
    let shares = [
        (0.0, "fastest"),
        (0.5, "50 %"),
        (0.9, "90 %"),
        (0.99, "99 %"),
        (0.999, "99.9 %"),
        (0.9999, "99.99 %"),
    ];
    let lines = outcome
        .curves
        .iter()
        .enumerate()
        .map(|(color, curve)| Line {
            color,
            points: curve
                .points
                .iter()
                .map(|(share, time)| (nines(*share), *time))
                .collect(),
        });
    Chart {
        label: "latency by percentile, for each group of clients",
        lines: lines.collect(),
        across: shares
            .map(|(share, text)| (nines(share), text.to_owned()))
            .to_vec(),
        up: Scale::Log,
        show: time,
    }
    .svg()
}

fn deliveries(outcome: &Outcome) -> String {
    let seconds = outcome.timeline.iter();
    let points = seconds.map(|second| (second.second as f64, second.deliveries as f64));
    over_time(
        outcome,
        "deliveries in each second",
        number,
        points.collect(),
    )
}

fn memory(outcome: &Outcome) -> String {
    let seconds = outcome.timeline.iter();
    let points = seconds.filter_map(|second| {
        let bytes = second.memory_bytes?;
        Some((second.second as f64, bytes as f64 / f64::from(1 << 20)))
    });
    let label = "memory of the gateway's process in each second";
    over_time(outcome, label, mebibytes, points.collect())
}

fn over_time(
    outcome: &Outcome,
    label: &str,
    show: fn(f64) -> String,
    points: Vec<(f64, f64)>,
) -> String {
    let last = outcome
        .timeline
        .last()
        .map_or(1, |second| second.second.max(1));
    let step = chart::round_step(last as f64 / 8.0).max(1.0) as usize;
    let across = (0..=last)
        .step_by(step)
        .map(|at| (at as f64, format!("{at} s")));
    Chart {
        label,
        lines: vec![Line { color: 0, points }],
        across: across.collect(),
        up: Scale::Linear,
        show,
    }
    .svg()
}

/// A power of ten of milliseconds.
fn time(value: f64) -> String {
    if value >= 999.0 {
        format!("{:.0} s", value / 1000.0)
    } else if value >= 0.99 {
        format!("{value:.0} ms")
    } else {
        format!("{:.0} µs", value * 1000.0)
    }
}

fn number(value: f64) -> String {
    table::grouped(value as u64)
}

fn mebibytes(value: f64) -> String {
    format!("{value:.0} MiB")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
