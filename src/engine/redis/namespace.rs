//! The keys of one log. All of them are in one slot of a cluster, by the hash tag.

/// What the log of one namespace is stored under.
#[derive(Clone, Debug)]
pub struct Namespace {
    /// The stream: one entry for each event, with the id `SEQUENCE-0`.
    pub log: String,
    /// A hash: format, log, last sequence, the server's identity, and up to where it is trimmed.
    pub meta: String,
    /// A list of the positions that were left out, `FROM TO`.
    pub seams: String,
    /// What was trimmed of each topic, and up to which position that tells.
    pub trims: String,
    /// The stream into which backends publish.
    pub ingest: String,
    /// The node that moves what comes there to the log.
    pub ingest_lease: String,
    keys: String,
}

impl Namespace {
    pub fn new(name: &str) -> Self {
        let key = |of: &str| format!("tribus:{{{name}}}:{of}");
        Self {
            log: key("log"),
            meta: key("meta"),
            seams: key("seams"),
            trims: key("trims"),
            ingest: key("ingest"),
            ingest_lease: key("ingest-lease"),
            keys: key("key:"),
        }
    }

    /// The key that remembers what was answered to an idempotency key.
    pub fn key(&self, scoped: &[u8; 16]) -> String {
        format!("{}{}", self.keys, hex(scoped))
    }
}

pub fn hex(bytes: &[u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_keys_of_a_namespace_share_their_hash_tag() {
        let namespace = Namespace::new("shop");
        assert_eq!(namespace.log, "tribus:{shop}:log");
        let key = namespace.key(&[0x0f; 16]);
        assert_eq!(key, format!("tribus:{{shop}}:key:{}", "0f".repeat(16)));
    }
}
