//! What is kept of a request body for another attempt.
//!
//! A body that is there as a whole (on MCP: each, since [`inspect`](crate::inspect) gathers it) is kept as it is, without a copy. Of one that
//! streams, what passes is kept up to a cap, and the rest is given back when the attempt drops it. Past the cap nothing
//! is kept, and a body that was begun is gone; one that was never begun is given back whole, however long it is.

use std::{
    mem,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};

use crate::{Body, error::BoxError};

/// A body for further attempts.
#[derive(Debug)]
pub(super) enum Replay {
    /// All of it.
    Whole(Body),
    /// What the attempt that has it gives back.
    Streamed(Slot),
}

/// Empty while an attempt has the body.
type Slot = Arc<Mutex<Option<Recording>>>;

/// A body that streams, and what passed of it.
#[derive(Debug)]
pub(super) struct Recording {
    rest: Body,
    passed: Vec<Bytes>,
    trailers: Option<HeaderMap>,
    /// How many more bytes may be kept.
    room: usize,
    /// It cannot be sent again: it was too long, or failed.
    lost: bool,
}

/// The body of one attempt: what passed before, then the rest.
struct ReplayBody {
    recording: Option<Recording>,
    /// How many of the pieces that passed were sent in this attempt.
    sent: usize,
    trailers_sent: bool,
    slot: Slot,
}

// === impl Replay ===

impl Replay {
    /// Keeps a body of at most `cap` bytes, one that streams only if what passes is to be recorded: gives the first attempt's body, and
    /// what later ones are made of.
    pub(super) fn keep(body: Body, cap: usize, record: bool) -> (Body, Self) {
        let hint = body.size_hint();
        if hint.lower() <= cap as u64
            && let Some(whole) = body.try_clone()
        {
            return (body, Self::Whole(whole));
        }
        // What is known to be too long is not kept in part.
        let room = if record && hint.lower() <= cap as u64 {
            cap
        } else {
            0
        };
        let slot = Slot::new(Mutex::new(Some(Recording {
            rest: body,
            passed: Vec::new(),
            trailers: None,
            room,
            lost: false,
        })));
        let first = take(&slot).unwrap_or_default();
        (first, Self::Streamed(slot))
    }

    /// The body for another attempt, if it is still there.
    pub(super) fn body(&self) -> Option<Body> {
        match self {
            Self::Whole(body) => body.try_clone(),
            Self::Streamed(slot) => take(slot),
        }
    }

    /// Whether it is still there.
    pub(super) fn is_there(&self) -> bool {
        match self {
            Self::Whole(_) => true,
            Self::Streamed(slot) => {
                let slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
                slot.as_ref().is_some_and(|recording| !recording.lost)
            }
        }
    }
}

fn take(slot: &Slot) -> Option<Body> {
    let mut kept = slot.lock().unwrap_or_else(PoisonError::into_inner);
    let recording = kept.take().filter(|recording| !recording.lost)?;
    drop(kept);
    Some(Body::new(ReplayBody {
        recording: Some(recording),
        sent: 0,
        trailers_sent: false,
        slot: slot.clone(),
    }))
}

// === impl Recording ===

impl Recording {
    /// A frame passes for the first time.
    fn keep(&mut self, frame: &Frame<Bytes>) {
        if self.lost {
            return;
        }
        if let Some(data) = frame.data_ref() {
            if data.len() > self.room {
                self.lose();
            } else {
                self.room -= data.len();
                self.passed.push(data.clone());
            }
        } else if let Some(trailers) = frame.trailers_ref() {
            self.trailers = Some(trailers.clone());
        }
    }

    fn lose(&mut self) {
        self.lost = true;
        self.passed = Vec::new();
    }
}

// === impl ReplayBody ===

impl HttpBody for ReplayBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let Some(recording) = &mut this.recording else {
            return Poll::Ready(None);
        };
        if let Some(piece) = recording.passed.get(this.sent) {
            this.sent += 1;
            return Poll::Ready(Some(Ok(Frame::data(piece.clone()))));
        }
        if let Some(trailers) = &recording.trailers {
            let first = !mem::replace(&mut this.trailers_sent, true);
            return Poll::Ready(first.then(|| Ok(Frame::trailers(trailers.clone()))));
        }
        let frame = ready!(Pin::new(&mut recording.rest).poll_frame(cx));
        match &frame {
            // Nobody would send it again.
            Some(Ok(_)) if Arc::strong_count(&this.slot) == 1 => recording.lose(),
            Some(Ok(frame)) => {
                recording.keep(frame);
                this.sent = recording.passed.len();
                this.trailers_sent = recording.trailers.is_some();
            }
            Some(Err(_)) => recording.lose(),
            None => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.recording.as_ref().is_none_or(|recording| {
            self.sent >= recording.passed.len()
                && (recording.trailers.is_none() || self.trailers_sent)
                && recording.rest.is_end_stream()
        })
    }

    fn size_hint(&self) -> SizeHint {
        let Some(recording) = &self.recording else {
            return SizeHint::with_exact(0);
        };
        let again = recording.passed.get(self.sent..).unwrap_or_default();
        let again: u64 = again.iter().map(|piece| piece.len() as u64).sum();
        let rest = recording.rest.size_hint();
        let mut hint = SizeHint::new();
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + again);
        }
        hint.set_lower(rest.lower() + again);
        hint
    }
}

impl Drop for ReplayBody {
    fn drop(&mut self) {
        let recording = self.recording.take();
        *self.slot.lock().unwrap_or_else(PoisonError::into_inner) = recording;
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    fn streamed(pieces: &'static [&'static str], trailers: bool) -> Body {
        let frames = pieces
            .iter()
            .map(|p| Frame::data(Bytes::from_static(p.as_bytes())));
        let trailers = trailers.then(|| Frame::trailers(HeaderMap::new()));
        let all = frames.chain(trailers).map(Ok::<_, BoxError>);
        Body::new(StreamBody::new(futures_util::stream::iter(all)))
    }

    async fn read(body: Body) -> (String, bool) {
        let read = body.collect().await.expect("no error");
        let trailers = read.trailers().is_some();
        let text = String::from_utf8(read.to_bytes().to_vec()).expect("text");
        (text, trailers)
    }

    #[tokio::test]
    async fn a_whole_body_is_kept_without_a_copy() {
        let bytes = Bytes::from_static(b"abc");
        let (first, replay) = Replay::keep(Body::full(bytes.clone()), 3, true);
        assert!(matches!(replay, Replay::Whole(_)));
        drop(first);
        for _ in 0..2 {
            let again = replay.body().expect("there").collect().await;
            let again = again.expect("no error").to_bytes();
            assert_eq!(again.as_ptr(), bytes.as_ptr());
        }
    }

    #[tokio::test]
    async fn what_streamed_is_sent_again_and_the_rest_after_it() {
        let (mut first, replay) = Replay::keep(streamed(&["ab", "cd", "ef"], true), 6, true);
        let frame = first.frame().await.expect("a frame").expect("no error");
        assert_eq!(frame.data_ref().map(|d| &d[..]), Some(&b"ab"[..]));
        assert!(
            !replay.is_there() && replay.body().is_none(),
            "still in use"
        );
        drop(first);
        assert!(replay.is_there());
        for _ in 0..2 {
            let again = replay.body().expect("there");
            assert_eq!(read(again).await, ("abcdef".to_owned(), true));
        }
    }

    #[tokio::test]
    async fn over_the_cap_only_what_was_never_begun_is_there() {
        let (first, replay) = Replay::keep(streamed(&["ab", "cd"], false), 3, true);
        drop(first);
        let second = replay.body().expect("never begun");
        assert_eq!(read(second).await.0, "abcd");
        assert!(!replay.is_there());
        // The same for a whole one that is over it.
        let (first, replay) = Replay::keep(Body::full("abcd"), 3, true);
        drop(first);
        let mut second = replay.body().expect("never begun");
        assert_eq!(second.size_hint().exact(), Some(4));
        assert!(second.frame().await.is_some());
        drop(second);
        assert!(!replay.is_there());
    }

    #[tokio::test]
    async fn a_body_that_failed_is_gone() {
        let failing = futures_util::stream::iter([Err::<Frame<Bytes>, _>(BoxError::from("gone"))]);
        let (mut first, replay) = Replay::keep(Body::new(StreamBody::new(failing)), 3, true);
        assert!(first.frame().await.expect("a frame").is_err());
        drop(first);
        assert!(!replay.is_there());
    }

    #[tokio::test]
    async fn nothing_is_kept_when_nobody_will_want_it() {
        let (mut first, replay) = Replay::keep(streamed(&["ab", "cd"], false), 6, true);
        let Replay::Streamed(slot) = replay else {
            panic!("it streams")
        };
        let weak = Arc::downgrade(&slot);
        drop(slot);
        assert!(first.frame().await.is_some());
        assert_eq!(weak.strong_count(), 1);
        assert_eq!(read(first).await.0, "cd");
        assert_eq!(weak.strong_count(), 0);
    }

    #[tokio::test]
    async fn length_and_end_are_those_of_the_body() {
        let (mut first, replay) = Replay::keep(
            Body::new(http_body_util::Full::new(Bytes::from_static(b"abc"))),
            9,
            true,
        );
        assert_eq!(first.size_hint().exact(), Some(3));
        assert!(!first.is_end_stream());
        assert!(first.frame().await.is_some());
        assert!(first.is_end_stream());
        assert_eq!(first.size_hint().exact(), Some(0));
        drop(first);
        let again = replay.body().expect("there");
        assert_eq!(again.size_hint().exact(), Some(3));
        assert!(!again.is_end_stream());
        assert!(replay.body().is_none());
    }
}
