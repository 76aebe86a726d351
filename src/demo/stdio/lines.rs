//! Cuts bytes into lines, of bounded length.

use bytes::{Buf, Bytes, BytesMut};

/// The longest line that is read.
const LONGEST: usize = 16 << 20;
const CHUNK: usize = 64 << 10;

/// What stands between two line ends.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// A line that is not empty, without its end.
    Text(Bytes),
    /// A line that was too long to keep.
    TooLong,
}

/// The bytes that have arrived and are not handled yet.
#[derive(Debug)]
pub(super) struct Lines {
    buffer: BytesMut,
    searched: usize,
    skipping: bool,
    longest: usize,
}

impl Default for Lines {
    fn default() -> Self {
        Self::up_to(LONGEST)
    }
}

// === impl Lines ===

impl Lines {
    fn up_to(longest: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            searched: 0,
            skipping: false,
            longest,
        }
    }

    /// Where to put what arrives.
    pub(super) fn buffer(&mut self) -> &mut BytesMut {
        if self.buffer.capacity() - self.buffer.len() < CHUNK / 4 {
            self.buffer.reserve(CHUNK);
        }
        &mut self.buffer
    }

    /// The next complete line.
    pub(super) fn next(&mut self) -> Option<Line> {
        loop {
            let Some(end) = self.buffer[self.searched..]
                .iter()
                .position(|byte| *byte == b'\n')
            else {
                self.searched = self.buffer.len();
                if self.searched > self.longest {
                    self.buffer.clear();
                    self.searched = 0;
                    self.skipping = true;
                }
                return None;
            };
            let line = self.buffer.split_to(self.searched + end).freeze();
            self.buffer.advance(1);
            self.searched = 0;
            if std::mem::take(&mut self.skipping) || line.len() > self.longest {
                return Some(Line::TooLong);
            }
            if !line.trim_ascii().is_empty() {
                return Some(Line::Text(line));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(line: &'static str) -> Option<Line> {
        Some(Line::Text(Bytes::from_static(line.as_bytes())))
    }

    #[test]
    fn a_line_is_cut_wherever_the_reads_happen_to_end() {
        let mut lines = Lines::default();
        lines.buffer().extend_from_slice(b"{\"a\"");
        assert_eq!(lines.next(), None);
        lines.buffer().extend_from_slice(b":1}\n\n{}\n{");
        assert_eq!(lines.next(), text("{\"a\":1}"));
        assert_eq!(lines.next(), text("{}"));
        assert_eq!(lines.next(), None);
    }

    #[test]
    fn a_line_that_is_too_long_is_skipped_to_its_end() {
        let mut lines = Lines::up_to(4);
        lines.buffer().extend_from_slice(b"123456");
        assert_eq!(lines.next(), None);
        lines.buffer().extend_from_slice(b"789\nok\n12345\n");
        assert_eq!(lines.next(), Some(Line::TooLong));
        assert_eq!(lines.next(), text("ok"));
        assert_eq!(lines.next(), Some(Line::TooLong));
    }
}
