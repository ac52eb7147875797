//! The outcome as a table for people.

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};

use super::complaints::Complaint;
use super::outcome::{Outcome, Row, milliseconds};

const GOOD: Style = AnsiColor::Green.on_default();
const BAD: Style = AnsiColor::Red.on_default().bold();
const HEADING: Style = Style::new().bold();

/// Prints it. Colours are left away by `out` where it is no terminal.
pub fn print(outcome: &Outcome, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{}", title(outcome))?;
    writeln!(out)?;
    print_clients(outcome, out)?;
    writeln!(out)?;
    for line in lines(outcome) {
        writeln!(out, "{line}")?;
    }
    for (what, complaints) in [
        ("not let in", &outcome.refused),
        ("had to try again", &outcome.delayed),
        ("cut while live", &outcome.cut),
        ("not published", &outcome.published.failures),
    ] {
        print_complaints(what, complaints, out)?;
    }
    for doubt in outcome.doubts() {
        writeln!(out, "note: {doubt}")?;
    }
    writeln!(out)?;
    print_verdict(outcome, out)
}

fn title(outcome: &Outcome) -> String {
    format!(
        "{}: {} connections, {} topics, {} events/s of {} bytes for {}",
        outcome.url,
        grouped(outcome.connections as u64),
        grouped(u64::from(outcome.topics)),
        grouped(u64::from(outcome.rate)),
        outcome.size,
        seconds(outcome.duration_seconds)
    )
}

fn print_clients(outcome: &Outcome, out: &mut impl Write) -> io::Result<()> {
    const COLUMNS: [&str; 12] = [
        "",
        "clients",
        "live",
        "deliveries",
        "lost",
        "repeated",
        "misplaced",
        "resets",
        "p50",
        "p99",
        "p99.9",
        "max",
    ];
    let mut rows: Vec<_> = outcome.groups.iter().map(cells).collect();
    if rows.len() > 1 {
        rows.push(cells(&outcome.total));
    }
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or_default().max(COLUMNS[column].len())
    };
    let widths: [usize; COLUMNS.len()] = std::array::from_fn(width);
    let line = |cells: &[String]| {
        let mut line = format!("{:<1$}", cells[0], widths[0]);
        for (cell, width) in cells.iter().zip(widths).skip(1) {
            line.push_str(&format!("  {cell:>width$}"));
        }
        line
    };
    writeln!(
        out,
        "{HEADING}{}{HEADING:#}",
        line(&COLUMNS.map(str::to_owned))
    )?;
    for row in &rows {
        writeln!(out, "{}", line(row))?;
    }
    Ok(())
}

fn cells(row: &Row) -> [String; 12] {
    let account = &row.account;
    let time = |time| match account.delivered {
        0 => "-".to_owned(),
        _ => milliseconds(time),
    };
    [
        row.name.clone(),
        grouped(row.connections as u64),
        grouped(row.live as u64),
        grouped(account.delivered),
        grouped(account.lost),
        grouped(account.repeated),
        grouped(account.out_of_order + account.strays),
        grouped(account.resets),
        time(row.latency.p50),
        time(row.latency.p99),
        time(row.latency.p999),
        time(row.latency.max),
    ]
}

fn lines(outcome: &Outcome) -> Vec<String> {
    let published = &outcome.published;
    let mut lines = vec![format!(
        "connected in {}; published {} events, {} failed, answered in {} (99 %: {}); {} deliveries/s",
        seconds(outcome.opened_in_seconds),
        grouped(published.accepted),
        grouped(published.failed),
        milliseconds(published.answered.p50),
        milliseconds(published.answered.p99),
        grouped(outcome.deliveries_per_second as u64)
    )];
    if outcome.hops > 0 {
        lines.push(format!(
            "{} hops to another transport",
            grouped(outcome.hops)
        ));
    }
    if outcome.total.account.missed_by_reset > 0 {
        lines.push(format!(
            "resets told of {} missed events, which do not count as lost",
            grouped(outcome.total.account.missed_by_reset)
        ));
    }
    if let Some(back) = &outcome.catch_up {
        lines.push(format!(
            "all back at once: {} of {} clients had what they missed after {}, {} deliveries; a client after {} (99 %: {})",
            grouped(back.complete as u64),
            grouped(back.clients as u64),
            seconds(back.seconds),
            grouped(back.deliveries),
            milliseconds(back.client.p50),
            milliseconds(back.client.p99)
        ));
    }
    if let Some(cost) = &outcome.gateway {
        lines.push(format!(
            "gateway: {:.2} µs of CPU a delivery, publishing included; {:.1} KiB an idle connection; memory {} before, {} with \
             all connected, {} at the end",
            cost.cpu_microseconds_per_delivery,
            cost.bytes_per_idle_connection / 1024.0,
            mebibytes(cost.memory_before_bytes),
            mebibytes(cost.memory_idle_bytes),
            mebibytes(cost.memory_after_bytes)
        ));
    }
    lines.push(format!(
        "bench: {} thread{} of clients, busy for {:.0} % of the time",
        outcome.bench.threads,
        if outcome.bench.threads == 1 { "" } else { "s" },
        outcome.bench.busy * 100.0
    ));
    lines
}

fn print_complaints(what: &str, complaints: &[Complaint], out: &mut impl Write) -> io::Result<()> {
    for complaint in complaints {
        writeln!(
            out,
            "{what}: {} × {}",
            grouped(complaint.count),
            complaint.what
        )?;
    }
    Ok(())
}

fn print_verdict(outcome: &Outcome, out: &mut impl Write) -> io::Result<()> {
    if outcome.ok {
        return writeln!(
            out,
            "{GOOD}every client got every event, once and in order{}{GOOD:#}",
            if outcome.total.account.resets > 0 {
                ", or was told of a gap"
            } else {
                ""
            }
        );
    }
    let total = &outcome.total;
    let account = &total.account;
    let away = total.connections - total.live;
    let faults = [
        (account.lost, "lost"),
        (account.repeated, "repeated"),
        (account.out_of_order, "out of order"),
        (account.strays, "of topics that were not subscribed"),
    ];
    let mut told: Vec<_> = faults
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{} events {what}", grouped(count)))
        .collect();
    if away > 0 {
        told.push(format!("{} clients not let in", grouped(away as u64)));
    }
    if let Some(back) = &outcome.catch_up
        && back.complete < back.clients
    {
        told.push(format!(
            "{} clients not back",
            grouped((back.clients - back.complete) as u64)
        ));
    }
    if outcome.published.accepted == 0 {
        told.push("nothing published".to_owned());
    }
    writeln!(out, "{BAD}{}{BAD:#}", told.join(", "))
}

fn seconds(seconds: f64) -> String {
    if seconds >= 10.0 || seconds.fract() == 0.0 {
        format!("{seconds:.0} s")
    } else {
        format!("{seconds:.2} s")
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// With commas between thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.char_indices() {
        if place > 0 && (digits.len() - place) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_told_apart() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(grouped(number), text);
        }
    }
}
