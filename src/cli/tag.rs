//! `--tag`, as `key:value` or `key=value`.

/// One tag of an event, or one that an event must carry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag {
    pub key: String,
    pub value: String,
}

impl Tag {
    /// Splits at the first `:` or `=`, so that a value may hold either.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.split_once([':', '=']) {
            Some((key, value)) if !key.is_empty() => Ok(Self {
                key: key.to_owned(),
                value: value.to_owned(),
            }),
            _ => Err("a tag is written key:value or key=value".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_split_at_its_first_separator() {
        let parsed = |text| Tag::parse(text).map(|tag| (tag.key, tag.value));
        let pair = |key: &str, value: &str| Ok((key.to_owned(), value.to_owned()));
        assert_eq!(parsed("env:prod"), pair("env", "prod"));
        assert_eq!(parsed("env=a:b"), pair("env", "a:b"));
        assert_eq!(parsed("url:a=b"), pair("url", "a=b"));
        assert_eq!(parsed("empty:"), pair("empty", ""));
        assert!(parsed("env").is_err());
        assert!(parsed(":prod").is_err());
    }
}
