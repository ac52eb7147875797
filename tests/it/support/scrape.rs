use std::{collections::BTreeMap, time::Duration};

use super::{TestGateway, within};

/// What one scrape of `/metrics` said, read strictly.
#[derive(Debug)]
pub struct Scrape {
    pub text: String,
    /// By name and labels as they stand there, such as `tribus_x_total{transport="ws"}`.
    samples: BTreeMap<String, f64>,
}

impl TestGateway {
    pub async fn scrape(&self) -> Scrape {
        let answer = self.http.get(self.admin_url("/metrics")).send();
        let answer = within("a scrape", answer).await.expect("an answer");
        assert_eq!(answer.status(), 200);
        Scrape::read(answer.text().await.expect("text"))
    }

    /// Scrapes until what is said fits.
    pub async fn scrape_until(&self, what: &str, fits: impl Fn(&Scrape) -> bool) -> Scrape {
        let fitting = async {
            loop {
                let scrape = self.scrape().await;
                if fits(&scrape) {
                    return scrape;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        within(what, fitting).await
    }
}

impl Scrape {
    /// Reads the text format of OpenMetrics 1.0, as far as it is used: a family is announced by
    /// HELP and TYPE, its samples follow it, and nothing comes twice.
    fn read(text: String) -> Self {
        let mut samples = BTreeMap::new();
        let body = text.strip_suffix("# EOF\n").expect("an end mark");
        let (mut family, mut kind) = ("", "");
        let mut families = Vec::new();
        for line in body.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, words) = help.split_once(' ').expect("a help");
                assert!(!families.contains(&name), "{name} comes twice");
                assert!(name.starts_with("tribus_") && words.len() > 10, "{line}");
                families.push(name);
                family = name;
            } else if let Some(named) = line.strip_prefix("# TYPE ") {
                let (name, named) = named.split_once(' ').expect("a type");
                assert_eq!(name, family, "{line}");
                kind = named;
            } else if let Some(unit) = line.strip_prefix("# UNIT ") {
                let (name, unit) = unit.split_once(' ').expect("a unit");
                assert!(name == family && name.ends_with(unit), "{line}");
            } else {
                let (series, value) = line.rsplit_once(' ').expect("a sample");
                let name = series.split_once('{').map_or(series, |(name, _)| name);
                let suffix = name.strip_prefix(family).expect("a sample of the family");
                let allowed: &[&str] = match kind {
                    "counter" => &["_total"],
                    "gauge" => &[""],
                    "info" => &["_info"],
                    "histogram" => &["_sum", "_count", "_bucket"],
                    other => panic!("{other}: {line}"),
                };
                assert!(allowed.contains(&suffix), "{line}");
                let value = value.parse().expect("a number");
                let before = samples.insert(series.to_owned(), value);
                assert!(before.is_none(), "{series} comes twice");
            }
        }
        Self { text, samples }
    }

    /// The value of a series; 0 where it is not there, as Prometheus' `increase` has it.
    pub fn value(&self, series: &str) -> f64 {
        self.samples.get(series).copied().unwrap_or(0.0)
    }

    pub fn has(&self, series: &str) -> bool {
        self.samples.contains_key(series)
    }

    /// Each series whose name and labels begin so.
    pub fn series<'a>(&'a self, start: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
        let from = self.samples.range(start.to_owned()..);
        from.take_while(move |(series, _)| series.starts_with(start))
            .map(|(series, value)| (series.as_str(), *value))
    }
}
