//! A chart of lines as SVG, which takes its colours from the page.

use std::fmt::Write;

const WIDTH: f64 = 880.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 72.0;
const RIGHT: f64 = 32.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 34.0;

/// About so many lines across, where the scale leaves it open.
const TICKS: f64 = 5.0;

/// What a chart shows, with what is written along its axes.
pub struct Chart<'a> {
    /// What a screen reader says of it.
    pub label: &'a str,
    pub lines: Vec<Line>,
    /// Where there is something to read off, and what.
    pub across: Vec<(f64, String)>,
    pub up: Scale,
    /// A value of the vertical axis, for people.
    pub show: fn(f64) -> String,
}

pub struct Line {
    /// Its place among the colours of the page, from 0.
    pub color: usize,
    pub points: Vec<(f64, f64)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// From 0.
    Linear,
    /// Of what is above 0.
    Log,
}

/// The vertical axis.
struct Axis {
    scale: Scale,
    low: f64,
    high: f64,
    ticks: Vec<f64>,
}

impl Chart<'_> {
    /// The `svg` element.
    pub fn svg(&self) -> String {
        let axis = self.axis();
        let mut svg = format!(
            r#"<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{}">"#,
            self.label
        );
        for tick in &axis.ticks {
            let y = axis.place(*tick);
            let end = WIDTH - RIGHT;
            put(
                &mut svg,
                format_args!(
                    r#"<line class="grid" x1="{LEFT}" x2="{end}" y1="{y:.1}" y2="{y:.1}"/>"#
                ),
            );
            let (x, y, text) = (LEFT - 8.0, y + 4.0, (self.show)(*tick));
            put(
                &mut svg,
                format_args!(r#"<text class="up" x="{x}" y="{y:.1}">{text}</text>"#),
            );
        }
        for (at, text) in &self.across {
            let (x, end) = (self.x(*at), HEIGHT - BOTTOM);
            put(
                &mut svg,
                format_args!(
                    r#"<line class="grid" x1="{x:.1}" x2="{x:.1}" y1="{TOP}" y2="{end}"/>"#
                ),
            );
            let y = end + 20.0;
            put(
                &mut svg,
                format_args!(r#"<text class="across" x="{x:.1}" y="{y}">{text}</text>"#),
            );
        }
        for line in &self.lines {
            let points: String = line.points.iter().fold(String::new(), |mut all, (x, y)| {
                put(
                    &mut all,
                    format_args!("{:.1},{:.1} ", self.x(*x), axis.place(*y)),
                );
                all
            });
            let color = line.color;
            put(
                &mut svg,
                format_args!(
                    r#"<polyline class="line c{color}" points="{}"/>"#,
                    points.trim_end()
                ),
            );
        }
        svg.push_str("</svg>");
        svg
    }

    fn x(&self, value: f64) -> f64 {
        let ticks = self.across.iter().map(|(at, _)| *at);
        let points = self
            .lines
            .iter()
            .flat_map(|line| &line.points)
            .map(|(x, _)| *x);
        let (low, high) = ticks
            .chain(points)
            .fold((f64::MAX, f64::MIN), |(low, high), x| {
                (low.min(x), high.max(x))
            });
        let span = if high > low { high - low } else { 1.0 };
        LEFT + (value - low) / span * (WIDTH - LEFT - RIGHT)
    }

    fn axis(&self) -> Axis {
        let values = self
            .lines
            .iter()
            .flat_map(|line| &line.points)
            .map(|(_, y)| *y);
        match self.up {
            Scale::Linear => Axis::linear(values.fold(0.0, f64::max)),
            Scale::Log => {
                let positive = values.filter(|value| *value > 0.0);
                let (low, high) = positive.fold((f64::MAX, f64::MIN), |(low, high), y| {
                    (low.min(y), high.max(y))
                });
                if high < low {
                    Axis::log(1.0, 10.0)
                } else {
                    Axis::log(low, high)
                }
            }
        }
    }
}

impl Axis {
    fn linear(high: f64) -> Self {
        let step = round_step(high.max(1.0) / TICKS);
        let count = (high.max(1.0) / step).ceil() as usize;
        Self {
            scale: Scale::Linear,
            low: 0.0,
            high: count as f64 * step,
            ticks: (0..=count).map(|tick| tick as f64 * step).collect(),
        }
    }

    /// From the power of ten below to the one above.
    fn log(low: f64, high: f64) -> Self {
        let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
        let last = last.max(first + 1);
        Self {
            scale: Scale::Log,
            low: f64::from(first),
            high: f64::from(last),
            ticks: (first..=last).map(|power| 10f64.powi(power)).collect(),
        }
    }

    fn place(&self, value: f64) -> f64 {
        let value = match self.scale {
            Scale::Linear => value,
            Scale::Log => value.max(f64::MIN_POSITIVE).log10().max(self.low),
        };
        let share = (value - self.low) / (self.high - self.low);
        HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)
    }
}

/// The next of 1, 2 and 5 times a power of ten.
pub fn round_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    let factors = [1.0, 2.0, 5.0, 10.0];
    let factor = factors
        .into_iter()
        .find(|factor| factor * power >= step * 0.999);
    factor.unwrap_or(10.0) * power
}

fn put(text: &mut String, part: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = text.write_fmt(part);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round() {
        for (step, round) in [
            (0.7, 1.0),
            (1.0, 1.0),
            (1.2, 2.0),
            (30.0, 50.0),
            (70_000.0, 100_000.0),
        ] {
            assert!((round_step(step) - round).abs() < 1e-9, "{step}");
        }
    }

    #[test]
    fn all_points_are_within_the_chart_and_nothing_is_no_number() {
        for (up, points) in [
            (
                Scale::Linear,
                vec![(0.0, 0.0), (1.0, 7.0), (9.0, 123_456.0)],
            ),
            (Scale::Log, vec![(0.0, 0.0), (1.0, 0.03), (2.0, 4000.0)]),
            (Scale::Log, vec![]),
            (Scale::Linear, vec![(3.0, 0.0)]),
        ] {
            let chart = Chart {
                label: "a chart",
                lines: vec![Line { color: 0, points }],
                across: vec![(0.0, "0".to_owned())],
                up,
                show: |value| value.to_string(),
            };
            let svg = chart.svg();
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
            let (_, points) = svg.split_once("points=\"").expect("points");
            for point in points
                .split('"')
                .next()
                .unwrap_or_default()
                .split_whitespace()
            {
                let (x, y) = point.split_once(',').expect("a point");
                let inside =
                    |text: &str, most: f64| (0.0..=most).contains(&text.parse().expect("a number"));
                assert!(inside(x, WIDTH) && inside(y, HEIGHT), "{point} in {svg}");
            }
        }
    }
}
