//! Idempotency keys of a file's lines.

use anyhow::{Result, anyhow};
use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN};

use super::hex;

/// A SHA-256 chain: each key is the hash of all lines up to and including its own.
///
/// So a rerun gives the same keys, a file that grew keeps its earlier ones, and equal lines of one file have
/// different keys, all in constant memory.
pub struct KeyChain {
    link: [u8; SHA256_OUTPUT_LEN],
}

impl KeyChain {
    /// The chain that every run over the same lines repeats.
    pub fn new() -> Self {
        Self {
            link: [0; SHA256_OUTPUT_LEN],
        }
    }

    /// A chain of its own: no other run has these keys.
    pub fn salted() -> Result<Self> {
        let mut link = [0; SHA256_OUTPUT_LEN];
        aws_lc_rs::rand::fill(&mut link).map_err(|_| anyhow!("no random numbers are to be had"))?;
        Ok(Self { link })
    }

    /// The key of the next line. The fixed length of the link keeps lines from running into each other.
    pub fn next(&mut self, line: &[u8]) -> String {
        let mut context = Context::new(&SHA256);
        context.update(&self.link);
        context.update(line);
        self.link.copy_from_slice(context.finish().as_ref());
        hex(&self.link)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(lines: &[&str]) -> Vec<String> {
        let mut chain = KeyChain::new();
        lines
            .iter()
            .map(|line| chain.next(line.as_bytes()))
            .collect()
    }

    #[test]
    fn a_rerun_has_the_same_keys_and_a_file_that_grew_keeps_its_earlier_ones() {
        assert_eq!(keys(&["a", "b", "c"]), keys(&["a", "b", "c"]));
        assert_eq!(keys(&["a", "b"]), keys(&["a", "b", "c"])[..2]);
    }

    #[test]
    fn every_line_has_its_own_key_wherever_lines_are_cut() {
        let mut all = keys(&["a", "a", "a"]);
        all.extend(keys(&["ab", "c"]));
        all.extend(keys(&["a", "bc"]));
        all.sort();
        all.dedup();
        assert_eq!(
            all.len(),
            6,
            "of seven lines only the first of two files is the same"
        );
    }

    #[test]
    fn the_chain_is_the_same_in_every_version() {
        // printf '\0%.0s' {1..32} | cat - <(printf a) | sha256sum
        assert_eq!(
            keys(&["a"])[0],
            "41a0370c3d9f42773a59e8e01651911cf43b1e3f66944cbb690029debc4eb647"
        );
    }

    #[test]
    fn a_salted_chain_is_like_no_other() {
        let mut one = KeyChain::salted().unwrap();
        let mut two = KeyChain::salted().unwrap();
        assert_ne!(one.next(b"a"), two.next(b"a"));
    }
}
