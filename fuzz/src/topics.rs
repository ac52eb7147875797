//! Topics, filters, what they match and cover, and the index that finds them.
//!
//! The input is lines: a topic; what the wildcards of the filter are replaced by to make topics
//! that it matches, separated by commas; the filter; then the grants.

use tribus::{
    bus::TopicIndex,
    topic::{Tenant, Token, Topic, TopicFilter, covers},
};

/// Topics made of the filter, and filters that are looked at: each is tried with each.
const INSTANCES: usize = 8;
const MAX_FILTERS: usize = 8;

pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let mut lines = text.split('\n');
    let topic = lines.next().unwrap_or_default();
    let fillers: Vec<_> = lines.next().unwrap_or_default().split(',').collect();
    let filters: Vec<_> = lines.filter_map(check_text).take(MAX_FILTERS).collect();
    check_text(topic);
    let Some((filter, grants)) = filters.split_first() else {
        return;
    };
    let topics = instances(filter, &fillers).chain(Topic::parse(topic));
    let topics: Vec<_> = topics.collect();
    for topic in &topics {
        check_matching(&filters, topic);
    }
    check_covering(grants, filter, &topics);
    check_index(&filters, &topics);
}

/// The text as topic and as filter, which judge it alike but for stars.
fn check_text(text: &str) -> Option<TopicFilter> {
    let (topic, filter) = (Topic::parse(text), TopicFilter::parse(text));
    for error in [topic.as_ref().err(), filter.as_ref().err()]
        .into_iter()
        .flatten()
    {
        let message = error.to_string();
        assert!(
            message.len() < 1024 && !message.contains(char::is_control),
            "{message:?}"
        );
    }
    assert_eq!(topic.is_ok(), filter.is_ok() && !text.contains('*'));
    let filter = filter.ok()?;
    if let Ok(topic) = topic {
        assert_eq!((topic.as_str(), filter.as_str()), (text, text));
        assert!(filter.is_literal() && filter.matches(&topic));
    }
    assert_eq!(TopicFilter::parse(filter.as_str()).as_ref(), Ok(&filter));
    assert!((1..=Topic::MAX_BYTES).contains(&filter.as_str().len()));
    assert!(!filter.as_str().contains("***") && text.starts_with(filter.literal_prefix()));
    let tokens: Vec<_> = filter.tokens().collect();
    let is_wildcard = |token: &Token<'_>| !matches!(token, Token::Literal(_));
    assert!(tokens.iter().filter(|token| is_wildcard(token)).count() <= TopicFilter::MAX_WILDCARDS);
    assert!(
        tokens
            .windows(2)
            .all(|pair| is_wildcard(&pair[0]) != is_wildcard(&pair[1]))
    );
    Some(filter)
}

/// Topics that the filter matches by its definition.
fn instances(filter: &TopicFilter, fillers: &[&str]) -> impl Iterator<Item = Topic> {
    (0..INSTANCES).filter_map(move |round| {
        let mut text = String::new();
        for (place, token) in filter.tokens().enumerate() {
            let filler = fillers[(round / (place + 1) + round * place) % fillers.len()];
            match token {
                Token::Literal(literal) => text.push_str(literal),
                Token::Star => text.push_str(&filler.replace(':', "")),
                Token::DoubleStar => text.push_str(filler),
            }
        }
        let topic = Topic::parse(&text).ok()?;
        assert!(filter.matches(&topic), "{filter} {topic}");
        Some(topic)
    })
}

fn check_matching(filters: &[TopicFilter], topic: &Topic) {
    for filter in filters {
        let expected = matches_by_definition(filter.as_str(), topic);
        assert_eq!(filter.matches(topic), expected, "{filter} {topic}");
    }
}

/// Whether the pattern matches the topic, by the places of the topic that each of its characters
/// can reach.
fn matches_by_definition(pattern: &str, topic: &str) -> bool {
    let topic: Vec<char> = topic.chars().collect();
    let mut reached = vec![false; topic.len() + 1];
    reached[0] = true;
    let mut rest = pattern;
    while let Some(first) = rest.chars().next() {
        let tail = rest.trim_start_matches('*');
        let stars = rest.len() - tail.len();
        let mut next = vec![false; reached.len()];
        let mut running = false;
        for at in 0..reached.len() {
            if stars > 0 {
                running |= reached[at];
                next[at] = running;
                running &= stars > 1 || topic.get(at) != Some(&':');
            } else if reached[at] && topic.get(at) == Some(&first) {
                next[at + 1] = true;
            }
        }
        reached = next;
        rest = if stars > 0 {
            tail
        } else {
            &rest[first.len_utf8()..]
        };
    }
    reached[topic.len()]
}

fn check_covering(grants: &[TopicFilter], filter: &TopicFilter, topics: &[Topic]) {
    let granted = |topic: &str| grants.iter().any(|grant| grant.matches(topic));
    let covered = covers(grants, filter);
    for topic in topics {
        assert!(
            !covered || !filter.matches(topic) || granted(topic),
            "{grants:?} cover {filter}, and not {topic}"
        );
    }
    assert!(covers(std::slice::from_ref(filter), filter));
    assert!(covered || !grants.contains(filter));
    assert!(covered || !grants.iter().any(|grant| grant.as_str() == "**"));
    if filter.is_literal() {
        assert_eq!(covered, granted(filter.as_str()));
    } else if let (false, Some(topic)) = (covered, representative(grants, filter)) {
        assert!(
            !granted(&topic),
            "{grants:?} do not cover {filter}, but {topic}"
        );
    }
}

/// The topic by which a filter without `**` is judged: its wildcards match what no grant spells out.
fn representative(grants: &[TopicFilter], filter: &TopicFilter) -> Option<String> {
    let spelled = |c: &char| grants.iter().any(|grant| grant.as_str().contains(*c));
    let unspelled = ('a'..='\u{2fff}').find(|c| c.is_alphanumeric() && !spelled(c))?;
    (!filter.as_str().contains("**")).then(|| {
        filter
            .as_str()
            .replace('*', unspelled.encode_utf8(&mut [0; 4]))
    })
}

/// The index finds what asking each filter finds, also after every second one has gone.
fn check_index(filters: &[TopicFilter], topics: &[Topic]) {
    let tenant = Tenant::named("t");
    let mut index = TopicIndex::new();
    for (key, filter) in filters.iter().enumerate() {
        assert!(index.insert(&tenant, filter, key));
    }
    let mut there = vec![true; filters.len()];
    check_found(&mut index, filters, &there, topics);
    for key in (0..filters.len()).step_by(2) {
        assert!(index.remove(&tenant, &filters[key], key));
        there[key] = false;
    }
    check_found(&mut index, filters, &there, topics);
    for key in (1..filters.len()).step_by(2) {
        assert!(index.remove(&tenant, &filters[key], key));
    }
    assert!(index.is_empty());
}

fn check_found(
    index: &mut TopicIndex<usize>,
    filters: &[TopicFilter],
    there: &[bool],
    topics: &[Topic],
) {
    let mut found = Vec::new();
    for topic in topics {
        index.matching(&Tenant::named("t"), topic, &mut found);
        found.sort_unstable();
        let matches = |key: &usize| there[*key] && filters[*key].matches(topic);
        let expected: Vec<_> = (0..filters.len()).filter(matches).collect();
        assert_eq!(found, expected, "{filters:?} {topic}");
        found.clear();
        index.matching(&Tenant::none(), topic, &mut found);
        assert!(found.is_empty());
    }
}
