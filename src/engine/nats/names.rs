//! The names of one log in NATS.

/// Streams and subjects of one namespace.
#[derive(Clone, Debug)]
pub struct Names {
    /// The stream that is the log: one message for each publish.
    pub log: String,
    /// Its only subject. Topics are inside: a server keeps each subject in memory, and nothing reads
    /// by topic.
    pub log_subject: String,
    /// The stream of what is known of the log, so that a purge of the one leaves the other.
    pub meta: String,
    pub meta_subject: String,
    /// What was trimmed of each topic, in parts.
    pub trims_subjects: String,
    /// The stream into which backends publish.
    pub ingest: String,
    pub ingest_subject: String,
}

impl Names {
    pub fn new(namespace: &str) -> Self {
        Self {
            log: format!("TRIBUS_{namespace}"),
            log_subject: format!("tribus.{namespace}.log"),
            meta: format!("TRIBUS_{namespace}_META"),
            meta_subject: format!("tribus.{namespace}.meta"),
            trims_subjects: format!("tribus.{namespace}.trims.*"),
            ingest: format!("TRIBUS_{namespace}_INGEST"),
            ingest_subject: format!("tribus.{namespace}.ingest"),
        }
    }

    /// The subject of a part of what was trimmed.
    pub fn trims_part(&self, number: usize) -> String {
        self.trims_subjects.replace('*', &number.to_string())
    }
}
