//! Cuts an event stream into its events, without copying them.

use std::mem;

use bytes::Bytes;

use crate::{mcp::sse::Scanner, observe::HOLD};

/// Cuts the frames of one stream.
#[derive(Debug)]
pub(super) struct Splitter {
    scanner: Scanner,
    /// The pieces of an event whose end has not come.
    held: Vec<Bytes>,
    bytes: usize,
    /// The beginning of this event went out already.
    torn: bool,
}

/// What is to go out next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    /// An event with data, and with an id of the server's own if that is said.
    Event {
        /// Its bytes.
        pieces: Vec<Bytes>,
        /// It has an id.
        named: bool,
    },
    /// A comment, or a `retry:`.
    Other(Vec<Bytes>),
    /// The beginning of an event that is too long to wait for its end.
    Begin(Vec<Bytes>),
    /// More of that event; with its end, if that is said.
    More {
        /// Its bytes.
        pieces: Vec<Bytes>,
        /// It ends.
        ends: bool,
    },
}

impl Splitter {
    pub(super) fn new() -> Self {
        Self {
            scanner: Scanner::plain(),
            held: Vec::new(),
            bytes: 0,
            torn: false,
        }
    }

    /// Cuts one frame.
    pub(super) fn feed(&mut self, data: &Bytes, mut tell: impl FnMut(Part)) {
        let Self {
            scanner,
            held,
            bytes,
            torn,
        } = self;
        let mut from = 0;
        scanner.feed_with_ends(data, |event, end| {
            let mut pieces = mem::take(held);
            keep(&mut pieces, data.slice(from..end));
            from = end;
            *bytes = 0;
            tell(if mem::take(torn) {
                Part::More { pieces, ends: true }
            } else if event.data || event.id.is_some() {
                Part::Event {
                    pieces,
                    named: event.id.is_some(),
                }
            } else {
                Part::Other(pieces)
            });
        });
        *bytes += keep(held, data.slice(from..));
        // What stands between two events belongs to none.
        if scanner.at_boundary() {
            held.clear();
            *bytes = 0;
        } else if *torn {
            *bytes = 0;
            tell(Part::More {
                pieces: mem::take(held),
                ends: false,
            });
        } else if *bytes > HOLD {
            *torn = true;
            *bytes = 0;
            tell(Part::Begin(mem::take(held)));
        }
    }

    /// What is left of an event that never ended.
    pub(super) fn rest(&mut self) -> Vec<Bytes> {
        mem::take(&mut self.held)
    }
}

/// Adds a piece. At the beginning of an event line ends are left out: they belong to the one before, or to none.
fn keep(pieces: &mut Vec<Bytes>, mut piece: Bytes) -> usize {
    if pieces.is_empty() {
        let blank = piece.iter().take_while(|b| matches!(b, b'\r' | b'\n'));
        let blank = blank.count();
        // Of a torn event, or of one that ends with this, line ends say something.
        if blank < piece.len() {
            piece = piece.split_off(blank);
        }
    }
    let len = piece.len();
    if len > 0 {
        pieces.push(piece);
    }
    len
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(text: &str, step: usize) -> Vec<(&'static str, String)> {
        let mut splitter = Splitter::new();
        let mut parts = Vec::new();
        let all = Bytes::from(text.to_owned());
        let mut from = 0;
        while from < all.len() {
            let to = all.len().min(from + step);
            splitter.feed(&all.slice(from..to), |part| {
                let (kind, pieces) = match part {
                    Part::Event { pieces, named } => {
                        (if named { "named" } else { "event" }, pieces)
                    }
                    Part::Other(pieces) => ("other", pieces),
                    Part::Begin(pieces) => ("begin", pieces),
                    Part::More { pieces, .. } => ("more", pieces),
                };
                let text = String::from_utf8(pieces.concat()).expect("text");
                parts.push((kind, text));
            });
            from = to;
        }
        parts
    }

    #[test]
    fn each_event_comes_alone_and_whole_wherever_it_is_cut() {
        for end in ["\n", "\r", "\r\n"] {
            let text =
                ":\n\ndata: a\n\n\n\nevent: x\ndata: b\n\nid: 7\ndata:\n\nretry: 5\n\ndata: half\n"
                    .replace('\n', end);
            let usual = cut(&text, text.len());
            let kinds: Vec<_> = usual.iter().map(|(kind, _)| *kind).collect();
            assert_eq!(
                kinds,
                ["other", "event", "event", "named", "other"],
                "{end:?}"
            );
            assert_eq!(usual[2].1.trim_end(), format!("event: x{end}data: b"));
            for step in 1..text.len() {
                let parts = cut(&text, step);
                let same = parts
                    .iter()
                    .zip(&usual)
                    .all(|(a, b)| a.0 == b.0 && a.1.trim_end() == b.1.trim_end());
                assert!(
                    same && parts.len() == usual.len(),
                    "{end:?} {step} {parts:?}"
                );
            }
        }
    }

    #[test]
    fn an_event_that_is_too_long_goes_out_in_pieces() {
        let long = format!("data: a\n\ndata: {}\n\ndata: b\n\n", "x".repeat(3 * HOLD));
        let parts = cut(&long, HOLD / 2);
        assert_eq!(parts[1].0, "begin");
        assert_eq!(parts.last().map(|p| &*p.1), Some("data: b\n\n"));
        let all: String = parts.iter().map(|(_, text)| text.as_str()).collect();
        assert_eq!(all, long);
    }
}
