//! Topics, topic filters and tenants: what a name may look like, which topics a filter matches, and
//! whether a token's grants cover all that a filter can match. Pure: no I/O, no clock, no state.

use std::borrow::{Borrow, Cow};
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use ahash::AHashSet;
use thiserror::Error;

/// The longest text that an error message quotes, in characters.
const QUOTE_MAX_CHARS: usize = 64;

/// How many automaton positions [`covers`] looks at before it gives up and denies. Hundreds of sane
/// grants need some thousands; the limit holds a hostile filter to about a millisecond and a
/// megabyte.
const COVER_BUDGET: usize = 1 << 15;

/// The namespace a token lives in; topics of different tenants never meet.
///
/// What is keyed by topic is keyed by the pair (tenant, topic), never by a joined string, so that
/// no choice of names makes two pairs equal. The default is no tenant, which differs from every
/// named one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tenant(Option<Arc<str>>);

impl Tenant {
    /// The namespace of tokens without a `tenant` claim.
    pub const fn none() -> Self {
        Self(None)
    }

    /// The tenant called `name`. Any name will do: it is only ever compared.
    pub fn named(name: &str) -> Self {
        Self(Some(name.into()))
    }

    /// The name, or `None` outside any tenant.
    pub fn as_deref(&self) -> Option<&str> {
        self.0.as_deref()
    }
}

/// A topic: 1 to [`Topic::MAX_BYTES`] bytes of UTF-8 without white space, control characters, `,`
/// or `*`. Clones share the text.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Topic(Arc<str>);

impl Topic {
    /// The longest topic, and the longest topic filter.
    pub const MAX_BYTES: usize = 255;

    /// Checks `text` and makes it a topic.
    ///
    /// # Errors
    /// [`TopicError`] where `text` is empty, longer than [`Topic::MAX_BYTES`], or holds a character
    /// that topics may not.
    pub fn parse(text: &str) -> Result<Self, TopicError> {
        check(Kind::Topic, text)?;
        Ok(Self(text.into()))
    }

    /// The topic as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Deref for Topic {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Topic {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Topic {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A pattern over topics: a literal topic, or one with wildcards. Clones share the text.
///
/// `*` matches any run of characters but `:`, also an empty one; `**` also crosses `:`. All else
/// stands for itself. Longer runs of stars mean `**` and are kept as that, so that a filter written
/// in two ways is one filter. Filters are compared, ordered and hashed by their text.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicFilter(Arc<str>);

impl TopicFilter {
    /// The most wildcards: what a match costs grows with each, and it is the gateway that pays.
    pub const MAX_WILDCARDS: usize = 8;

    /// Checks `text` and makes it a filter: the rules of [`Topic`], and `*` is allowed.
    ///
    /// # Errors
    /// [`TopicError`] where `text` is empty, longer than [`Topic::MAX_BYTES`], or holds a character
    /// that filters may not.
    pub fn parse(text: &str) -> Result<Self, TopicError> {
        check(Kind::Filter, text)?;
        Ok(Self(shorten_stars(text).into()))
    }

    /// The filter as text, with no more than two stars in a row.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the filter has no wildcard, and so matches exactly the topic of the same text.
    pub fn is_literal(&self) -> bool {
        !self.0.contains('*')
    }

    /// The text before the first `*`, with which every matching topic begins; all of a literal
    /// filter.
    pub fn literal_prefix(&self) -> &str {
        self.0.split_once('*').map_or(&self.0, |(prefix, _)| prefix)
    }

    /// Whether the filter matches `topic`. Takes time in the product of both lengths at worst, and
    /// allocates nothing.
    pub fn matches(&self, topic: &str) -> bool {
        if self.is_literal() {
            return topic == self.as_str();
        }
        let Some(rest) = topic.strip_prefix(self.literal_prefix()) else {
            return false;
        };
        rest.ends_with(self.literal_suffix())
            && self.accepts(self.literal_prefix().len(), rest.bytes().map(Symbol::Byte))
    }

    /// The filter cut into literal runs and wildcards. Literal runs are never empty nor adjacent,
    /// nor are wildcards.
    pub fn tokens(&self) -> Tokens<'_> {
        Tokens { rest: &self.0 }
    }

    fn literal_suffix(&self) -> &str {
        self.0
            .rsplit_once('*')
            .map_or(&self.0, |(_, suffix)| suffix)
    }
}

impl AsRef<str> for TopicFilter {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for TopicFilter {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TopicFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A piece of a [`TopicFilter`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token<'a> {
    /// Text that stands for itself.
    Literal(&'a str),
    /// Any run of characters but `:`.
    Star,
    /// Any run of characters.
    DoubleStar,
}

/// The iterator of [`TopicFilter::tokens`].
#[derive(Clone, Debug)]
pub struct Tokens<'a> {
    rest: &'a str,
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        let after_stars = self.rest.trim_start_matches('*');
        let token = match self.rest.len() - after_stars.len() {
            0 => return self.next_literal(),
            1 => Token::Star,
            _ => Token::DoubleStar,
        };
        self.rest = after_stars;
        Some(token)
    }
}

impl<'a> Tokens<'a> {
    fn next_literal(&mut self) -> Option<Token<'a>> {
        let (literal, rest) = self
            .rest
            .split_at(self.rest.find('*').unwrap_or(self.rest.len()));
        self.rest = rest;
        (!literal.is_empty()).then_some(Token::Literal(literal))
    }
}

/// Why a text is no topic, or no topic filter. Quotes at most 64 characters of it, escaped, so that
/// messages are safe to log and to send back.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TopicError {
    /// There is no text.
    #[error("{kind} is empty: give 1 to {max} bytes", max = Topic::MAX_BYTES)]
    Empty {
        /// What it was to be.
        kind: Kind,
    },
    /// The text is longer than [`Topic::MAX_BYTES`].
    #[error("{kind} {quote:?} is {bytes} bytes long: give at most {max}", max = Topic::MAX_BYTES)]
    TooLong {
        /// What it was to be.
        kind: Kind,
        /// How it begins.
        quote: String,
        /// How long it is.
        bytes: usize,
    },
    /// The text holds white space of any kind.
    #[error(
        "{kind} {quote:?} contains white space: remove it, or write \"-\" or \":\" in its place"
    )]
    WhiteSpace {
        /// What it was to be.
        kind: Kind,
        /// How it begins.
        quote: String,
    },
    /// The text holds a control character.
    #[error("{kind} {quote:?} contains a control character: remove it")]
    Control {
        /// What it was to be.
        kind: Kind,
        /// How it begins.
        quote: String,
    },
    /// The text holds a comma, which separates topics in a URL.
    #[error("{kind} {quote:?} contains a comma: give each topic by itself")]
    Comma {
        /// What it was to be.
        kind: Kind,
        /// How it begins.
        quote: String,
    },
    /// The filter holds more than [`TopicFilter::MAX_WILDCARDS`].
    #[error(
        "topic filter {quote:?} has more than {max} wildcards: name the topics more closely",
        max = TopicFilter::MAX_WILDCARDS
    )]
    TooManyWildcards {
        /// How it begins.
        quote: String,
    },
    /// A topic holds `*`, which only filters may.
    #[error("topic {quote:?} contains \"*\": name one topic, wildcards are for topic filters")]
    Wildcard {
        /// How it begins.
        quote: String,
    },
}

/// What a text was to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A [`Topic`].
    Topic,
    /// A [`TopicFilter`].
    Filter,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Topic => "topic",
            Self::Filter => "topic filter",
        })
    }
}

fn check(kind: Kind, text: &str) -> Result<(), TopicError> {
    if text.is_empty() {
        return Err(TopicError::Empty { kind });
    }
    if text.len() > Topic::MAX_BYTES {
        return Err(TopicError::TooLong {
            kind,
            quote: quote(text),
            bytes: text.len(),
        });
    }
    text.chars().try_for_each(|c| check_char(kind, c, text))?;
    if wildcards(text) > TopicFilter::MAX_WILDCARDS {
        return Err(TopicError::TooManyWildcards { quote: quote(text) });
    }
    Ok(())
}

/// How many runs of stars there are.
fn wildcards(text: &str) -> usize {
    let starts = text.bytes().zip(std::iter::once(b' ').chain(text.bytes()));
    starts
        .filter(|(byte, before)| *byte == b'*' && *before != b'*')
        .count()
}

fn check_char(kind: Kind, c: char, text: &str) -> Result<(), TopicError> {
    match c {
        '*' if kind == Kind::Topic => Err(TopicError::Wildcard { quote: quote(text) }),
        ',' => Err(TopicError::Comma {
            kind,
            quote: quote(text),
        }),
        c if c.is_whitespace() => Err(TopicError::WhiteSpace {
            kind,
            quote: quote(text),
        }),
        c if c.is_control() => Err(TopicError::Control {
            kind,
            quote: quote(text),
        }),
        _ => Ok(()),
    }
}

/// The text with each run of three or more stars cut down to two.
fn shorten_stars(text: &str) -> Cow<'_, str> {
    if !text.contains("***") {
        return Cow::Borrowed(text);
    }
    let mut stars = 0;
    let keep = |c: &char| {
        stars = if *c == '*' { stars + 1 } else { 0 };
        stars <= 2
    };
    Cow::Owned(text.chars().filter(keep).collect())
}

fn quote(text: &str) -> String {
    if text.chars().nth(QUOTE_MAX_CHARS).is_none() {
        return text.to_owned();
    }
    text.chars()
        .take(QUOTE_MAX_CHARS - 1)
        .chain(['…'])
        .collect()
}

/// Whether the `grants` together match every topic that `filter` can match.
///
/// Exact, also where it takes several grants: `order:*` and `order:*:**` cover `order:**`. Two
/// things make it answer `false` too often, which denies and so is safe: it gives up after a fixed
/// budget of steps, which only contrived filters exhaust, and it does not use that topics end at
/// [`Topic::MAX_BYTES`].
pub fn covers(grants: &[TopicFilter], filter: &TopicFilter) -> bool {
    if filter.is_literal() {
        return grants.iter().any(|grant| grant.matches(filter.as_str()));
    }
    let relevant: Vec<_> = grants
        .iter()
        .filter(|grant| grant.may_help_cover(filter))
        .collect();
    relevant.iter().any(|grant| grant.covers_alone(filter))
        || (filter.has_double_star() && UnionSearch::new(relevant, filter).all_covered())
}

// How `covers` works. A filter with wildcards matches endlessly many topics, but few of them need
// to be looked at. Let X be a character that no grant spells out, so that only a wildcard of a
// grant can match it.
//
// - A grant that matches X in some place matches any run of characters but `:` there, also the
//   empty one. So `*` need only be tried as X: a grant that matches this matches all the rest.
// - In the same way `**` need only be tried as X, X:X, X:X:X and so on.
//
// Without `**` this leaves one topic, and one grant that matches it covers the filter. With `**` a
// search follows all these topics at once, keeping for every grant the positions of its automaton;
// it ends since those sets repeat. The same argument shows that a literal grant never adds
// anything: it matches no topic with an X in it.
impl TopicFilter {
    fn may_help_cover(&self, filter: &TopicFilter) -> bool {
        let (ours, theirs) = (self.literal_prefix(), filter.literal_prefix());
        let (our_end, their_end) = (self.literal_suffix(), filter.literal_suffix());
        !self.is_literal()
            && (ours.starts_with(theirs) || theirs.starts_with(ours))
            && (our_end.ends_with(their_end) || their_end.ends_with(our_end))
    }

    /// Sound for any filter, complete for those without `**`.
    fn covers_alone(&self, filter: &TopicFilter) -> bool {
        self == filter || self.accepts(0, filter.representative())
    }

    /// The topic that stands for all that the filter matches, `**` being a symbol of its own.
    fn representative(&self) -> impl Iterator<Item = Symbol> {
        self.tokens().flat_map(|token| {
            let (literal, wildcard) = match token {
                Token::Literal(text) => (text, None),
                Token::Star => ("", Some(Symbol::Unspelled)),
                Token::DoubleStar => ("", Some(Symbol::AnyRun)),
            };
            literal.bytes().map(Symbol::Byte).chain(wildcard)
        })
    }

    fn has_double_star(&self) -> bool {
        self.0.contains("**")
    }
}

/// What a filter's automaton reads.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Symbol {
    /// A byte of a topic. Bytes will do for characters, since in UTF-8 none begins inside another.
    Byte(u8),
    /// A character that no filter spells out: only wildcards match it.
    Unspelled,
    /// Any run of any characters: only `**` matches it.
    AnyRun,
}

impl Symbol {
    const SEPARATOR: Self = Self::Byte(b':');

    fn stays_in_segment(self) -> bool {
        self != Self::SEPARATOR && self != Self::AnyRun
    }
}

/// What stands at a position of a filter.
enum Atom {
    Byte(u8),
    Star,
    DoubleStar,
    End,
}

// The filter as a nondeterministic automaton. Its positions are offsets into the text; of a run of
// stars only the first is one.
impl TopicFilter {
    fn accepts(&self, start: usize, word: impl IntoIterator<Item = Symbol>) -> bool {
        let mut positions = self.positions_at(start);
        for symbol in word {
            positions = self.step(positions, symbol);
            if positions.is_empty() {
                return false;
            }
        }
        self.is_accepting(&positions)
    }

    fn step(&self, from: Positions, symbol: Symbol) -> Positions {
        let mut to = Positions::default();
        for at in from.iter() {
            match self.atom(at) {
                Atom::Byte(byte) if symbol == Symbol::Byte(byte) => self.enter(at + 1, &mut to),
                Atom::Star if symbol.stays_in_segment() => self.enter(at, &mut to),
                Atom::DoubleStar => self.enter(at, &mut to),
                Atom::Byte(_) | Atom::Star | Atom::End => {}
            }
        }
        to
    }

    fn positions_at(&self, at: usize) -> Positions {
        let mut positions = Positions::default();
        self.enter(at, &mut positions);
        positions
    }

    fn enter(&self, at: usize, positions: &mut Positions) {
        positions.insert(at);
        // A wildcard may match nothing, and is never followed by another.
        positions.insert(self.skip_stars(at));
    }

    fn skip_stars(&self, at: usize) -> usize {
        let tail = &self.0.as_bytes()[at..];
        at + tail.iter().take_while(|&&byte| byte == b'*').count()
    }

    fn atom(&self, at: usize) -> Atom {
        match self.0.as_bytes()[at..] {
            [] => Atom::End,
            [b'*', b'*', ..] => Atom::DoubleStar,
            [b'*', ..] => Atom::Star,
            [byte, ..] => Atom::Byte(byte),
        }
    }

    fn is_accepting(&self, positions: &Positions) -> bool {
        positions.contains(self.0.len())
    }

    /// Whether whatever comes next will be accepted, because a closing `**` is reached.
    fn accepts_all_from(&self, positions: &Positions) -> bool {
        let closing = self.0.trim_end_matches('*').len();
        self.0.len() - closing >= 2 && positions.contains(closing)
    }
}

/// A set of positions in one filter.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
struct Positions([u64; 4]);

const _: () = assert!(
    Topic::MAX_BYTES < 4 * 64,
    "the end of the longest filter is a position too"
);

impl Positions {
    fn insert(&mut self, at: usize) {
        self.0[at / 64] |= 1 << (at % 64);
    }

    fn contains(&self, at: usize) -> bool {
        self.0[at / 64] & (1 << (at % 64)) != 0
    }

    fn is_empty(&self) -> bool {
        self.0 == [0; 4]
    }

    fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    fn iter(&self) -> impl Iterator<Item = usize> {
        self.0.into_iter().enumerate().flat_map(|(index, word)| {
            // Each round takes the lowest bit away.
            std::iter::successors(Some(word), |&bits| Some(bits & bits.wrapping_sub(1)))
                .take_while(|&bits| bits != 0)
                .map(move |bits| index * 64 + bits.trailing_zeros() as usize)
        })
    }
}

/// The search for a topic that a filter matches and no grant does. See the comment on how
/// [`covers`] works.
struct UnionSearch<'a> {
    filter: &'a TopicFilter,
    grants: Vec<&'a TopicFilter>,
    pending: Vec<Branch>,
    seen: AHashSet<Branch>,
    budget: usize,
}

/// All topics that begin alike, as far as filter and grants can tell.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Branch {
    /// Where the filter stands.
    at: usize,
    grants: GrantPositions,
}

/// Where the grants stand that match so far, by their index, in ascending order.
type GrantPositions = Vec<(usize, Positions)>;

/// The budget is spent.
struct Exhausted;

impl<'a> UnionSearch<'a> {
    fn new(grants: Vec<&'a TopicFilter>, filter: &'a TopicFilter) -> Self {
        let start = grants
            .iter()
            .map(|grant| grant.positions_at(0))
            .enumerate()
            .collect();
        let pending = vec![Branch {
            at: 0,
            grants: start,
        }];
        Self {
            filter,
            grants,
            pending,
            seen: AHashSet::new(),
            budget: COVER_BUDGET,
        }
    }

    fn all_covered(mut self) -> bool {
        while let Some(branch) = self.pending.pop() {
            if self.is_uncovered(&branch) || self.expand(branch).is_err() {
                return false;
            }
        }
        true
    }

    fn is_uncovered(&self, branch: &Branch) -> bool {
        match self.filter.atom(branch.at) {
            Atom::End => !self.any_grant(branch, TopicFilter::is_accepting),
            _ => branch.grants.is_empty(),
        }
    }

    fn expand(&mut self, Branch { at, grants }: Branch) -> Result<(), Exhausted> {
        let after = self.filter.skip_stars(at);
        match self.filter.atom(at) {
            Atom::End => {}
            Atom::Byte(byte) => {
                let grants = self.step(&grants, Symbol::Byte(byte))?;
                self.visit(Branch { at: at + 1, grants });
            }
            Atom::Star => {
                let grants = self.step(&grants, Symbol::Unspelled)?;
                self.visit(Branch { at: after, grants });
            }
            Atom::DoubleStar => {
                let grants = self.step(&grants, Symbol::Unspelled)?;
                let longer = self.step(&grants, Symbol::SEPARATOR)?;
                self.visit(Branch { at, grants: longer });
                self.visit(Branch { at: after, grants });
            }
        }
        Ok(())
    }

    fn step(&mut self, from: &GrantPositions, symbol: Symbol) -> Result<GrantPositions, Exhausted> {
        let cost = from.iter().map(|(_, positions)| positions.len()).sum();
        self.budget = self.budget.checked_sub(cost).ok_or(Exhausted)?;
        let step = |&(index, positions): &(usize, Positions)| {
            (index, self.grants[index].step(positions, symbol))
        };
        Ok(from
            .iter()
            .map(step)
            .filter(|(_, positions)| !positions.is_empty())
            .collect())
    }

    fn visit(&mut self, branch: Branch) {
        if !self.any_grant(&branch, TopicFilter::accepts_all_from)
            && self.seen.insert(branch.clone())
        {
            self.pending.push(branch);
        }
    }

    fn any_grant(&self, branch: &Branch, test: impl Fn(&TopicFilter, &Positions) -> bool) -> bool {
        branch
            .grants
            .iter()
            .any(|(index, positions)| test(self.grants[*index], positions))
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;

    fn filter(text: &str) -> TopicFilter {
        TopicFilter::parse(text).unwrap()
    }

    fn filters(texts: &[&str]) -> Vec<TopicFilter> {
        texts.iter().copied().map(filter).collect()
    }

    fn is_covered(grants: &[&str], by: &str) -> bool {
        covers(&filters(grants), &filter(by))
    }

    #[test]
    fn tenants_are_equal_by_name_and_none_differs_from_all() {
        assert_eq!(Tenant::default(), Tenant::none());
        assert_eq!(Tenant::named("a"), Tenant::named("a"));
        assert_ne!(Tenant::named(""), Tenant::none());
        assert_eq!(Tenant::named("a").as_deref(), Some("a"));
        assert_eq!(Tenant::none().as_deref(), None);
    }

    #[test]
    fn topics_of_1_to_255_bytes_are_accepted() {
        for text in ["a", "order:123", ":", "日本:é", &"x".repeat(255)] {
            assert_eq!(Topic::parse(text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn errors_say_what_was_wrong_and_what_to_do() {
        let message = |text: &str| Topic::parse(text).unwrap_err().to_string();
        assert_eq!(message(""), "topic is empty: give 1 to 255 bytes");
        assert_eq!(
            message("a b"),
            r#"topic "a b" contains white space: remove it, or write "-" or ":" in its place"#
        );
        assert_eq!(
            message("a,b"),
            r#"topic "a,b" contains a comma: give each topic by itself"#
        );
        assert_eq!(
            message("a*"),
            r#"topic "a*" contains "*": name one topic, wildcards are for topic filters"#
        );
        assert_eq!(
            message("a\0"),
            r#"topic "a\0" contains a control character: remove it"#
        );
        let filter_error = TopicFilter::parse("*,").unwrap_err().to_string();
        assert_eq!(
            filter_error,
            r#"topic filter "*," contains a comma: give each topic by itself"#
        );
    }

    #[test]
    fn white_space_and_control_characters_of_all_unicode_are_refused() {
        for text in ["a\u{a0}", "\u{2003}", "a\u{2028}b", "\t", "\r\n"] {
            assert!(
                matches!(Topic::parse(text), Err(TopicError::WhiteSpace { .. })),
                "{text:?}"
            );
        }
        for text in ["\u{7f}", "\u{1b}[31m", "\u{9b}"] {
            assert!(
                matches!(TopicFilter::parse(text), Err(TopicError::Control { .. })),
                "{text:?}"
            );
        }
    }

    #[test]
    fn errors_quote_at_most_64_characters() {
        let long = "é".repeat(128);
        let expected = format!(
            "topic \"{}…\" is 256 bytes long: give at most 255",
            "é".repeat(63)
        );
        assert_eq!(Topic::parse(&long).unwrap_err().to_string(), expected);
    }

    #[test]
    fn filters_match_as_the_protocol_says() {
        for (pattern, topic, expected) in [
            ("order:1", "order:1", true),
            ("order:1", "order:12", false),
            ("order:*", "order:1", true),
            ("order:*", "order:", true),
            ("order:*", "order:1:items", false),
            ("order.*", "order.created", true),
            ("repo:**", "repo:a:b:c", true),
            ("repo:**", "repo:", true),
            ("repo:**", "repo", false),
            ("*", "a:b", false),
            ("**", "a:b", true),
            ("***", "a:b", true),
            ("a*b:*c", "axb:xc", true),
            ("a*b:*c", "ax:b:xc", false),
            ("ab*ba", "aba", false),
            ("**:*", ":", true),
            ("*é*", "xéx", true),
            ("*é", "ê", false),
        ] {
            assert_eq!(
                filter(pattern).matches(topic),
                expected,
                "{pattern} {topic}"
            );
        }
    }

    #[test]
    fn tokens_are_literal_runs_and_collapsed_wildcards() {
        let tokens = |text: &str| {
            filter(text)
                .tokens()
                .map(|token| format!("{token:?}"))
                .collect::<Vec<_>>()
        };
        assert_eq!(tokens("a:b"), [r#"Literal("a:b")"#]);
        assert_eq!(tokens("*a***"), ["Star", r#"Literal("a")"#, "DoubleStar"]);
    }

    #[test]
    fn longer_runs_of_stars_are_kept_as_two() {
        assert_eq!(filter("***a*b****"), filter("**a*b**"));
        assert_eq!(filter(&"*".repeat(255)).as_str(), "**");
        assert!(TopicFilter::parse(&"*".repeat(256)).is_err());
    }

    #[test]
    fn literal_prefix_ends_before_the_first_star() {
        assert_eq!(filter("a:b").literal_prefix(), "a:b");
        assert_eq!(filter("a:*:b*").literal_prefix(), "a:");
        assert_eq!(filter("**").literal_prefix(), "");
    }

    #[test]
    fn the_longest_filters_match_without_backtracking() {
        let hostile = filter(&format!("*{}", "a".repeat(30)).repeat(8));
        assert!(hostile.matches(&"a".repeat(255)));
        assert!(!hostile.matches(&format!("{}b", "a".repeat(254))));
        assert!(filter(&"**:".repeat(8)).matches(&":".repeat(255)));
    }

    #[test]
    fn a_filter_has_at_most_eight_wildcards() {
        assert!(TopicFilter::parse(&"a:*".repeat(8)).is_ok());
        let error = TopicFilter::parse(&"a:*".repeat(9)).unwrap_err();
        assert!(
            error.to_string().contains("more than 8 wildcards"),
            "{error}"
        );
    }

    #[test]
    fn one_grant_covers_what_it_matches_all_of() {
        for (grant, by) in [
            ("order:1", "order:1"),
            ("order:*", "order:1"),
            ("order:*", "order:*"),
            ("order:*", "order:*1*2"),
            ("order:**", "order:*:items:*"),
            ("**", "**:**"),
            ("**:*", ":**"),
            ("**:*", "**:**"),
            ("*:**", "a**:b"),
            ("a**", "a*******"),
        ] {
            assert!(is_covered(&[grant], by), "{grant} covers {by}");
        }
    }

    #[test]
    fn a_grant_does_not_cover_what_it_misses_some_of() {
        for (grant, by) in [
            ("order:1", "order:*"),
            ("order:*", "order:**"),
            ("order:*", "order*"),
            ("order:*", "**"),
            ("*", "*:"),
            ("*a", "a*"),
            ("**:*", "**"),
            ("**:**:**", "**:*"),
        ] {
            assert!(!is_covered(&[grant], by), "{grant} does not cover {by}");
        }
        assert!(!is_covered(&[], "a"));
        assert!(!is_covered(&[], "**"));
    }

    #[test]
    fn grants_cover_together_what_none_covers_alone() {
        assert!(is_covered(&["order:*", "order:*:**"], "order:**"));
        assert!(is_covered(&["*", "*:*", "*:*:**"], "**"));
        assert!(is_covered(&["a**", "*", "*:**"], "**a"));
        assert!(!is_covered(&["order:*", "order:*:*:**"], "order:**"));
        assert!(!is_covered(&["*", "**:a", "**:b"], "**"));
    }

    #[test]
    fn hundreds_of_grants_are_no_obstacle() {
        let mut grants: Vec<_> = (0..300).map(|n| filter(&format!("*:{n}:**"))).collect();
        grants.extend((0..300).map(|n| filter(&format!("tenant:{n}:**"))));
        assert!(!covers(&grants, &filter("tenant:**")));
        grants.extend(filters(&["tenant:*", "tenant:*:**"]));
        assert!(covers(&grants, &filter("tenant:**")));
    }

    #[test]
    fn a_search_that_exhausts_its_budget_denies() {
        let (grants, filter) = (filters(&["order:*", "order:*:**"]), filter("order:**"));
        let search = |budget| {
            let search = UnionSearch::new(grants.iter().collect(), &filter);
            UnionSearch { budget, ..search }.all_covered()
        };
        assert!(search(COVER_BUDGET));
        assert!(!search(10));
    }

    /// `matches`, straight from its definition; exponential.
    fn matches_by_definition(pattern: &[char], topic: &[char]) -> bool {
        let stars = pattern.iter().take_while(|&&c| c == '*').count();
        if stars == 0 {
            return match (pattern, topic) {
                ([], []) => true,
                ([p, pattern @ ..], [t, topic @ ..]) => {
                    p == t && matches_by_definition(pattern, topic)
                }
                _ => false,
            };
        }
        let reach = topic.iter().take_while(|&&c| stars > 1 || c != ':').count();
        (0..=reach).any(|taken| matches_by_definition(&pattern[stars..], &topic[taken..]))
    }

    /// All words of 1 to `longest` letters.
    fn words(alphabet: &[char], longest: usize) -> Vec<String> {
        let mut words = vec![String::new()];
        let mut start = 0;
        for _ in 0..longest {
            let end = words.len();
            for index in start..end {
                words.extend(
                    alphabet
                        .iter()
                        .map(|letter| format!("{}{letter}", words[index]))
                        .collect::<Vec<_>>(),
                );
            }
            start = end;
        }
        words.split_off(1)
    }

    /// A topic that `filter` matches and none of the `grants` does. `x` is in no filter.
    fn counterexample(
        grants: &[TopicFilter],
        filter: &TopicFilter,
        longest: usize,
    ) -> Option<String> {
        words(&['a', ':', 'x'], longest)
            .into_iter()
            .find(|topic| filter.matches(topic) && !grants.iter().any(|grant| grant.matches(topic)))
    }

    /// The text with a filler in place of each wildcard, cut down to what the wildcard admits, so
    /// that whatever matches the result matches the text too.
    fn narrowed(text: &str, fillers: &[String]) -> String {
        let mut fillers = fillers.iter().cycle();
        let mut next = || fillers.next().map_or("", String::as_str);
        let filter = filter(text);
        let pieces = filter.tokens().map(|token| match token {
            Token::Literal(literal) => literal.to_owned(),
            Token::Star => one_star(&next().replace(':', "")),
            Token::DoubleStar => next().to_owned(),
        });
        pieces.collect()
    }

    /// The text with each run of stars cut down to one.
    fn one_star(text: &str) -> String {
        let mut text = text.to_owned();
        while text.contains("**") {
            text = text.replace("**", "*");
        }
        text
    }

    /// Two filters in place of the one at `at`, which match together what it does: its first `**`
    /// stays in a segment, or it does not.
    fn split(filters: &mut Vec<String>, at: usize) {
        let filter = filters.swap_remove(at);
        match filter.split_once("**") {
            None => filters.push(filter),
            Some((before, after)) => {
                filters.push(format!("{before}*{after}"));
                filters.push(format!("{before}*:**{after}"));
            }
        }
    }

    proptest! {
        #[test]
        fn matching_agrees_with_the_definition(pattern in "[ab:é*]{1,8}", topic in "[ab:éê]{1,8}") {
            let expected = matches_by_definition(
                &pattern.chars().collect::<Vec<_>>(),
                &topic.chars().collect::<Vec<_>>(),
            );
            prop_assert_eq!(filter(&pattern).matches(&topic), expected);
        }

        #[test]
        fn tokens_spell_the_filter(text in "[ab:é*]{1,12}") {
            let filter = filter(&text);
            let spelled: String = filter
                .tokens()
                .map(|token| match token {
                    Token::Literal(text) => text,
                    Token::Star => "*",
                    Token::DoubleStar => "**",
                })
                .collect();
            prop_assert_eq!(filter.as_str(), spelled);
        }

        #[test]
        fn parsing_never_panics_and_keeps_the_text(text in any::<String>()) {
            match Topic::parse(&text) {
                Ok(topic) => prop_assert_eq!(topic.as_str(), text),
                Err(error) => prop_assert!(error.to_string().chars().all(|c| !c.is_control())),
            }
        }

        #[test]
        fn what_is_covered_and_matched_is_granted(
            grants in vec("(a|b|:|\\*|\\*\\*){1,4}", 1..6),
            by in "(a|b|:|\\*|\\*\\*){1,4}",
            fillers in vec(vec("[abx:]{0,3}", 3), 20),
        ) {
            let filters: Vec<_> = grants.iter().map(|text| filter(text)).collect();
            if covers(&filters, &filter(&by)) {
                for topic in fillers.iter().map(|fillers| narrowed(&by, fillers)) {
                    prop_assert!(filters.iter().any(|grant| grant.matches(&topic)), "{topic}");
                }
            }
        }

        #[test]
        fn a_grant_covers_what_is_narrower_and_matches_what_that_matches(
            grant in "[ab:é*]{0,4}\\*[ab:é*]{0,4}",
            others in vec("[ab:*]{1,6}", 0..3),
            narrower in vec("[ab:*]{0,3}", 5),
            fillers in vec("[abx:ê]{0,3}", 8),
        ) {
            let by = narrowed(&grant, &narrower);
            prop_assume!(TopicFilter::parse(&by).is_ok());
            let topic = narrowed(&by, &fillers);
            let (grant, by) = (filter(&grant), filter(&by));
            let mut grants: Vec<_> = others.iter().map(|text| filter(text)).collect();
            grants.push(grant.clone());
            prop_assert!(covers(&grants, &by), "{grant} {by}");
            prop_assert!(by.matches(&topic) && grant.matches(&topic), "{grant} {by} {topic}");
        }

        #[test]
        fn grants_cover_together_what_was_split_among_them(
            by in "[ab:*]{0,3}\\*\\*[ab:*]{0,3}",
            splits in vec(any::<Index>(), 1..5),
            narrower in vec("[ab:*]{0,3}", 3),
            fillers in vec("[abx:]{0,4}", 5),
        ) {
            let by = filter(&by).as_str().to_owned();
            let mut grants = vec![by.clone()];
            for at in splits {
                let at = at.index(grants.len());
                split(&mut grants, at);
            }
            let grants: Vec<_> = grants.iter().map(|text| filter(text)).collect();
            prop_assert!(covers(&grants, &filter(&by)), "{grants:?} {by}");
            let narrower = narrowed(&by, &narrower);
            prop_assume!(TopicFilter::parse(&narrower).is_ok());
            prop_assert!(covers(&grants, &filter(&narrower)), "{grants:?} {narrower}");
            for text in [by, narrower] {
                let topic = narrowed(&text, &fillers);
                prop_assert!(grants.iter().any(|grant| grant.matches(&topic)), "{grants:?} {topic}");
            }
        }

        #[test]
        fn covering_agrees_with_brute_force(
            grants in vec("[a:*]{1,4}", 1..5),
            by in "(:|a|\\*|\\*\\*){1,3}",
        ) {
            let grants: Vec<_> = grants.iter().map(|text| filter(text)).collect();
            let by = filter(&by);
            let missed = counterexample(&grants, &by, 8);
            prop_assert_eq!(covers(&grants, &by), missed.is_none(), "{:?}", missed);
        }
    }
}
