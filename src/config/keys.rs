//! The names of all keys, as the types of the configuration tell them: optional ones and secrets
//! too, so that none can be forgotten where all are shown.

use std::cell::Cell;

use serde::{
    Deserialize, Deserializer,
    de::{
        Error as _, Visitor,
        value::{Error, MapDeserializer},
    },
    forward_to_deserialize_any,
};

use super::Config;

/// Every key with its sections, such as `auth.hook.url`, in the order of declaration but with the
/// keys of a table before its sub-tables, as TOML wants them.
pub fn keys() -> Vec<String> {
    let mut keys = Vec::new();
    collect(&mut Vec::new(), &mut keys);
    keys
}

fn collect(way: &mut Vec<&'static str>, keys: &mut Vec<String>) {
    let mut sections = Vec::new();
    for field in fields(way).unwrap_or_default() {
        way.push(field);
        match fields(way) {
            Some(_) => sections.push(*field),
            None => keys.push(way.join(".")),
        }
        way.pop();
    }
    for section in sections {
        way.push(section);
        collect(way, keys);
        way.pop();
    }
}

/// The fields of the section at the end of this way; `None` where a value stands there.
fn fields(way: &[&'static str]) -> Option<&'static [&'static str]> {
    let found = Cell::new(None);
    let probe = Probe { way, found: &found };
    // Always an error: there is nothing to read.
    let _ = Config::deserialize(probe);
    found.get()
}

/// Goes down to one place of the types, notes what they ask for there, and gives nothing.
#[derive(Clone, Copy)]
struct Probe<'a> {
    way: &'a [&'static str],
    found: &'a Cell<Option<&'static [&'static str]>>,
}

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(Error::custom("a value"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let Some((next, way)) = self.way.split_first() else {
            self.found.set(Some(fields));
            return Err(Error::custom("a section"));
        };
        let below = Probe { way, ..self };
        visitor.visit_map(MapDeserializer::new(std::iter::once((*next, below))))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

impl<'de> serde::de::IntoDeserializer<'de, Error> for Probe<'_> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_with_a_default_optional_ones_and_secrets_are_all_found() {
        let keys = keys();
        for key in [
            "listen",
            "workers",
            "auth.hs256_secret",
            "auth.hook.url",
            "auth.hook.secret",
            "limits.connections",
            "tls.key",
            "telemetry.sample_ratio",
        ] {
            assert!(keys.iter().any(|found| found == key), "{key} in {keys:?}");
        }
        for section in ["auth", "auth.hook", "limits", "tls"] {
            assert!(!keys.iter().any(|found| found == section), "{section}");
        }
        let unique: std::collections::BTreeSet<_> = keys.iter().collect();
        assert_eq!(unique.len(), keys.len());
    }

    #[test]
    fn whatever_is_written_out_is_a_key() {
        let keys = keys();
        let defaults = toml::Table::try_from(Config::default()).unwrap();
        let mut open: Vec<_> = defaults
            .iter()
            .map(|(key, value)| (key.clone(), value))
            .collect();
        while let Some((key, value)) = open.pop() {
            match value.as_table() {
                Some(table) => open.extend(
                    table
                        .iter()
                        .map(|(name, value)| (format!("{key}.{name}"), value)),
                ),
                None => assert!(keys.contains(&key), "{key}"),
            }
        }
    }
}
