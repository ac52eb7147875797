//! How values are written: durations, sizes, networks and lists.

use std::{fmt, net::IpAddr, str::FromStr, time::Duration};

use ipnet::IpNet;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, Visitor},
};
use url::Url;

use crate::topic::TopicFilter;

/// A duration written with its unit: `250ms`, `25s`, `1h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        humantime::parse_duration(text)
            .map(Self)
            .map_err(|_| format!("{text:?} is not a duration: write 250ms, 25s or 1h"))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(self.0))
    }
}

/// A number of bytes, with its unit: `64KiB`, `256MiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub usize);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let size: bytesize::ByteSize = text.parse().map_err(|_| {
            de::Error::custom(format!("{text:?} is not a size: write 64KiB or 256MiB"))
        })?;
        usize::try_from(size.as_u64())
            .map(Self)
            .map_err(de::Error::custom)
    }
}

/// In the largest unit in which it is a whole number, so that nothing of it is lost.
impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
        let fits = |shift: u32| self.0 != 0 && self.0.trailing_zeros() >= shift;
        match units.iter().find(|(_, shift)| fits(*shift)) {
            Some((unit, shift)) => write!(f, "{}{unit}", self.0 >> shift),
            None => write!(f, "{}B", self.0),
        }
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A network such as `10.0.0.0/8`; a bare address stands for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(pub IpNet);

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let alone = || text.parse::<IpAddr>().map(IpNet::from);
        let network = text.parse().or_else(|_| alone());
        network.map(Self).map_err(|_| {
            de::Error::custom(format!(
                "{text:?} is no network: write 10.0.0.0/8 or 10.1.2.3"
            ))
        })
    }
}

impl Serialize for Network {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// A topic filter such as `room:*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter(pub TopicFilter);

impl<'de> Deserialize<'de> for Filter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        TopicFilter::parse(&text)
            .map(Self)
            .map_err(de::Error::custom)
    }
}

impl Serialize for Filter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// Where a Redis server or a Sentinel is: `redis://[user:password@]host[:port][/database]`, or
/// `rediss://` for TLS. May hold a password, so no error and no dump shows the text.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl(Url);

impl RedisUrl {
    /// The whole text, with the password: for connecting, never for a log.
    pub fn expose(&self) -> &str {
        self.0.as_str()
    }

    /// Host and port, for messages.
    pub fn address(&self) -> String {
        let host = self.0.host_str().unwrap_or_default();
        format!("{host}:{}", self.0.port().unwrap_or(Self::PORT))
    }

    pub fn has_password(&self) -> bool {
        self.0.password().is_some()
    }

    pub fn url(&self) -> &Url {
        &self.0
    }

    const PORT: u16 = 6379;
}

impl FromStr for RedisUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let url = Url::parse(text).map_err(|_| "not a URL: write redis://127.0.0.1:6379")?;
        if !matches!(url.scheme(), "redis" | "rediss") {
            return Err("write redis://host:port, or rediss://host:port for TLS");
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err("it names no host: write redis://127.0.0.1:6379");
        }
        let database = url.path().trim_start_matches('/');
        if !database.is_empty() && database.parse::<u32>().is_err() {
            return Err("after the host there is only the number of a database, such as /0");
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err("it takes no parameters");
        }
        Ok(Self(url))
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address())
    }
}

impl<'de> Deserialize<'de> for RedisUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl Serialize for RedisUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// Where the servers of NATS are: `nats://[user:password@]host[:port]` or `tls://` each, with commas
/// in between. May hold secrets, so no error and no dump shows the text.
#[derive(Clone, PartialEq, Eq)]
pub struct NatsUrls(Vec<Url>);

impl NatsUrls {
    /// The whole texts, with passwords: for connecting, never for a log.
    pub fn expose(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(Url::as_str)
    }

    /// Hosts and ports, for messages.
    pub fn addresses(&self) -> String {
        let address = |url: &Url| {
            let host = url.host_str().unwrap_or_default();
            format!("{host}:{}", url.port().unwrap_or(Self::PORT))
        };
        let addresses: Vec<String> = self.0.iter().map(address).collect();
        addresses.join(",")
    }

    /// A name alone is a token.
    pub fn has_secret(&self) -> bool {
        let is_secret = |url: &Url| !url.username().is_empty() || url.password().is_some();
        self.0.iter().any(is_secret)
    }

    pub fn urls(&self) -> &[Url] {
        &self.0
    }

    const PORT: u16 = 4222;

    fn parse_one(text: &str) -> Result<Url, &'static str> {
        let url = Url::parse(text.trim()).map_err(|_| "not a URL: write nats://127.0.0.1:4222")?;
        if !matches!(url.scheme(), "nats" | "tls") {
            return Err("write nats://host:port, or tls://host:port where it must be TLS");
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err("it names no host: write nats://127.0.0.1:4222");
        }
        let is_bare = matches!(url.path(), "" | "/");
        if !is_bare || url.query().is_some() || url.fragment().is_some() {
            return Err("after host and port there is nothing");
        }
        Ok(url)
    }
}

impl FromStr for NatsUrls {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let urls: Result<Vec<Url>, _> = text.split(',').map(Self::parse_one).collect();
        urls.map(Self)
    }
}

impl fmt::Debug for NatsUrls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.addresses())
    }
}

impl<'de> Deserialize<'de> for NatsUrls {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl Serialize for NatsUrls {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let texts: Vec<&str> = self.expose().collect();
        serializer.serialize_str(&texts.join(","))
    }
}

/// A list; in the environment it is written as a TOML array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List<T>(pub Vec<T>);

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Serialize> Serialize for List<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T: de::DeserializeOwned> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ListVisitor(std::marker::PhantomData))
    }
}

struct ListVisitor<T>(std::marker::PhantomData<T>);

impl<'de, T: de::DeserializeOwned> Visitor<'de> for ListVisitor<T> {
    type Value = List<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(r#"a list such as ["a", "b"]"#)
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut items: A) -> Result<List<T>, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(List(list))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<List<T>, E> {
        #[derive(Deserialize)]
        struct Document<T> {
            list: Vec<T>,
        }
        // The text may be a secret, so the error does not repeat it.
        toml::from_str::<Document<T>>(&format!("list = {text}"))
            .map(|document| List(document.list))
            .map_err(|_| E::custom(r#"not a list: write it as a TOML array, such as ["a", "b"]"#))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_of_a_redis_is_checked_and_its_password_shown_nowhere() {
        let url: RedisUrl = "rediss://tribus:s3cret@redis.example/3".parse().unwrap();
        assert_eq!(format!("{url:?}"), "redis.example:6379");
        assert!(url.has_password());
        for bad in [
            "s3cret.example:6379",
            "http://:s3cret@redis.example",
            "redis://",
            "redis://:s3cret@h/zero",
            "redis://:s3cret@h/0?x=1",
            "redis://h/0#s3cret",
        ] {
            let error = bad.parse::<RedisUrl>().unwrap_err();
            assert!(!error.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn the_urls_of_nats_are_checked_and_their_secrets_shown_nowhere() {
        let urls: NatsUrls = "nats://u:s3cret@a.example, tls://b.example:5222"
            .parse()
            .unwrap();
        assert_eq!(format!("{urls:?}"), "a.example:4222,b.example:5222");
        let has_secret = |text: &str| text.parse::<NatsUrls>().unwrap().has_secret();
        assert!(urls.has_secret() && has_secret("nats://token@h") && !has_secret("nats://h"));
        for bad in [
            "s3cret@nats.example:4222",
            "http://s3cret@nats.example",
            "nats://",
            "nats://s3cret@h/path",
            "nats://s3cret@h,redis://h",
        ] {
            let error = bad.parse::<NatsUrls>().unwrap_err();
            assert!(!error.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn a_size_is_written_so_that_it_reads_back_exactly() {
        for (bytes, written) in [
            (0, "0B"),
            (1, "1B"),
            (1023, "1023B"),
            (1024, "1KiB"),
            (100_001, "100001B"),
            (1536, "1536B"),
            (64 << 10, "64KiB"),
            (256 << 20, "256MiB"),
            (3 << 30, "3GiB"),
            ((1 << 30) + (1 << 20), "1025MiB"),
        ] {
            assert_eq!(Size(bytes).to_string(), written);
            let read: Size = toml::Value::String(written.to_owned()).try_into().unwrap();
            assert_eq!(read, Size(bytes));
        }
    }
}
