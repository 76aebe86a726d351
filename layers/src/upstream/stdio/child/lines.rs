//! A child's output, cut into lines. One that is too long is not kept: only what must be known of it is found out as it passes.

use bytes::{Buf, Bytes, BytesMut};

use super::Id;
use crate::mcp::peek::{Peek, Seen};

/// Cuts a child's output into lines, and skims those that are too long.
pub(super) struct Lines {
    limit: usize,
    /// Bytes of the current line that are known to have no line end.
    scanned: usize,
    /// The current line is too long: it is only looked at.
    oversized: Option<Skimmed>,
}

/// A line, without its end.
#[derive(Debug)]
pub(super) enum Cut {
    Line(Bytes),
    TooLong(Skimmed),
}

/// What is known of a line that could not be read.
#[derive(Debug, Default)]
pub(super) struct Skimmed {
    peek: Box<Peek>,
    pub(super) seen: Option<Seen>,
}

impl Lines {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            scanned: 0,
            oversized: None,
        }
    }

    /// Takes the next whole line out of `buffer`, if there is one.
    pub(super) fn next(&mut self, buffer: &mut BytesMut) -> Option<Cut> {
        let end = memchr::memchr(b'\n', &buffer[self.scanned..]).map(|at| self.scanned + at);
        let len = end.unwrap_or(buffer.len());
        if self.oversized.is_some() || len > self.limit {
            self.scanned = 0;
            let skimmed = self.oversized.get_or_insert_default();
            skimmed.feed(&buffer[..len]);
            buffer.advance(len);
            end?;
            buffer.advance(1);
            return self.oversized.take().map(Cut::TooLong);
        }
        self.scanned = if end.is_some() { 0 } else { len };
        let line = buffer.split_to(end?).freeze();
        buffer.advance(1);
        Some(Cut::Line(line))
    }
}

impl Skimmed {
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.peek.feed(bytes, |seen| self.seen = Some(seen));
    }

    /// The wire's number of the request that the line answers.
    pub(super) fn answers(&self) -> Option<u64> {
        self.peek.answered().and_then(Id::as_number)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: usize = 40;

    /// What is cut out of `pieces`: the lines, and `None` for one that is too long, with the request that it answers.
    fn cut(pieces: &[Vec<u8>]) -> Vec<Result<Vec<u8>, Option<u64>>> {
        let (mut lines, mut buffer, mut out) = (Lines::new(LIMIT), BytesMut::new(), Vec::new());
        for piece in pieces {
            buffer.extend_from_slice(piece);
            while let Some(cut) = lines.next(&mut buffer) {
                out.push(match cut {
                    Cut::Line(line) => Ok(line.to_vec()),
                    Cut::TooLong(skimmed) => Err(skimmed.answers()),
                });
            }
            assert!(buffer.len() <= LIMIT, "no more than a line is kept");
        }
        out
    }

    fn line() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            prop::collection::vec(
                any::<u8>().prop_filter("no end", |b| *b != b'\n'),
                0..2 * LIMIT
            ),
            (0..100_u64, 0..2 * LIMIT).prop_map(|(id, pad)| {
                format!(r#"{{"id":{id},"result":"{}"}}"#, "x".repeat(pad)).into_bytes()
            }),
        ]
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_how_the_output_is_cut(
            whole in prop::collection::vec(line(), 0..8),
            cuts in prop::collection::vec(1..60_usize, 1..40),
        ) {
            let mut text: Vec<u8> = whole.iter().flat_map(|l| [l.as_slice(), b"\n"].concat()).collect();
            let mut pieces = Vec::new();
            for at in cuts.iter().cycle() {
                if text.is_empty() {
                    break;
                }
                pieces.push(text.drain(..(*at).min(text.len())).collect());
            }
            let out = cut(&pieces);
            prop_assert_eq!(out.len(), whole.len());
            for (out, line) in out.iter().zip(&whole) {
                match out {
                    Ok(out) => prop_assert_eq!(out, line),
                    Err(answers) => {
                        prop_assert!(line.len() > LIMIT);
                        if let Some(rest) = line.strip_prefix(br#"{"id":"#) {
                            let digits: Vec<u8> = rest.iter().copied().take_while(u8::is_ascii_digit).collect();
                            let id = String::from_utf8(digits).expect("digits").parse().ok();
                            prop_assert_eq!(*answers, id);
                        }
                    }
                }
            }
        }
    }
}
