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
    for line in notes(outcome) {
        writeln!(out, "{line}")?;
    }
    writeln!(out)?;
    let style = if outcome.ok { GOOD } else { BAD };
    writeln!(out, "{style}{}{style:#}", verdict(outcome))
}

/// What stands below the table.
pub fn notes(outcome: &Outcome) -> Vec<String> {
    let mut notes = lines(outcome);
    for (what, complaints) in [
        ("not let in", &outcome.refused),
        ("had to try again", &outcome.delayed),
        ("cut while live", &outcome.cut),
        ("not published", &outcome.published.failures),
    ] {
        let told = complaints.iter();
        notes.extend(
            told.map(|Complaint { what: why, count }| {
                format!("{what}: {} × {why}", grouped(*count))
            }),
        );
    }
    let doubts = outcome.doubts().into_iter();
    notes.extend(doubts.map(|doubt| format!("note: {doubt}")));
    notes
}

/// What was asked for.
pub fn title(outcome: &Outcome) -> String {
    format!(
        "{}{}: {}, {}, {} events/s of {} bytes for {}",
        outcome.url,
        outcome
            .peer
            .map_or(String::new(), |peer| format!(" ({peer})")),
        counted(outcome.connections as u64, "connection"),
        counted(u64::from(outcome.topics), "topic"),
        grouped(u64::from(outcome.rate)),
        outcome.size,
        seconds(outcome.duration_seconds)
    )
}

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

type Cells = [String; COLUMNS.len()];

/// The heads of the columns, and the rows.
pub fn columns(outcome: &Outcome) -> (Cells, Vec<Cells>) {
    let mut rows: Vec<_> = outcome.groups.iter().map(cells).collect();
    if rows.len() > 1 {
        rows.push(cells(&outcome.total));
    }
    (COLUMNS.map(str::to_owned), rows)
}

fn print_clients(outcome: &Outcome, out: &mut impl Write) -> io::Result<()> {
    let (head, rows) = columns(outcome);
    let width = |column: usize| {
        let cells = rows
            .iter()
            .chain([&head])
            .map(|row: &Cells| row[column].chars().count());
        cells.max().unwrap_or_default()
    };
    let widths: [usize; COLUMNS.len()] = std::array::from_fn(width);
    let line = |cells: &Cells| {
        let numbers = cells.iter().zip(widths).skip(1);
        numbers.fold(
            format!("{:<1$}", cells[0], widths[0]),
            |line, (cell, width)| format!("{line}  {cell:>width$}"),
        )
    };
    writeln!(out, "{HEADING}{}{HEADING:#}", line(&head))?;
    for row in &rows {
        writeln!(out, "{}", line(row))?;
    }
    Ok(())
}

fn cells(row: &Row) -> Cells {
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
            "{} to another transport",
            counted(outcome.hops, "hop")
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
            "all back at once: {} of {} clients had what they missed{}",
            grouped(back.complete as u64),
            grouped(back.clients as u64),
            if back.complete == 0 {
                String::new()
            } else {
                format!(
                    " after {}, {} deliveries; a client after {} (99 %: {})",
                    seconds(back.seconds),
                    grouped(back.deliveries),
                    milliseconds(back.client.p50),
                    milliseconds(back.client.p99)
                )
            }
        ));
    }
    if let Some(cost) = &outcome.gateway {
        lines.push(format!(
            "{}: {:.2} µs of CPU a delivery, publishing included; {:.1} KiB an idle connection; memory {} before, {} with \
             all connected, {} at the end",
            outcome.peer.unwrap_or("gateway"),
            cost.cpu_microseconds_per_delivery,
            cost.bytes_per_idle_connection / 1024.0,
            mebibytes(cost.memory_before_bytes),
            mebibytes(cost.memory_idle_bytes),
            mebibytes(cost.memory_after_bytes)
        ));
    }
    lines.push(format!(
        "bench: {} of clients, busy for {:.0} % of the time",
        counted(outcome.bench.threads as u64, "thread"),
        outcome.bench.busy * 100.0
    ));
    lines
}

/// What came of it, in a line.
pub fn verdict(outcome: &Outcome) -> String {
    if outcome.ok {
        let told = if outcome.total.account.resets > 0 {
            ", or was told of a gap"
        } else {
            ""
        };
        return format!("every client got every event, once and in order{told}");
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
        .map(|(count, what)| format!("{} {what}", counted(count, "event")))
        .collect();
    if away > 0 {
        told.push(format!("{} not let in", counted(away as u64, "client")));
    }
    if let Some(back) = &outcome.catch_up
        && back.complete < back.clients
    {
        told.push(format!(
            "{} not back",
            counted((back.clients - back.complete) as u64, "client")
        ));
    }
    if outcome.published.accepted == 0 {
        told.push("nothing published".to_owned());
    }
    told.join(", ")
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

/// So many of these.
fn counted(number: u64, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {what}{plural}", grouped(number))
}

/// With commas between thousands.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.char_indices() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
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
