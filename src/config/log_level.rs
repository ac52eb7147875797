//! What `log.level` may be. The library that reads it takes a word that it does not know for the name of a module, and
//! then logs nothing.

use tracing_subscriber::filter::{EnvFilter, LevelFilter};

const FORM: &str =
    "write error, warn, info, debug, trace or off, or directives such as info,tribus=debug";

/// # Errors
/// What is wrong, where it is neither a level nor directives of the form `target=level`.
pub(super) fn check(level: &str) -> Result<(), String> {
    if level.trim().is_empty() {
        return Err(format!("it is empty: {FORM}"));
    }
    for directive in level.split(',').filter(|piece| !piece.is_empty()) {
        let word = directive
            .rsplit_once('=')
            .map_or(directive, |(_, level)| level);
        if word.is_empty() || word.trim().parse::<LevelFilter>().is_err() {
            return Err(format!("{:?} is no level: {FORM}", word.trim()));
        }
    }
    let read = EnvFilter::try_new(level);
    read.map_err(|_| format!("{level:?} can not be read: {FORM}"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_directives_are_taken_and_words_that_are_neither_are_not() {
        for good in [
            "info",
            "INFO",
            "off",
            "info,tribus=debug",
            "warn,tribus::auth=trace",
            "tribus[{subject=alice}]=debug,info",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "verbose",
            "warning",
            "info,tribus=loud",
            "tribus",
            "x=y=z",
            "tribus=",
            "info,debugg",
        ] {
            let problem = check(bad).expect_err(bad);
            assert!(
                problem.contains("error, warn, info, debug, trace"),
                "{problem}"
            );
        }
    }
}
