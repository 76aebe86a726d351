//! Server-sent events, scanned as they pass.
//!
//! [`Scanner`] finds where events end, and reads of each event what a proxy needs: whether it has data, its id,
//! its `retry:`, and (with a [`Peek`]) which message it carries. It never changes or holds the bytes. Line ends may be CR, LF
//! or CRLF, and cuts may fall anywhere. Format: WHATWG HTML, "Server-sent events", section 9.2.6.

use memchr::memchr2;

use super::{
    CallFacts,
    peek::{Peek, Seen},
};

/// One whole event.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Event {
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
    /// The part of the current line that has been read.
    line: Line,
    /// The last line end was a CR: a LF that follows belongs to it.
    after_cr: bool,
    event: Event,
    /// Bytes of an event have been seen since the last event's end.
    partial: bool,
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

/// The longest event id that is kept.
const LONGEST_ID: usize = 1024;

impl Scanner {
    /// A scanner that looks for event ends, ids and `retry` only.
    pub fn plain() -> Self {
        Self {
            peek: None,
            line: Line::default(),
            after_cr: false,
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
        let mut whole = 0;
        let mut at = 0;
        if self.after_cr && !bytes.is_empty() {
            self.after_cr = false;
            if bytes[0] == b'\n' {
                at = 1;
                if !self.partial {
                    whole = 1;
                }
            }
        }
        while at < bytes.len() {
            let Some(found) = memchr2(b'\n', b'\r', &bytes[at..]) else {
                self.partial = true;
                self.read(&bytes[at..]);
                break;
            };
            let end = at + found;
            let blank = end == at && self.line.is_empty();
            if !blank {
                self.partial = true;
                self.read(&bytes[at..end]);
                self.end_line();
            }
            at = end + 1;
            if bytes[end] == b'\r' {
                match bytes.get(at) {
                    Some(b'\n') => at += 1,
                    Some(_) => {}
                    None => self.after_cr = true,
                }
            }
            if blank {
                whole = at;
                // Blank lines between events are no events.
                if std::mem::take(&mut self.partial) {
                    tell(std::mem::take(&mut self.event), at);
                    if let Some(peek) = &mut self.peek {
                        peek.reset();
                    }
                }
            }
        }
        whole
    }

    /// Reads a piece of a line.
    fn read(&mut self, mut piece: &[u8]) {
        if self.line.field == Field::Name {
            let colon = memchr::memchr(b':', piece);
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

    proptest::proptest! {
        #[test]
        fn the_cuts_do_not_matter(text in "(data: \\{\"method\":\"x\"\\}|id: a|:|\n|\r|\r\n|data|x: y){0,20}", step in 1usize..9) {
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
