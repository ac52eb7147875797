//! The configuration written out as TOML, with the origin of each value behind it.

use std::{fmt, path::Path};

use anstyle::Style;
use toml::{Table, Value};

use crate::config::{Config, Origin, Origins, keys};

/// Comments stand in one column, unless the value in front takes more than this.
const MOST_COLUMN: usize = 44;

const QUIET: Style = Style::new().dimmed();
const LOUD: Style = Style::new().bold();

/// Displays with styles for a terminal, which `anstream` takes out where there is none.
pub struct Effective {
    sections: Vec<Section>,
}

#[derive(Default)]
struct Section {
    /// Empty for the keys of the top.
    name: String,
    settings: Vec<Setting>,
}

struct Setting {
    /// Name and value; of a secret a comment, so that one that did not arrive is noticed.
    text: String,
    origin: String,
    is_default: bool,
}

impl Effective {
    /// `file` is where the configuration was read from.
    ///
    /// # Errors
    /// Where the configuration has no form in TOML.
    pub fn new(config: &Config, origins: &Origins, file: Option<&Path>) -> anyhow::Result<Self> {
        let values = Table::try_from(config)?;
        let mut sections = vec![Section::default()];
        for key in keys() {
            let origin = origins.origin(&key);
            let Some(text) = text(config, &key, look_up(&values, &key), origin) else {
                continue;
            };
            let setting = Setting {
                text,
                origin: told(origin, file),
                is_default: *origin == Origin::Default,
            };
            let (of, _) = split(&key);
            match sections.last_mut() {
                Some(section) if section.name == of => section.settings.push(setting),
                _ => sections.push(Section {
                    name: of.to_owned(),
                    settings: vec![setting],
                }),
            }
        }
        Ok(Self { sections })
    }
}

/// Section and name.
fn split(key: &str) -> (&str, &str) {
    key.rsplit_once('.').unwrap_or(("", key))
}

/// `None` where an optional key is not set. What is set and not written out is a secret.
fn text(config: &Config, key: &str, value: Option<&Value>, origin: &Origin) -> Option<String> {
    let (_, name) = split(key);
    match value {
        Some(value) => Some(format!("{name} = {value}")),
        None if *origin == Origin::Default => None,
        None if key == "auth.previous_secrets" => {
            let count = config.auth.previous_secrets.0.len();
            Some(format!("# {name} is set, to {count}"))
        }
        None => Some(format!("# {name} is set")),
    }
}

fn look_up<'a>(values: &'a Table, key: &str) -> Option<&'a Value> {
    match key.split_once('.') {
        None => values.get(key),
        Some((section, rest)) => look_up(values.get(section)?.as_table()?, rest),
    }
}

fn told(origin: &Origin, file: Option<&Path>) -> String {
    let told = match (origin, file) {
        (Origin::File { line }, Some(file)) => format!("{}:{line}", file.display()),
        _ => origin.to_string(),
    };
    // A comment ends with its line, and no name of a file may end it before.
    told.replace(char::is_control, "?")
}

impl fmt::Display for Effective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.sections.iter().try_for_each(|section| section.fmt(f))
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.name.is_empty() {
            writeln!(f, "\n{LOUD}[{}]{LOUD:#}", self.name)?;
        }
        let widths = self.settings.iter().map(Setting::width);
        let column = widths.filter(|width| *width <= MOST_COLUMN).max();
        let column = column.unwrap_or_default();
        self.settings
            .iter()
            .try_for_each(|setting| setting.write(f, column))
    }
}

impl Setting {
    fn width(&self) -> usize {
        self.text.chars().count()
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, column: usize) -> fmt::Result {
        let style = if self.is_default { QUIET } else { Style::new() };
        let (text, origin) = (&self.text, &self.origin);
        // Behind a text of several lines a comment would be overlooked.
        if text.contains('\n') {
            writeln!(f, "{style}# {origin}{style:#}\n{text}")
        } else {
            writeln!(f, "{text:column$}  {style}# {origin}{style:#}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn effective(toml: &str) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), toml).unwrap();
        let (config, origins) = Config::load_explained(Some(file.path()), &[]).unwrap();
        let name = Path::new("t.toml");
        let effective = Effective::new(&config, &origins, Some(name)).unwrap();
        anstream::adapter::strip_str(&effective.to_string()).to_string()
    }

    #[test]
    fn it_reads_back_as_the_same_configuration() {
        let toml = "workers = 3\n[auth]\nissuer = \"line\\nbreak # \\\"quoted\\\"\"\n\
                    default_subscribe = [\"a:{sub}\", \"b # c\"]\n[telemetry]\nsample_ratio = 1.0";
        let config = Config::from_toml(toml).unwrap();
        let told = effective(toml);
        let reread = Config::from_toml(&told).unwrap_or_else(|error| panic!("{error}: {told}"));
        assert_eq!(
            toml::to_string(&reread).unwrap(),
            toml::to_string(&config).unwrap()
        );
    }

    #[test]
    fn each_value_has_its_origin_in_one_column_of_its_section() {
        let told = effective("workers = 3\n\n[auth]\ncookie = \"c\"");
        let line = |start: &str| {
            let line = told.lines().find(|line| line.starts_with(start));
            line.unwrap_or_else(|| panic!("{start} in {told}"))
        };
        assert!(line("workers").ends_with("  # t.toml:1"), "{told}");
        assert!(line("cookie").ends_with("  # t.toml:4"), "{told}");
        assert!(line("listen").ends_with("  # default"), "{told}");
        let column = |start| line(start).rfind(" # ").unwrap();
        assert_eq!(column("workers"), column("admin_listen"));
        assert!(!told.contains("issuer"), "not set: {told}");
    }

    #[test]
    fn of_secrets_it_tells_only_that_they_are_there_and_where_they_were_set() {
        let plain = effective("");
        assert!(!plain.contains("secret"), "{plain}");
        let toml = "[auth]\nhs256_secret = \"s3cret\"\nprevious_secrets = [\"s3cret\", \"s3cret\"]\n\
                    [auth.hook]\nurl = \"http://localhost\"\nheaders = [\"x-session\"]\nsecret = \"s3cret\"";
        let told = effective(toml);
        for (text, origin) in [
            ("# hs256_secret is set ", "  # t.toml:2"),
            ("# previous_secrets is set, to 2 ", "  # t.toml:3"),
            ("# secret is set ", "  # t.toml:7"),
        ] {
            let line = told.lines().find(|line| line.starts_with(text));
            assert!(line.is_some_and(|line| line.ends_with(origin)), "{told}");
        }
        assert!(!told.contains("s3cret"), "{told}");
    }

    #[test]
    fn no_name_of_a_file_ends_its_comment() {
        let origin = told(&Origin::File { line: 1 }, Some(Path::new("a\nlisten = 1")));
        assert_eq!(origin, "a?listen = 1:1");
    }
}
