//! Lists that come in pages.

use crate::protocol::Refusal;

const DEFAULT_LIMIT: usize = 100;
const MOST: usize = 10_000;

/// How many entries a page may have.
///
/// # Errors
/// `bad_request` for none, and for more than 10,000.
pub(super) fn limit(asked: Option<usize>) -> Result<usize, Refusal> {
    let limit = asked.unwrap_or(DEFAULT_LIMIT);
    if (1..=MOST).contains(&limit) {
        return Ok(limit);
    }
    Err(Refusal::bad_request(format!(
        "`limit` must be 1 to {MOST}: ask for the next page with `after`"
    )))
}

/// Cuts entries that several sources gave, sorted by key, to a page. A source that had more than
/// it gave tells where it stopped; what lies behind the first such place may have holes. Returns
/// the key after which the next page begins, where there is one.
pub(super) fn cut<T, K: Ord + Clone>(
    entries: &mut Vec<T>,
    key: impl Fn(&T) -> K,
    stopped_at: impl IntoIterator<Item = K>,
    limit: usize,
) -> Option<K> {
    let good_up_to = stopped_at.into_iter().min();
    if let Some(last) = &good_up_to {
        entries.retain(|entry| key(entry) <= *last);
    }
    if entries.len() <= limit {
        return good_up_to;
    }
    entries.truncate(limit);
    entries.last().map(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_ends_where_the_first_source_stopped() {
        let mut entries = vec![1, 2, 3, 7, 9];
        assert_eq!(cut(&mut entries, |entry| *entry, [3, 8], 4), Some(3));
        assert_eq!(entries, [1, 2, 3]);
    }

    #[test]
    fn a_page_holds_no_more_than_its_limit_and_the_last_has_no_next() {
        let mut entries = vec![1, 2, 3];
        assert_eq!(cut(&mut entries, |entry| *entry, [], 2), Some(2));
        assert_eq!(entries, [1, 2]);
        assert_eq!(cut(&mut entries, |entry| *entry, [], 2), None);
    }

    #[test]
    fn a_limit_is_bounded() {
        assert_eq!(limit(None).ok(), Some(100));
        assert_eq!(limit(Some(10_000)).ok(), Some(10_000));
        assert!(limit(Some(0)).is_err() && limit(Some(10_001)).is_err());
    }
}
