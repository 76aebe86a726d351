//! Server-sent events with their data, for who wants to read a stream rather than to pass it on.
//!
//! [`EventReader`] is fed the bytes of an event stream in pieces of any size, and tells each event that has data. What it holds is bounded: an event
//! whose data is over the limit is an error. Line ends may be CR, LF or CRLF. Format: WHATWG HTML, "Server-sent events", section 9.2.6. Where events only
//! pass, [`sse::Scanner`] does with less.

use bytes::{Bytes, BytesMut};

use super::sse::{self, Lines, Piece};

/// One event that has data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataEvent {
    /// Its type; `message` if it has none.
    pub name: Box<str>,
    /// Its data, the lines joined by LF.
    pub data: Bytes,
}

/// Reads one stream.
#[derive(Debug)]
pub struct EventReader {
    limit: usize,
    lines: Lines,
    /// The part of the current line that has been read.
    line: Vec<u8>,
    /// The type of the current event.
    name: Vec<u8>,
    data: BytesMut,
    has_data: bool,
    /// The `id` of the current event.
    id: Option<Vec<u8>>,
    /// The newest `id` of an event that came whole; empty if there is none.
    last_id: Vec<u8>,
    retry: Option<u64>,
}

/// An event is longer than allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event is longer than {limit} bytes")]
pub struct EventTooLong {
    /// The limit.
    pub limit: usize,
}

impl EventReader {
    /// A reader that takes events of at most so many bytes of data, the line that is being read among them. A type and an id are a line each, so
    /// that it never holds more than a few times as much.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            lines: Lines::default(),
            line: Vec::new(),
            name: Vec::new(),
            data: BytesMut::new(),
            has_data: false,
            id: None,
            last_id: Vec::new(),
            retry: None,
        }
    }

    /// Another response of the same stream begins: half an event of the one before is forgotten.
    pub fn begin(&mut self) {
        self.lines = Lines::default();
        self.line.clear();
        self.name.clear();
        self.data.clear();
        self.id = None;
        self.has_data = false;
    }

    /// The newest `id` of an event that came whole, which is what a client resumes by.
    pub fn last_id(&self) -> &[u8] {
        &self.last_id
    }

    /// The newest `retry` of the stream, in milliseconds.
    pub fn retry(&self) -> Option<u64> {
        self.retry
    }

    /// Reads on, and tells each event with data that ends in `bytes`.
    ///
    /// # Errors
    /// When an event is too long; the stream cannot be read on then.
    pub fn feed(
        &mut self,
        bytes: &[u8],
        mut tell: impl FnMut(DataEvent),
    ) -> Result<(), EventTooLong> {
        let mut at = 0;
        while let Some(piece) = self.lines.next(bytes, &mut at) {
            match piece {
                Piece::Part(text) => self.hold(text)?,
                Piece::Last(text) => {
                    self.hold(text)?;
                    if let Some(event) = self.end_line() {
                        tell(event);
                    }
                }
                Piece::Feed | Piece::Marking | Piece::Marked => {}
            }
        }
        Ok(())
    }

    fn hold(&mut self, piece: &[u8]) -> Result<(), EventTooLong> {
        if self.line.len() + self.data.len() + piece.len() > self.limit {
            return Err(EventTooLong { limit: self.limit });
        }
        self.line.extend_from_slice(piece);
        Ok(())
    }

    fn end_line(&mut self) -> Option<DataEvent> {
        if self.line.is_empty() {
            return self.end_event();
        }
        let (field, value) = sse::field(&self.line);
        match field {
            b"event" => self.name = value.to_vec(),
            b"data" => {
                if self.has_data {
                    self.data.extend_from_slice(b"\n");
                }
                self.has_data = true;
                self.data.extend_from_slice(value);
            }
            // An id with a NUL is ignored.
            b"id" if !value.contains(&0) => self.id = Some(value.to_vec()),
            b"retry" if value.iter().all(u8::is_ascii_digit) => {
                let text = std::str::from_utf8(value).ok();
                self.retry = text.and_then(|t| t.parse().ok()).or(self.retry);
            }
            _ => {}
        }
        self.line.clear();
        None
    }

    fn end_event(&mut self) -> Option<DataEvent> {
        // An id counts once its event is whole: what comes after half of one is not what comes after it.
        if let Some(id) = self.id.take() {
            self.last_id = id;
        }
        let name = std::mem::take(&mut self.name);
        let data = self.data.split().freeze();
        std::mem::take(&mut self.has_data).then(|| DataEvent {
            name: match &*name {
                b"" => "message".into(),
                name => String::from_utf8_lossy(name).into(),
            },
            data,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `text` in pieces; returns the events.
    fn read(text: &str, step: usize) -> Vec<(String, String)> {
        let mut reader = EventReader::new(1000);
        let mut events = Vec::new();
        for piece in text.as_bytes().chunks(step.max(1)) {
            let tell = |e: DataEvent| {
                events.push((
                    e.name.into(),
                    String::from_utf8(e.data.to_vec()).expect("text"),
                ));
            };
            reader.feed(piece, tell).expect("short enough");
        }
        events
    }

    #[test]
    fn events_are_told_with_type_and_data_however_they_are_cut() {
        for end in ["\n", "\r", "\r\n"] {
            let text = "\u{feff}: hi\n\nevent: endpoint\ndata: /x?a=1\n\nid: 3\n\ndata:{\"a\":\ndata: 1}\n\ndata\n\nevent: x\n\ndata: cut"
                .replace('\n', end);
            for step in 1..text.len() {
                let expected = [
                    ("endpoint", "/x?a=1"),
                    ("message", "{\"a\":\n1}"),
                    ("message", ""),
                ]
                .map(|(name, data)| (name.to_owned(), data.to_owned()));
                assert_eq!(read(&text, step), expected, "{step} {end:?}");
            }
        }
    }

    #[test]
    fn the_last_id_and_retry_stay() {
        let mut reader = EventReader::new(100);
        let told = reader.feed(b"id: 1\nretry: 50\ndata: x\n\nid\nretry: no\n\n", |_| ());
        assert_eq!((told, reader.last_id()), (Ok(()), &b""[..]));
        assert_eq!(reader.retry(), Some(50));
        assert_eq!(reader.feed(b"data: half", |_| ()), Ok(()));
        reader.begin();
        let mut events = Vec::new();
        let fed = reader.feed(b"data: whole\n\n", |e| events.push(e.data));
        assert_eq!((fed, &*events), (Ok(()), &[Bytes::from("whole")][..]));
    }

    #[test]
    fn an_id_counts_once_its_event_is_whole() {
        let mut reader = EventReader::new(100);
        let told = reader.feed(b"id: 1\ndata: x\n\nid: 2\ndata: y", |_| ());
        assert_eq!((told, reader.last_id()), (Ok(()), &b"1"[..]));
        reader.begin();
        let told = reader.feed(b"data: z\n\n", |_| ());
        assert_eq!((told, reader.last_id()), (Ok(()), &b"1"[..]));
        // An event without data has an id as well.
        let told = reader.feed(b"id: 3\n\n", |_| ());
        assert_eq!((told, reader.last_id()), (Ok(()), &b"3"[..]));
    }

    #[test]
    fn an_event_over_the_limit_is_an_error() {
        let mut reader = EventReader::new(10);
        assert_eq!(reader.feed(b"data: 1\n\ndata: 2\n\n", |_| ()), Ok(()));
        assert_eq!(reader.feed(b"data: 12", |_| ()), Ok(()));
        assert_eq!(reader.feed(b"345", |_| ()), Err(EventTooLong { limit: 10 }));
    }

    proptest::proptest! {
        #[test]
        fn the_cuts_do_not_matter(text in "(data: a|event: b|id: c|:|\n|\r|\r\n|data|x: y){0,20}", step in 1usize..9) {
            proptest::prop_assert_eq!(read(&text, text.len().max(1)), read(&text, step));
        }
    }
}
