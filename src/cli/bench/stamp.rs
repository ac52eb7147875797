//! What each event carries in `data`: the run, its topic, its number there, and when it was due.
//!
//! Fields of fixed width in hexadecimal digits, so that it is written without allocating, and found in a frame of any
//! transport without parsing the frame:
//!
//! ```text
//! "@RRRRRRRRTTTTTNNNNNNNNDDDDDDDDDDDDDD......."
//!   run     topic number  due, in ns   padding
//! ```

use memchr::memmem::Finder;

const MARK: u8 = b'@';
const RUN_DIGITS: usize = 8;
const TOPIC_DIGITS: usize = 5;
const NUMBER_DIGITS: usize = 8;
const DUE_DIGITS: usize = 14;
const FIELDS: usize = TOPIC_DIGITS + NUMBER_DIGITS + DUE_DIGITS;

/// Bytes of `data` without any padding, with its quotes.
pub const LEAST_SIZE: usize = 1 + RUN_DIGITS + FIELDS + 2;

/// Most topics that the field tells apart.
pub const MOST_TOPICS: u32 = 1 << (4 * TOPIC_DIGITS);

/// An event of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub topic: u32,
    /// Within its topic, from 0.
    pub number: u32,
    /// Nanoseconds since the run began.
    pub due: u64,
}

/// Writes the stamps of one run, and finds them.
#[derive(Debug)]
pub struct Stamps {
    finder: Finder<'static>,
    padding: usize,
}

impl Stamps {
    /// For a run whose name has 8 hexadecimal digits, with `data` of `size` bytes, at least [`LEAST_SIZE`].
    pub fn new(run: &str, size: usize) -> Self {
        debug_assert_eq!(run.len(), RUN_DIGITS);
        let mut mark = vec![MARK];
        mark.extend_from_slice(run.as_bytes());
        Self {
            finder: Finder::new(&mark).into_owned(),
            padding: size.saturating_sub(LEAST_SIZE),
        }
    }

    /// Appends the event's `data`, a JSON string.
    pub fn write(&self, stamp: Stamp, out: &mut Vec<u8>) {
        out.push(b'"');
        out.extend_from_slice(self.finder.needle());
        put(u64::from(stamp.topic), TOPIC_DIGITS, out);
        put(u64::from(stamp.number), NUMBER_DIGITS, out);
        put(stamp.due, DUE_DIGITS, out);
        out.resize(out.len() + self.padding, b'.');
        out.push(b'"');
    }

    /// The stamps in `frame`, in order. What only looks like one is passed over.
    pub fn find<'f>(&'f self, frame: &'f [u8]) -> impl Iterator<Item = Stamp> + 'f {
        let after = self.finder.needle().len();
        self.finder
            .find_iter(frame)
            .filter_map(move |place| read(frame.get(place + after..)?))
    }
}

fn put(value: u64, digits: usize, out: &mut Vec<u8>) {
    for place in (0..digits).rev() {
        let digit = (value >> (4 * place)) & 0xf;
        // Below 16.
        let digit = digit as u8;
        out.push(if digit < 10 {
            b'0' + digit
        } else {
            b'a' + digit - 10
        });
    }
}

fn read(fields: &[u8]) -> Option<Stamp> {
    let fields = fields.get(..FIELDS)?;
    let (topic, rest) = fields.split_at(TOPIC_DIGITS);
    let (number, due) = rest.split_at(NUMBER_DIGITS);
    Some(Stamp {
        topic: u32::try_from(value(topic)?).ok()?,
        number: u32::try_from(value(number)?).ok()?,
        due: value(due)?,
    })
}

fn value(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |value, digit| {
        let digit = char::from(*digit).to_digit(16)?;
        Some(value << 4 | u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_found_again_in_a_page_of_them_and_has_the_size_asked_for() {
        let stamps = Stamps::new("0badcafe", 100);
        let written = [
            Stamp {
                topic: 0,
                number: 0,
                due: 0,
            },
            Stamp {
                topic: MOST_TOPICS - 1,
                number: u32::MAX,
                due: (1 << 56) - 1,
            },
        ];
        let mut page = b"{\"cursor\":\"a-1\",\"events\":[{\"data\":".to_vec();
        for stamp in written {
            let before = page.len();
            stamps.write(stamp, &mut page);
            assert_eq!(page.len() - before, 100);
            page.extend_from_slice(b"},{");
        }
        assert_eq!(stamps.find(&page).collect::<Vec<_>>(), written);
        let mut least = Vec::new();
        Stamps::new("0badcafe", 1).write(written[0], &mut least);
        assert_eq!(least.len(), LEAST_SIZE);
    }

    #[test]
    fn what_is_of_another_run_or_cut_off_is_none() {
        let mut frame = Vec::new();
        let stamp = Stamp {
            topic: 1,
            number: 2,
            due: 3,
        };
        Stamps::new("00000001", 64).write(stamp, &mut frame);
        assert_eq!(Stamps::new("00000002", 64).find(&frame).count(), 0);
        let own = Stamps::new("00000001", 64);
        assert_eq!(own.find(&frame[..30]).count(), 0);
        assert_eq!(
            own.find(b"@00000001 not a stamp but a text of the same length")
                .count(),
            0
        );
    }
}
