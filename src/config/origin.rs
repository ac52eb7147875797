//! Where each value of the configuration comes from.

use std::{collections::BTreeMap, ffi::OsString, fmt};

use toml::de::{DeTable, DeValue};

use super::ENVIRONMENT_PREFIX;

/// What set a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nothing did.
    Default,
    /// The file, in this line (from 1).
    File { line: usize },
    /// The environment variable of this name.
    Variable(String),
    /// The flag of this name, without its hyphens.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { line } => write!(f, "file, line {line}"),
            Self::Variable(name) => f.write_str(name),
            Self::Flag(name) => write!(f, "flag --{name}"),
        }
    }
}

/// The origins of all keys.
#[derive(Clone, Debug, Default)]
pub struct Origins(BTreeMap<String, Origin>);

impl Origins {
    /// `toml` is the text of the file; `flags` are dotted keys. What wins comes later here.
    pub(super) fn of(
        toml: &str,
        variables: impl Iterator<Item = OsString>,
        flags: impl Iterator<Item = String>,
    ) -> Self {
        let mut origins = BTreeMap::new();
        // A file that is no TOML was refused before.
        if let Ok(document) = DeTable::parse(toml) {
            note_table(toml, "", document.get_ref(), &mut origins);
        }
        for name in variables.filter_map(|name| name.into_string().ok()) {
            if let Some(key) = key_of_variable(&name) {
                origins.insert(key, Origin::Variable(name));
            }
        }
        for key in flags {
            let flag = key.replace('_', "-");
            origins.insert(key, Origin::Flag(flag));
        }
        Self(origins)
    }

    pub fn origin(&self, key: &str) -> &Origin {
        self.0.get(key).unwrap_or(&Origin::Default)
    }

    pub fn is_set(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// All keys that are set, in alphabetical order.
    pub fn set(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The keys of this section that are set, in alphabetical order.
    pub fn set_in<'a>(&'a self, section: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.keys().map(String::as_str).filter(move |key| {
            key.strip_prefix(section)
                .is_some_and(|rest| rest.starts_with('.'))
        })
    }
}

fn note_table(
    text: &str,
    prefix: &str,
    table: &DeTable<'_>,
    origins: &mut BTreeMap<String, Origin>,
) {
    for (name, value) in table.iter() {
        let key = format!("{prefix}{}", name.get_ref());
        match value.get_ref() {
            DeValue::Table(inner) => note_table(text, &format!("{key}."), inner, origins),
            _ => {
                let before = text.get(..name.span().start).unwrap_or_default();
                let line = before.matches('\n').count() + 1;
                origins.insert(key, Origin::File { line });
            }
        }
    }
}

/// As the `config` crate reads them.
fn key_of_variable(name: &str) -> Option<String> {
    let lower = name.to_lowercase();
    let key = lower.strip_prefix(&format!("{}__", ENVIRONMENT_PREFIX.to_lowercase()))?;
    Some(key.replace("__", "."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origins(toml: &str, variables: &[&str], flags: &[&str]) -> Origins {
        Origins::of(
            toml,
            variables.iter().map(OsString::from),
            flags.iter().map(|&flag| flag.to_owned()),
        )
    }

    #[test]
    fn a_flag_wins_over_a_variable_and_a_variable_over_the_file() {
        let toml = "listen = 'a'\nadmin_listen = 'b'\nheartbeat = '1s'\n";
        let variables = ["TRIBUS__LISTEN", "TRIBUS__ADMIN_LISTEN", "PATH"];
        let origins = origins(toml, &variables, &["admin_listen"]);
        for (key, told) in [
            ("listen", "TRIBUS__LISTEN"),
            ("admin_listen", "flag --admin-listen"),
            ("heartbeat", "file, line 3"),
            ("workers", "default"),
        ] {
            assert_eq!(origins.origin(key).to_string(), told);
        }
    }

    #[test]
    fn a_key_of_the_file_is_found_however_its_section_is_written() {
        let toml = "auth.cookie = 'c'\nlimits = { nesting = 5,\n  patterns = 7 }\n\n[auth.hook]\n# é\nurl = 'x'\n\
                    headers = [\n 'a',\n]\ntimeout = '1s'\n";
        let origins = origins(toml, &["tribus__Auth__Hook__Cache"], &[]);
        for (key, line) in [
            ("auth.cookie", 1),
            ("limits.nesting", 2),
            ("limits.patterns", 3),
            ("auth.hook.url", 7),
            ("auth.hook.headers", 8),
            ("auth.hook.timeout", 11),
        ] {
            assert_eq!(origins.origin(key), &Origin::File { line }, "{key}");
        }
        let told = origins.origin("auth.hook.cache").to_string();
        assert_eq!(told, "tribus__Auth__Hook__Cache", "as it is written");
        let set: Vec<_> = origins.set_in("auth.hook").collect();
        let expected = ["cache", "headers", "timeout", "url"].map(|key| format!("auth.hook.{key}"));
        assert_eq!(set, expected);
        assert_eq!(origins.set_in("auth.ho").count(), 0);
    }
}
