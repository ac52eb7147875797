//! What `docs/operations.md` and `deploy/alerts.yml` name is there.

use std::{collections::BTreeSet, process::Command};

use tribus::config::{Config, Size, keys};

use super::{path, read};
use crate::support::TestGateway;

const PAGE: &str = "docs/operations.md";

/// What stands between backticks, blocks left out.
fn code(page: &str) -> Vec<String> {
    let mut code = Vec::new();
    for (number, text) in page.split("\n```").enumerate() {
        if number % 2 == 0 {
            code.extend(text.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    code
}

fn words_with(prefix: &str, text: &str) -> BTreeSet<String> {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c| !is_of_name(c));
    let found = words.filter(|word| word.starts_with(prefix) && *word != prefix);
    found.map(str::to_owned).collect()
}

#[test]
fn every_key_that_the_page_names_is_one() {
    let keys = keys();
    let is_section = |name: &str| keys.iter().any(|key| key.starts_with(&format!("{name}.")));
    let mut named = 0;
    for code in code(&read(PAGE)) {
        // With an example of its value, or without.
        let name = code.split(" = ").next().unwrap_or_default();
        let (first, _) = name.split_once('.').unwrap_or((name, ""));
        let looks_like_one = name.contains('.') && is_section(first);
        if looks_like_one && !name.contains(['*', '/']) {
            assert!(
                keys.iter().any(|key| key == name) || is_section(name),
                "{name}"
            );
            named += 1;
        }
    }
    assert!(named > 20, "{named}");
}

#[test]
fn every_link_of_the_page_leads_somewhere() {
    let page = read(PAGE);
    let mut links = 0;
    for link in page.split("](").skip(1) {
        let (link, _) = link.split_once(')').expect("its end");
        let (file, place) = link.split_once('#').unwrap_or((link, ""));
        let text = match file {
            "" => page.clone(),
            file => {
                let file = format!("docs/{file}");
                assert!(path(&file).exists(), "{link}");
                read(&file)
            }
        };
        let anchors = text
            .lines()
            .filter(|line| line.starts_with('#'))
            .map(|line| {
                let title = line.trim_start_matches('#').trim().to_lowercase();
                title.replace(' ', "-")
            });
        assert!(
            place.is_empty() || anchors.into_iter().any(|anchor| anchor == place),
            "{link}"
        );
        links += 1;
    }
    assert!(links > 5, "{links}");
}

#[test]
fn the_tightened_limits_are_good_ones_and_each_is_below_its_default() {
    let page = read(PAGE);
    let (_, block) = page.split_once("\n```toml\n").expect("a block");
    let (toml, rest) = block.split_once("\n```").expect("its end");
    assert!(!rest.contains("\n```toml"), "one block");
    let tightened = Config::from_toml(toml).unwrap_or_else(|error| panic!("{error}"));
    let limits = |config: &Config| toml::Table::try_from(&config.limits).expect("a table");
    let (tightened, defaults) = (limits(&tightened), limits(&Config::default()));
    let named: toml::Table = toml.parse().expect("TOML");
    for (name, _) in named["limits"].as_table().expect("a section") {
        let size = |limits: &toml::Table| match &limits[name] {
            toml::Value::Integer(number) => *number as u64,
            text => text.clone().try_into::<Size>().expect("a size").0 as u64,
        };
        assert!(size(&tightened) < size(&defaults), "{name}");
    }
}

#[test]
fn every_kernel_setting_of_the_page_is_one() {
    let page = read(PAGE);
    let (_, block) = page.split_once("\n```sysctl\n").expect("a block");
    let (block, _) = block.split_once("```").expect("its end");
    let settings: Vec<_> = block
        .lines()
        .filter_map(|line| line.split_once(" = "))
        .collect();
    assert!(settings.len() > 3, "{settings:?}");
    for (name, value) in settings {
        let file = format!("/proc/sys/{}", name.replace('.', "/"));
        let now = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{file}: {error}"));
        let numbers = |text: &str| text.split_whitespace().count();
        assert_eq!(numbers(value), numbers(&now), "{name} is now {now}");
    }
}

#[test]
fn every_alert_watches_a_metric_of_the_page_and_is_told_there() {
    let (page, alerts) = (read(PAGE), read("deploy/alerts.yml"));
    let documented = words_with("tribus_", &page);
    for metric in words_with("tribus_", &alerts) {
        // The parts of a histogram have names of their own.
        let family = metric.trim_end_matches("_bucket");
        assert!(documented.contains(family), "{metric} is not in {PAGE}");
        let row = page.lines().find(|line| {
            line.starts_with("| `tribus_") && words_with("tribus_", line).contains(family)
        });
        let row = row.unwrap_or_else(|| panic!("{family}"));
        let is_told =
            row.contains("page:") || row.contains("icket:") || family.ends_with("_max_fds");
        assert!(is_told, "no alert is told of {family}: {row}");
    }
}

/// The first column of the table.
fn documented_metrics() -> BTreeSet<String> {
    let page = read(PAGE);
    let rows = page.lines().filter(|line| line.starts_with("| `tribus_"));
    rows.filter_map(|row| row.split('|').nth(1))
        .flat_map(|column| words_with("tribus_", column))
        .collect()
}

#[tokio::test]
async fn the_page_has_every_metric_and_no_other_and_alerts_ask_for_labels_that_there_are() {
    let gateway = TestGateway::start().await;
    let exposed = reqwest::get(gateway.admin_url("/metrics")).await.unwrap();
    let exposed = exposed.text().await.unwrap();
    let families = exposed
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "));
    let exposed_names: BTreeSet<_> = families
        .map(|family| match family.split_once(' ').expect("a type") {
            (name, "counter") => format!("{name}_total"),
            (name, "info") => format!("{name}_info"),
            (name, _) => name.to_owned(),
        })
        .collect();
    assert_eq!(documented_metrics(), exposed_names);
    // The families whose series are all there from the start.
    let alerts = read("deploy/alerts.yml");
    let mut asked = 0;
    for label in ["limit", "reason"] {
        for part in alerts.split(&format!("{{{label}=~\"")).skip(1) {
            for value in part.split('"').next().expect("its end").split('|') {
                let series = format!("{label}=\"{value}\"");
                assert!(exposed.contains(&series), "no series with {series}");
                asked += 1;
            }
        }
    }
    assert!(asked >= 6, "{asked}");
}

/// With series of a node that is well and of one with everything wrong.
#[test]
fn each_alert_fires_where_it_should_and_none_where_all_is_well() {
    let directory = tempfile::tempdir().unwrap();
    for (file, to) in [
        ("deploy/alerts.yml", "alerts.yml"),
        ("tests/it/deployment/alerts.test.yml", "alerts.test.yml"),
    ] {
        std::fs::copy(path(file), directory.path().join(to)).unwrap();
    }
    for arguments in [
        ["check", "rules", "alerts.yml"],
        ["test", "rules", "alerts.test.yml"],
    ] {
        let run = Command::new("promtool")
            .args(arguments)
            .current_dir(directory.path())
            .output()
            .expect("promtool, which scripts/test-tools.sh installs");
        let told = String::from_utf8_lossy(&run.stdout) + String::from_utf8_lossy(&run.stderr);
        assert!(run.status.success(), "{told}");
    }
    let (alerts, test) = (
        read("deploy/alerts.yml"),
        read("tests/it/deployment/alerts.test.yml"),
    );
    for alert in alerts.split("alert: ").skip(1) {
        let name = alert.lines().next().unwrap();
        assert!(test.contains(&format!("alertname=\"{name}\"")), "{name}");
    }
}
