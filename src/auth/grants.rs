//! Default grants: what a token that lists no topics of its own may do.

use crate::topic::TopicFilter;

use super::keys::KeyError;

/// A topic filter with the placeholders `{sub}` and `{tenant}`.
#[derive(PartialEq)]
pub(super) struct GrantTemplate(Vec<Piece>);

#[derive(PartialEq)]
enum Piece {
    Literal(String),
    Subject,
    Tenant,
}

impl GrantTemplate {
    /// Parses the patterns of one option.
    ///
    /// # Errors
    /// [`KeyError::DefaultGrant`], naming `option` and the pattern: an unknown placeholder, or not a topic filter.
    pub fn parse_all(option: &'static str, patterns: &[String]) -> Result<Vec<Self>, KeyError> {
        let parse = |pattern: &String| {
            Self::parse(pattern).map_err(|problem| KeyError::DefaultGrant {
                option,
                pattern: pattern.clone(),
                problem,
            })
        };
        patterns.iter().map(parse).collect()
    }

    fn parse(pattern: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut rest = pattern;
        while let Some((before, after)) = rest.split_once('{') {
            let (name, behind) = after.split_once('}').ok_or("`{` without `}`")?;
            pieces.push(Piece::Literal(before.to_owned()));
            pieces.push(match name {
                "sub" => Piece::Subject,
                "tenant" => Piece::Tenant,
                _ => return Err("the placeholders are {sub} and {tenant}".to_owned()),
            });
            rest = behind;
        }
        pieces.push(Piece::Literal(rest.to_owned()));
        let template = Self(pieces);
        let sample = template.text("x", Some("x")).unwrap_or_default();
        TopicFilter::parse(&sample).map_err(|error| error.to_string())?;
        Ok(template)
    }

    /// The grant for one token, or nothing where a value could widen it: `*` as a `sub` must not grant everything.
    pub fn fill(&self, subject: &str, tenant: Option<&str>) -> Option<TopicFilter> {
        let text = self.text(subject, tenant)?;
        TopicFilter::parse(&text).ok()
    }

    /// One pass, so that a value which looks like a placeholder is not replaced again.
    fn text(&self, subject: &str, tenant: Option<&str>) -> Option<String> {
        let mut text = String::new();
        for piece in &self.0 {
            text.push_str(match piece {
                Piece::Literal(literal) => literal,
                Piece::Subject => plain_segment(subject)?,
                Piece::Tenant => plain_segment(tenant?)?,
            });
        }
        Some(text)
    }
}

/// The value if it stands for exactly one literal segment of a topic.
fn plain_segment(value: &str) -> Option<&str> {
    let special = |c: char| matches!(c, '*' | ':' | ',') || c.is_whitespace() || c.is_control();
    (!value.is_empty() && !value.contains(special)).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(pattern: &str, subject: &str, tenant: Option<&str>) -> Option<TopicFilter> {
        GrantTemplate::parse(pattern)
            .expect("a good pattern")
            .fill(subject, tenant)
    }

    #[test]
    fn placeholders_stand_for_the_claims() {
        let grant = filled("org-{tenant}:user-{sub}:**", "alice", Some("acme")).expect("a grant");
        assert!(grant.matches("org-acme:user-alice:inbox"));
        assert!(!grant.matches("org-acme:user-bob:inbox"));
    }

    #[test]
    fn a_value_that_is_not_one_literal_segment_drops_the_grant() {
        for hostile in [
            "", "*", "**", "a*", "a:b", "a,b", "a b", "a\tb", "a\u{0}", "a\u{a0}b",
        ] {
            assert_eq!(filled("user:{sub}", hostile, None), None, "{hostile:?}");
            assert_eq!(
                filled("t:{tenant}", "alice", Some(hostile)),
                None,
                "{hostile:?}"
            );
        }
        assert_eq!(filled("t:{tenant}", "alice", None), None);
    }

    #[test]
    fn a_value_is_not_expanded_again() {
        let grant = filled("user:{sub}", "{tenant}", Some("acme")).expect("a grant");
        assert!(grant.matches("user:{tenant}"));
        assert!(!grant.matches("user:acme"));
    }

    #[test]
    fn a_value_that_makes_the_topic_too_long_drops_the_grant() {
        assert_eq!(filled("user:{sub}:inbox", &"a".repeat(255), None), None);
    }

    #[test]
    fn bad_patterns_are_refused_by_name() {
        for pattern in ["", "a b", "user:{name}", "user:{sub", "a,b"] {
            let error = GrantTemplate::parse_all("auth.default_publish", &[pattern.to_owned()])
                .err()
                .unwrap_or_else(|| panic!("{pattern:?} was accepted"));
            assert!(error.to_string().contains("auth.default_publish"));
        }
    }
}
