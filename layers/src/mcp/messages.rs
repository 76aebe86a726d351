//! The messages of a response body, one text at a time, for those who must read what they say.
//!
//! What only passes is looked at by [`peek`](super::peek) without being held; this is for the few answers that are the proxy's own to read:
//! those to probes and to a heal, and lists of tools.

use std::pin::pin;

use bytes::Bytes;
use http_body::Body;
use http_body_util::BodyExt;

use super::events::{EventReader, EventTooLong};
use crate::{error::BoxError, observe::Media};

/// Cuts a response body into the JSON texts of its messages. Feed it what comes, then call [`finish`](Self::finish).
#[derive(Debug)]
pub(crate) struct Messages(Form);

#[derive(Debug)]
enum Form {
    Events(EventReader),
    /// One JSON text, and how long it may be.
    Json(Vec<u8>, usize),
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
        match media {
            Media::Events => Some(Self(Form::Events(EventReader::new(limit)))),
            Media::Json => Some(Self(Form::Json(Vec::new(), limit))),
            Media::Other => None,
        }
    }

    /// Takes in a piece; tells each message of an event stream that ends in it.
    pub(crate) fn feed(
        &mut self,
        piece: &[u8],
        mut tell: impl FnMut(&[u8]),
    ) -> Result<(), TooLong> {
        match &mut self.0 {
            Form::Events(reader) => Ok(reader.feed(piece, |event| tell(&event.data))?),
            Form::Json(held, limit) if held.len() + piece.len() > *limit => Err(TooLong),
            Form::Json(held, _) => {
                held.extend_from_slice(piece);
                Ok(())
            }
        }
    }

    /// The body has ended: tells the message of a JSON body. An event without its end is none.
    pub(crate) fn finish(self, tell: impl FnOnce(&[u8])) {
        if let Form::Json(held, _) = self.0 {
            tell(&held);
        }
    }
}

impl From<EventTooLong> for TooLong {
    fn from(_: EventTooLong) -> Self {
        Self
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

/// The revision in the answer to an `initialize`, if that is a result.
#[cfg(feature = "session")]
pub(crate) fn revision(answer: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Answer {
        result: Initialized,
    }
    #[derive(serde::Deserialize)]
    struct Initialized {
        #[serde(rename = "protocolVersion")]
        version: String,
    }
    let answer: Answer = serde_json::from_slice(answer).ok()?;
    Some(answer.result.version)
}

impl From<TooLong> for Unread {
    fn from(_: TooLong) -> Self {
        Self::TooLong
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
    #[cfg(feature = "session")]
    fn the_revision_is_that_of_a_result() {
        let json = r#"{"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"2025-11-25"}}"#;
        assert_eq!(revision(json.as_bytes()).as_deref(), Some("2025-11-25"));
        let error = r#"{"jsonrpc":"2.0","id":0,"error":{"code":-32602,"message":"no"}}"#;
        for text in ["", "{", error, &json[..40]] {
            assert_eq!(revision(text.as_bytes()), None);
        }
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
