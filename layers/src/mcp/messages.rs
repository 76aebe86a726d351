//! The messages of a response body, one text at a time, for those who must read what they say.
//!
//! What only passes is looked at by [`peek`](super::peek) without being held; this is for the few answers that are the proxy's own to read:
//! those to probes and to a heal, and lists of tools.

use std::pin::pin;

use bytes::Bytes;
use http_body::Body;
use http_body_util::BodyExt;

use super::sse::Scanner;
use crate::{error::BoxError, observe::Media};

/// Cuts a response body into the JSON texts of its messages. Feed it what comes, then call [`finish`](Self::finish).
#[derive(Debug)]
pub(crate) struct Messages {
    /// `None`: one JSON text.
    scanner: Option<Scanner>,
    held: Vec<u8>,
    limit: usize,
}

/// A message is longer than the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooLong;

/// Why a body was not read to its end.
#[derive(Debug)]
pub(crate) enum Unread {
    /// It broke.
    Broken(BoxError),
    /// A message is longer than the limit.
    TooLong,
}

impl Messages {
    /// For a body of this kind and messages of so many bytes; `None` if it has no messages.
    pub(crate) fn of(media: Media, limit: usize) -> Option<Self> {
        let scanner = match media {
            Media::Events => Some(Scanner::plain()),
            Media::Json => None,
            Media::Other => return None,
        };
        Some(Self {
            scanner,
            held: Vec::new(),
            limit,
        })
    }

    /// Takes in a piece; tells each message of an event stream that ends in it.
    pub(crate) fn feed(
        &mut self,
        piece: &[u8],
        mut tell: impl FnMut(&[u8]),
    ) -> Result<(), TooLong> {
        let whole = self.scanner.as_mut().map_or(0, |s| s.feed(piece, |_| {}));
        if whole > 0 {
            self.held.extend_from_slice(&piece[..whole]);
            each(&self.held, &mut tell);
            self.held.clear();
        }
        self.held.extend_from_slice(&piece[whole..]);
        if self.held.len() > self.limit {
            self.held = Vec::new();
            return Err(TooLong);
        }
        Ok(())
    }

    /// The body has ended: tells the message of a JSON body. An event without its end is none.
    pub(crate) fn finish(self, tell: impl FnOnce(&[u8])) {
        if self.scanner.is_none() {
            tell(&self.held);
        }
    }
}

/// Reads a body up to the message in which `look` finds what it looks for. The rest is not read.
pub(crate) async fn find<B, T>(
    body: B,
    media: Media,
    limit: usize,
    mut look: impl FnMut(&[u8]) -> Option<T>,
) -> Result<Option<T>, Unread>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let Some(mut messages) = Messages::of(media, limit) else {
        return Ok(None);
    };
    let mut body = pin!(body);
    let mut found = None;
    let mut tell = |found: &mut Option<T>, text: &[u8]| {
        if found.is_none() {
            *found = look(text);
        }
    };
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Unread::Broken(error.into()))?;
        if let Some(data) = frame.data_ref() {
            messages.feed(data, |text| tell(&mut found, text))?;
        }
        if found.is_some() {
            return Ok(found);
        }
    }
    messages.finish(|text| tell(&mut found, text));
    Ok(found)
}

impl From<TooLong> for Unread {
    fn from(_: TooLong) -> Self {
        Self::TooLong
    }
}

/// Tells the data of each of these whole events (WHATWG HTML, 9.2.6).
fn each(events: &[u8], tell: &mut impl FnMut(&[u8])) {
    let events = events.strip_prefix(b"\xef\xbb\xbf").unwrap_or(events);
    let mut data: Option<Vec<u8>> = None;
    let mut lines = events.split_inclusive(|b| matches!(b, b'\n' | b'\r'));
    let mut after_cr = false;
    for line in &mut lines {
        // A CRLF ends one line: the empty one that it seems to begin is none.
        if std::mem::replace(&mut after_cr, line.ends_with(b"\r")) && line == b"\n" {
            continue;
        }
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            if let Some(data) = data.take() {
                tell(&data);
            }
        } else if let Some(value) = line.strip_prefix(b"data:") {
            let value = value.strip_prefix(b" ").unwrap_or(value);
            match &mut data {
                Some(data) => {
                    data.push(b'\n');
                    data.extend_from_slice(value);
                }
                None => data = Some(value.to_vec()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(media: Media, limit: usize, pieces: &[&[u8]]) -> Result<Vec<String>, TooLong> {
        let mut messages = Messages::of(media, limit).expect("it has messages");
        let mut all = Vec::new();
        let mut tell = |text: &[u8]| all.push(String::from_utf8_lossy(text).into_owned());
        for piece in pieces {
            messages.feed(piece, &mut tell)?;
        }
        messages.finish(tell);
        Ok(all)
    }

    #[test]
    fn events_are_read_however_they_are_cut() {
        let stream = "\u{feff}: hello\n\nid: 1\ndata:\n\nevent: message\ndata: {\"a\":\ndata:1}\nid: 7\n\nretry: 5\n\ndata: {}\n\ndata: cut";
        for end in ["\n", "\r\n", "\r"] {
            let stream = stream.replace('\n', end);
            for cut in 0..=stream.len() {
                let (one, two) = stream.as_bytes().split_at(cut);
                assert_eq!(
                    read(Media::Events, 100, &[one, two]).expect("short"),
                    ["", "{\"a\":\n1}", "{}"],
                    "{cut} {end:?}"
                );
            }
        }
    }

    #[test]
    fn json_is_one_message() {
        let all = read(Media::Json, 10, &[b"{\"a\"", b":1}"]);
        assert_eq!(all.expect("short"), ["{\"a\":1}"]);
        assert!(Messages::of(Media::Other, 10).is_none());
    }

    #[test]
    fn a_message_has_a_bound() {
        for media in [Media::Json, Media::Events] {
            assert_eq!(read(media, 10, &[b"data: 345", b"67"]), Err(TooLong));
        }
        let many = [b"data: 1\n\n".as_slice(); 9];
        assert_eq!(
            read(Media::Events, 10, &many).expect("each is short").len(),
            9
        );
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(pieces: Vec<Vec<u8>>) {
            let pieces: Vec<_> = pieces.iter().map(Vec::as_slice).collect();
            let _all = read(Media::Events, 50, &pieces);
        }
    }
}
