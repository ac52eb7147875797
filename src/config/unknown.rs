//! Keys that there are none of, told with the place where they were set, and the key that was meant.

use super::{ENVIRONMENT_PREFIX, Origin, Origins, keys};

/// Two names that are less alike than this are no misspelling of each other.
const ALIKE: f64 = 0.85;

/// What is wrong with the first key that is none.
pub(super) fn problem(origins: &Origins, file: Option<&str>) -> Option<String> {
    let known = keys();
    let is_known = |key: &str| {
        let begins = |known: &String| {
            known
                .strip_prefix(key)
                .is_some_and(|rest| rest.starts_with('.'))
        };
        known.iter().any(|known| known == key || begins(known))
    };
    let unknown = origins.set().find(|key| !is_known(key))?;
    let origin = origins.origin(unknown);
    let place = match (origin, file) {
        (Origin::File { line }, Some(file)) => format!("{file}, line {line}"),
        (Origin::File { line }, None) => format!("line {line}"),
        (other, _) => other.to_string(),
    };
    let advice = match meant(unknown, &known) {
        Some(key) => match origin {
            Origin::Variable(_) => format!("did you mean `{key}`, which is {}?", variable(key)),
            _ => format!("did you mean `{key}`?"),
        },
        None => "`tribus check-config` without a file prints all keys".to_owned(),
    };
    Some(format!(
        "{place}: there is no configuration key `{unknown}`: {advice}"
    ))
}

/// The known key that is the most alike, as a whole or in its last part, which may have been put into the wrong section.
fn meant<'k>(unknown: &str, known: &'k [String]) -> Option<&'k str> {
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let name = last(unknown);
    let score = |key: &str| {
        let whole = strsim::jaro_winkler(unknown, key);
        let part = strsim::jaro_winkler(&name, &last(key));
        whole.max(part - 0.05)
    };
    let scored = known.iter().map(|key| (score(key), key.as_str()));
    let (score, key) = scored.max_by(|a, b| a.0.total_cmp(&b.0))?;
    (score >= ALIKE).then_some(key)
}

fn variable(key: &str) -> String {
    format!(
        "{ENVIRONMENT_PREFIX}__{}",
        key.to_uppercase().replace('.', "__")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(toml: &str, variables: &[&str]) -> Option<String> {
        let variables = variables.iter().map(std::ffi::OsString::from);
        problem(
            &Origins::of(toml, variables, std::iter::empty()),
            Some("tribus.toml"),
        )
    }

    #[test]
    fn an_unknown_key_is_told_with_its_place_and_the_one_that_was_meant() {
        for (toml, variable, place, advice) in [
            (
                "workers = 1\nlisen = 'a'",
                "",
                "tribus.toml, line 2: ",
                "`listen`?",
            ),
            (
                "[limits]\nconnection = 1",
                "",
                "tribus.toml, line 2: ",
                "`limits.connections`?",
            ),
            (
                "[limit]\nconnections = 1",
                "",
                "tribus.toml, line 2: ",
                "`limits.connections`?",
            ),
            (
                "allowed_origins = []",
                "",
                "tribus.toml, line 1: ",
                "`auth.allowed_origins`?",
            ),
            (
                "[zzz]\nqqq = 1",
                "",
                "tribus.toml, line 2: ",
                "prints all keys",
            ),
            (
                "",
                "TRIBUS__HS256_SECRET",
                "TRIBUS__HS256_SECRET: ",
                "`auth.hs256_secret`, which is TRIBUS__AUTH__HS256_SECRET?",
            ),
        ] {
            let told = told(toml, &[variable]).expect(advice);
            assert!(told.starts_with(place), "{told}");
            assert!(told.ends_with(advice), "{told}");
        }
    }

    #[test]
    fn every_key_is_known_and_so_is_a_section() {
        for key in keys() {
            assert_eq!(
                told(&format!("{key} = 1"), &[&variable(&key)]),
                None,
                "{key}"
            );
        }
        assert_eq!(
            told("auth = 1", &["PATH", "TRIBUS_URL"]),
            None,
            "of the wrong type"
        );
    }
}
