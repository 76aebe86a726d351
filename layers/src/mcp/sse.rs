//! Server-sent events, scanned as they pass.
//!
//! [`Scanner`] finds where events end, and reads of each event what a proxy needs: whether it has data, its id,
//! its `retry:`, and (with a [`Peek`]) which message it carries. It never changes or holds the bytes. Line ends may be CR, LF
//! or CRLF, and cuts may fall anywhere. Format: WHATWG HTML, "Server-sent events", section 9.2.6.
//!
//! Whoever reads event streams cuts lines and fields in the same way: `Lines` for what comes in pieces, `lines` and `field` for what is there whole.

use std::mem;

use memchr::{memchr, memchr2};

use super::{
    CallFacts,
    peek::{Peek, Seen},
};

/// One whole event.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Event {
    /// A byte order mark stands before it, at the beginning of its stream.
    pub marked: bool,
    /// It has a `data` field. Without one it is a comment, or sets `id` or `retry` only.
    pub data: bool,
    /// Its `id` field.
    pub id: Option<Box<str>>,
    /// Its `retry` field, in milliseconds.
    pub retry: Option<u64>,
    /// The messages in its data: one, or those of a batch, as many as a batch may have requests.
    pub messages: Vec<Seen>,
}

/// The scanner of one stream.
#[derive(Debug)]
pub struct Scanner {
    /// Whether to look into the data.
    peek: Option<Box<Peek>>,
    lines: Lines,
    /// The part of the current line that has been read.
    line: Line,
    event: Event,
    /// Bytes of an event have been seen since the last event's end.
    partial: bool,
}

/// Cuts the bytes of a stream into its lines, wherever they are cut themselves.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    /// How much of a byte order mark may have come; all of it where none may stand (any more).
    mark: usize,
    /// The last line end was a CR: a LF that follows belongs to it.
    after_cr: bool,
}

/// What comes next in a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    /// A part of a line that goes on.
    Part(&'a [u8]),
    /// What is left of a line, which ends.
    Last(&'a [u8]),
    /// The second half of a line end.
    Feed,
    /// A part of what may be a byte order mark.
    Marking,
    /// The end of a byte order mark: it belongs to no line.
    Marked,
}

#[derive(Debug, Default)]
struct Line {
    field: Field,
    name: [u8; 6],
    len: usize,
    value: Vec<u8>,
    /// Nothing of the value has been read yet: one space may follow the colon.
    fresh: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Field {
    /// The name is being read.
    #[default]
    Name,
    Data,
    Id,
    Retry,
    /// Any other field, or a comment.
    Other,
}

/// The byte order mark, which may stand at the beginning of a stream. Elsewhere it is a part of a field's name.
pub(crate) const MARK: &[u8] = b"\xef\xbb\xbf";

/// The longest event id that is kept.
const LONGEST_ID: usize = 1024;

impl Scanner {
    /// A scanner that looks for event ends, ids and `retry` only.
    pub fn plain() -> Self {
        Self {
            peek: None,
            lines: Lines::default(),
            line: Line::default(),
            event: Event::default(),
            partial: false,
        }
    }

    /// A scanner that also tells which JSON-RPC message each event carries.
    pub fn messages() -> Self {
        Self {
            peek: Some(Box::default()),
            ..Self::plain()
        }
    }

    /// The stream stands between two events: nothing of one has passed without its end.
    pub fn at_boundary(&self) -> bool {
        !self.partial
    }

    /// Scans `bytes`, tells each event that ends in them, and returns how many of the bytes belong to whole
    /// events.
    pub fn feed(&mut self, bytes: &[u8], mut tell: impl FnMut(Event)) -> usize {
        self.feed_with_ends(bytes, |event, _end| tell(event))
    }

    /// The same, and tells with each event where in `bytes` it ends.
    pub fn feed_with_ends(&mut self, bytes: &[u8], mut tell: impl FnMut(Event, usize)) -> usize {
        let (mut whole, mut at) = (0, 0);
        while let Some(piece) = self.lines.next(bytes, &mut at) {
            match piece {
                Piece::Last(text) if text.is_empty() && self.line.is_empty() => {
                    whole = at;
                    // Blank lines between events are no events.
                    if mem::take(&mut self.partial) {
                        tell(mem::take(&mut self.event), at);
                        if let Some(peek) = &mut self.peek {
                            peek.reset();
                        }
                    }
                }
                Piece::Last(text) => {
                    self.partial = true;
                    self.read(text);
                    self.end_line();
                }
                Piece::Part(text) => {
                    self.partial = true;
                    self.read(text);
                }
                Piece::Marking => self.partial = true,
                Piece::Marked => self.event.marked = true,
                Piece::Feed if self.partial => {}
                Piece::Feed => whole = at,
            }
        }
        whole
    }

    /// Reads a piece of a line.
    fn read(&mut self, mut piece: &[u8]) {
        if self.line.field == Field::Name {
            let colon = memchr(b':', piece);
            self.line.push_name(&piece[..colon.unwrap_or(piece.len())]);
            let Some(colon) = colon else { return };
            self.line.name_ends();
            self.begin_value();
            piece = &piece[colon + 1..];
        }
        if self.line.fresh && !piece.is_empty() {
            self.line.fresh = false;
            piece = piece.strip_prefix(b" ").unwrap_or(piece);
        }
        match self.line.field {
            Field::Data => self.data(piece),
            Field::Id | Field::Retry if self.line.value.len() + piece.len() <= LONGEST_ID => {
                self.line.value.extend_from_slice(piece);
            }
            Field::Id | Field::Retry => self.line.field = Field::Other,
            Field::Name | Field::Other => {}
        }
    }

    fn begin_value(&mut self) {
        if self.line.field == Field::Data {
            if self.event.data {
                self.data(b"\n");
            }
            self.event.data = true;
        }
    }

    fn data(&mut self, piece: &[u8]) {
        if let Some(peek) = &mut self.peek {
            let messages = &mut self.event.messages;
            peek.feed(piece, |seen| {
                if messages.is_empty() {
                    // Most events carry one.
                    messages.reserve_exact(1);
                }
                if messages.len() < CallFacts::MAX_BATCH {
                    messages.push(seen);
                }
            });
        }
    }

    fn end_line(&mut self) {
        if self.line.field == Field::Name {
            // A field without a colon has an empty value.
            self.line.name_ends();
            self.begin_value();
        }
        let line = &mut self.line;
        match line.field {
            // An id with a NUL is ignored.
            Field::Id if !line.value.contains(&0) => {
                self.event.id = std::str::from_utf8(&line.value).ok().map(Into::into);
            }
            Field::Retry if line.value.iter().all(u8::is_ascii_digit) => {
                self.event.retry = std::str::from_utf8(&line.value)
                    .ok()
                    .and_then(|t| t.parse().ok());
            }
            Field::Name | Field::Data | Field::Id | Field::Retry | Field::Other => {}
        }
        line.value.clear();
        line.field = Field::Name;
        line.len = 0;
        line.fresh = false;
    }
}

impl Lines {
    /// For bytes that do not begin a stream.
    fn inside() -> Self {
        Self {
            mark: MARK.len(),
            after_cr: false,
        }
    }

    /// What comes next in `bytes`, from `at` on, which moves behind it. All of them are to be read before others come.
    pub(crate) fn next<'a>(&mut self, bytes: &'a [u8], at: &mut usize) -> Option<Piece<'a>> {
        let rest = bytes.get(*at..).filter(|rest| !rest.is_empty())?;
        if mem::take(&mut self.after_cr) && rest[0] == b'\n' {
            *at += 1;
            return Some(Piece::Feed);
        }
        if let Some(next) = MARK.get(self.mark) {
            if rest[0] == *next {
                *at += 1;
                self.mark += 1;
                let whole = self.mark == MARK.len();
                return Some(if whole { Piece::Marked } else { Piece::Marking });
            }
            // What looked like one is the beginning of a line.
            let seen = mem::replace(&mut self.mark, MARK.len());
            if seen > 0 {
                return Some(Piece::Part(&MARK[..seen]));
            }
        }
        let Some(end) = memchr2(b'\n', b'\r', rest) else {
            *at = bytes.len();
            return Some(Piece::Part(rest));
        };
        *at += end + 1;
        if rest[end] == b'\r' {
            match rest.get(end + 1) {
                Some(b'\n') => *at += 1,
                Some(_) => {}
                None => self.after_cr = true,
            }
        }
        Some(Piece::Last(&rest[..end]))
    }
}

/// The lines of what is there whole, each with its end and without. A byte order mark is a part of a line here.
pub(crate) fn lines(bytes: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let (mut lines, mut at) = (Lines::inside(), 0);
    std::iter::from_fn(move || {
        let from = at;
        let text = match lines.next(bytes, &mut at)? {
            Piece::Part(text) | Piece::Last(text) => text,
            // Neither is found within one piece from the middle of a stream.
            Piece::Feed | Piece::Marking | Piece::Marked => &[],
        };
        Some((&bytes[from..at], text))
    })
}

/// The name and the value of the field in a whole line. A comment has no name, and a field without a colon an empty value.
pub(crate) fn field(line: &[u8]) -> (&[u8], &[u8]) {
    let Some(colon) = memchr(b':', line) else {
        return (line, b"");
    };
    let value = &line[colon + 1..];
    (&line[..colon], value.strip_prefix(b" ").unwrap_or(value))
}

impl Line {
    fn is_empty(&self) -> bool {
        self.field == Field::Name && self.len == 0
    }

    fn push_name(&mut self, piece: &[u8]) {
        for &byte in piece {
            if let Some(slot) = self.name.get_mut(self.len) {
                *slot = byte;
            }
            // One past the longest name is enough to know that it is another.
            self.len = (self.len + 1).min(self.name.len() + 1);
        }
    }

    fn name_ends(&mut self) {
        self.field = match self.name.get(..self.len) {
            Some(b"data") => Field::Data,
            Some(b"id") => Field::Id,
            Some(b"retry") => Field::Retry,
            Some(_) | None => Field::Other,
        };
        self.fresh = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::peek::Answer;

    /// Feeds `text` in pieces; returns the events, and the text cut at the places that were told as whole.
    fn scan(text: &str, step: usize) -> (Vec<Event>, usize) {
        let mut scanner = Scanner::messages();
        let (mut events, mut whole, mut read) = (Vec::new(), 0, 0);
        for piece in text.as_bytes().chunks(step.max(1)) {
            let here = scanner.feed(piece, |e| events.push(e));
            if here > 0 {
                whole = read + here;
            }
            read += piece.len();
        }
        assert_eq!(scanner.at_boundary(), whole == read);
        (events, whole)
    }

    #[test]
    fn events_end_at_blank_lines_whatever_the_line_ends() {
        for end in ["\n", "\r", "\r\n"] {
            let text =
                ": hi\n\nid: 7\nretry:10\ndata: {\"id\":1,\ndata:\"result\":{}}\n\ndata\n\nda"
                    .replace('\n', end);
            for step in 1..text.len() {
                let (events, whole) = scan(&text, step);
                assert_eq!(events.len(), 3, "{step} {end:?}");
                assert!(!events[0].data);
                assert_eq!(events[1].id.as_deref(), Some("7"));
                assert_eq!(events[1].retry, Some(10));
                assert_eq!(events[1].messages, [Seen::Response(Answer::Result)]);
                assert_eq!(
                    events[2],
                    Event {
                        data: true,
                        ..Event::default()
                    }
                );
                assert_eq!(whole, text.len() - 2, "{step} {end:?}");
            }
        }
    }

    #[test]
    fn a_byte_order_mark_belongs_to_no_line_at_the_beginning_of_a_stream() {
        for end in ["\n", "\r", "\r\n"] {
            let text = "\u{feff}id: 1\ndata: {\"method\":\"x\"}\n\n\u{feff}id: 2\nretry: 5\n\n"
                .replace('\n', end);
            for step in 1..text.len() {
                let (events, whole) = scan(&text, step);
                assert_eq!((events.len(), whole), (2, text.len()), "{step} {end:?}");
                assert!(events[0].marked && events[0].data && !events[1].marked);
                assert_eq!(
                    (events[0].id.as_deref(), events[0].messages.len()),
                    (Some("1"), 1)
                );
                assert_eq!((events[1].id.as_deref(), events[1].retry), (None, Some(5)));
            }
        }
        // What only begins like one is a part of a name.
        let mut scanner = Scanner::plain();
        let mut events = Vec::new();
        for piece in [&b"\xef"[..], b"\xbb", b"id: 1\n", b"retry: 7\n\n"] {
            scanner.feed(piece, |event| events.push(event));
        }
        let retry = Some(7);
        assert_eq!(
            events,
            [Event {
                retry,
                ..Event::default()
            }]
        );
    }

    #[test]
    fn a_line_that_is_there_whole_is_cut_alike() {
        let all: Vec<_> = lines(b"a: b\r\n\rc\n:x").collect();
        let expected: [(&[u8], &[u8]); 4] = [
            (b"a: b\r\n", b"a: b"),
            (b"\r", b""),
            (b"c\n", b"c"),
            (b":x", b":x"),
        ];
        assert_eq!(all, expected);
        let fields: Vec<_> = all.iter().map(|(_, line)| field(line)).collect();
        let expected: [(&[u8], &[u8]); 4] = [(b"a", b"b"), (b"", b""), (b"c", b""), (b"", b"x")];
        assert_eq!(fields, expected);
    }

    proptest::proptest! {
        #[test]
        fn the_cuts_do_not_matter(text in "\u{feff}?(data: \\{\"method\":\"x\"\\}|id: a|:|\n|\r|\r\n|data|x: y|\u{feff}){0,20}", step in 1usize..9) {
            let (once, _) = scan(&text, text.len().max(1));
            let (cut, _) = scan(&text, step);
            proptest::prop_assert_eq!(once, cut);
        }

        #[test]
        fn any_bytes_pass_without_panic(bytes: Vec<u8>) {
            let mut scanner = Scanner::messages();
            let whole = scanner.feed(&bytes, |_| {});
            proptest::prop_assert!(whole <= bytes.len());
        }
    }
}
