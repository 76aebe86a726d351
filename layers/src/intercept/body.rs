//! The response body: passing, whole, or an event stream whose messages are shown as they come.

use std::{
    collections::VecDeque,
    fmt, mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use pin_project::pin_project;

use super::{
    answer::{Left, Show},
    chain::Stage,
};
use crate::{error::BoxError, mcp::sse::Scanner};

/// The response body of [`Intercept`](super::Intercept).
#[pin_project]
pub struct InterceptBody<B>(#[pin] State<B>);

#[pin_project(project = StateProj)]
enum State<B> {
    Passing(#[pin] B),
    Whole(Option<Bytes>, Option<HeaderMap>),
    /// What was read before it was too long, and the rest.
    Long(Option<Bytes>, Pin<Box<B>>),
    Events(Pin<Box<Events<B>>>),
}

/// An event stream: each whole event is shown, and goes out when that is done.
#[pin_project]
pub(super) struct Events<B> {
    #[pin]
    inner: B,
    show: Show,
    scanner: Scanner,
    /// The beginning of an event whose end has not come.
    held: BytesMut,
    /// Whole events that have not been shown.
    next: VecDeque<Bytes>,
    shown: Option<Showing>,
    /// The beginning of the next event has gone out already.
    torn: bool,
    /// What follows the events.
    trailers: Option<Frame<Bytes>>,
    ended: bool,
}

type Showing = Pin<Box<dyn Future<Output = Result<Bytes, BoxError>> + Send>>;

// === impl InterceptBody ===

impl<B> InterceptBody<B> {
    pub(super) fn passing(inner: B) -> Self {
        Self(State::Passing(inner))
    }

    pub(super) fn whole(bytes: Bytes, trailers: Option<HeaderMap>) -> Self {
        let bytes = (!bytes.is_empty()).then_some(bytes);
        Self(State::Whole(bytes, trailers))
    }

    pub(super) fn long(read: Bytes, rest: Pin<Box<B>>) -> Self {
        Self(State::Long((!read.is_empty()).then_some(read), rest))
    }

    pub(super) fn events(events: Events<B>) -> Self {
        Self(State::Events(Box::pin(events)))
    }
}

impl<B> fmt::Debug for InterceptBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InterceptBody").finish_non_exhaustive()
    }
}

impl<B> HttpBody for InterceptBody<B>
where
    B: HttpBody<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.project().0.project() {
            StateProj::Passing(inner) => inner
                .poll_frame(cx)
                .map(|f| f.map(|f| f.map_err(Into::into))),
            StateProj::Whole(bytes, trailers) => {
                let data = bytes.take().map(Frame::data);
                let frame = data.or_else(|| trailers.take().map(Frame::trailers));
                Poll::Ready(frame.map(Ok))
            }
            StateProj::Long(read, rest) => match read.take() {
                Some(read) => Poll::Ready(Some(Ok(Frame::data(read)))),
                None => {
                    let rest = rest.as_mut().poll_frame(cx);
                    rest.map(|f| f.map(|f| f.map_err(Into::into)))
                }
            },
            StateProj::Events(events) => events.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            State::Passing(inner) => inner.is_end_stream(),
            State::Whole(bytes, trailers) => bytes.is_none() && trailers.is_none(),
            State::Long(read, rest) => read.is_none() && rest.is_end_stream(),
            State::Events(events) => events.is_over(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            State::Passing(inner) => inner.size_hint(),
            State::Whole(bytes, _) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64))
            }
            // An event may grow.
            State::Long(..) | State::Events(_) => SizeHint::default(),
        }
    }
}

// === impl Events ===

impl<B> Events<B> {
    pub(super) fn new(inner: B, show: Show) -> Self {
        Self {
            inner,
            show,
            scanner: Scanner::plain(),
            held: BytesMut::new(),
            next: VecDeque::new(),
            shown: None,
            torn: false,
            trailers: None,
            ended: false,
        }
    }
}

impl<B> Events<B>
where
    B: HttpBody<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    fn is_over(&self) -> bool {
        let waiting = !self.held.is_empty()
            || !self.next.is_empty()
            || self.shown.is_some()
            || self.trailers.is_some();
        !waiting && (self.ended || self.inner.is_end_stream())
    }

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        loop {
            if let Some(showing) = this.shown {
                let shown = ready!(showing.as_mut().poll(cx));
                *this.shown = None;
                match shown {
                    Ok(event) if event.is_empty() => {}
                    Ok(event) => return Poll::Ready(Some(Ok(Frame::data(event)))),
                    Err(error) => {
                        this.next.clear();
                        this.held.clear();
                        *this.trailers = None;
                        *this.ended = true;
                        return Poll::Ready(Some(Err(error)));
                    }
                }
                continue;
            }
            if let Some(event) = this.next.pop_front() {
                let torn = mem::replace(this.torn, false);
                let long = event.len() > this.show.cap();
                if long && !this.show.is_lenient() {
                    *this.ended = true;
                    return Poll::Ready(Some(Err(too_long())));
                }
                match data_of(&event).filter(|_| !long && !torn) {
                    Some(data) => {
                        *this.shown = Some(Box::pin(shown(this.show.clone(), event, data)))
                    }
                    None => return Poll::Ready(Some(Ok(Frame::data(event)))),
                }
                continue;
            }
            if let Some(trailers) = this.trailers.take() {
                return Poll::Ready(Some(Ok(trailers)));
            }
            if *this.ended {
                return Poll::Ready(None);
            }
            if this.held.len() > this.show.cap() {
                if !this.show.is_lenient() {
                    *this.ended = true;
                    this.held.clear();
                    return Poll::Ready(Some(Err(too_long())));
                }
                // Its rest will follow, and is no event by itself.
                *this.torn = true;
                let piece = mem::take(this.held).freeze();
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            match ready!(this.inner.as_mut().poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => take(&data, this.scanner, this.held, this.next),
                    Err(trailers) => {
                        release(this.held, this.next);
                        *this.trailers = Some(trailers);
                    }
                },
                Some(Err(error)) => {
                    *this.ended = true;
                    return Poll::Ready(Some(Err(error.into())));
                }
                None => {
                    release(this.held, this.next);
                    *this.ended = true;
                }
            }
        }
    }
}

/// A body that was read up to a cap.
pub(super) enum Read<B> {
    Whole(Bytes, Option<HeaderMap>),
    /// It is longer: what was read of it, and the rest.
    Long(Bytes, Pin<Box<B>>),
}

/// Reads a body, but little more than `cap` bytes of it.
pub(super) async fn read<B>(body: B, cap: usize) -> Result<Read<B>, BoxError>
where
    B: HttpBody<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let mut body = Box::pin(body);
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    let mut trailers = None;
    while let Some(frame) = body.frame().await {
        match frame.map_err(Into::into)?.into_data() {
            // Of one piece nothing is copied.
            Ok(data) if first.is_empty() && all.is_empty() => first = data,
            Ok(data) => {
                all.extend_from_slice(&mem::take(&mut first));
                all.extend_from_slice(&data);
            }
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
        if first.len() + all.len() > cap {
            let read = if all.is_empty() { first } else { all.freeze() };
            return Ok(Read::Long(read, body));
        }
    }
    let read = if all.is_empty() { first } else { all.freeze() };
    Ok(Read::Whole(read, trailers))
}

fn too_long() -> BoxError {
    Stage::Answering.unreadable("an event is too long")
}

/// Cuts off the whole events of what came.
fn take(data: &Bytes, scanner: &mut Scanner, held: &mut BytesMut, next: &mut VecDeque<Bytes>) {
    let mut at = 0;
    while at < data.len() {
        // One event at a time, so that each has its own place.
        let end = line_end(&data[at..]).map_or(data.len(), |end| at + end);
        let whole = scanner.feed(&data[at..end], |_| {});
        held.extend_from_slice(&data[at..end]);
        if whole == end - at && scanner.at_boundary() {
            next.push_back(mem::take(held).freeze());
        }
        at = end;
    }
}

/// What is left at the end is no whole event: nobody will read it, and it goes out as it is.
fn release(held: &mut BytesMut, next: &mut VecDeque<Bytes>) {
    if !held.is_empty() {
        next.push_back(mem::take(held).freeze());
    }
}

/// Past the end of the first line.
fn line_end(bytes: &[u8]) -> Option<usize> {
    let at = memchr::memchr2(b'\n', b'\r', bytes)?;
    let crlf = bytes[at] == b'\r' && bytes.get(at + 1) == Some(&b'\n');
    Some(at + 1 + usize::from(crlf))
}

/// The lines of an event, each with its end.
fn lines(mut event: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let end = line_end(event).unwrap_or(event.len());
        let (line, rest) = event.split_at(end);
        event = rest;
        (!line.is_empty()).then_some(line)
    })
}

/// The value of a field in a line (WHATWG HTML, 9.2.6).
fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
    let line = line.trim_ascii_end_line();
    let rest = line.strip_prefix(name)?;
    match rest {
        [] => Some(rest),
        [b':', value @ ..] => Some(value.strip_prefix(b" ").unwrap_or(value)),
        _ => None,
    }
}

/// A line without its end.
trait Line {
    fn trim_ascii_end_line(&self) -> &Self;
}

impl Line for [u8] {
    fn trim_ascii_end_line(&self) -> &Self {
        let line = self.strip_suffix(b"\n").unwrap_or(self);
        line.strip_suffix(b"\r").unwrap_or(line)
    }
}

/// The data of a whole event that is a message: one of another type is read by no client as such.
fn data_of(event: &Bytes) -> Option<Bytes> {
    // Without the empty line at its end it is none.
    lines(event)
        .last()
        .filter(|line| line.trim_ascii_end_line().is_empty())?;
    let kind = lines(event).filter_map(|line| field(line, b"event")).last();
    if kind.is_some_and(|kind| !kind.is_empty() && kind != b"message") {
        return None;
    }
    let mut data = lines(event).filter_map(|line| field(line, b"data"));
    let first = data.next()?;
    let Some(second) = data.next() else {
        return (!first.is_empty()).then(|| event.slice_ref(first));
    };
    let mut joined = BytesMut::from(first);
    for value in std::iter::once(second).chain(data) {
        joined.extend_from_slice(b"\n");
        joined.extend_from_slice(value);
    }
    (!joined.trim_ascii().is_empty()).then(|| joined.freeze())
}

/// Shows the message of an event; what goes out in its place.
async fn shown(show: Show, event: Bytes, data: Bytes) -> Result<Bytes, BoxError> {
    Ok(match show.in_place(data, true).await? {
        Left::Same => event,
        Left::Other(new) => with_data(&event, Some(&new)),
        Left::Nothing => with_data(&event, None),
    })
}

/// The event with other data: its id, its other fields and its comments stay. Without data, only what a client must know of it stays.
fn with_data(event: &[u8], data: Option<&[u8]>) -> Bytes {
    let mut out = BytesMut::with_capacity(event.len() + data.map_or(0, <[u8]>::len) + 8);
    let mut put = false;
    let mut kept = false;
    for line in lines(event) {
        if field(line, b"data").is_some() {
            if let Some(data) = data.filter(|_| !mem::replace(&mut put, true)) {
                kept = true;
                for piece in data.split(|b| matches!(b, b'\n' | b'\r')) {
                    out.extend_from_slice(b"data: ");
                    out.extend_from_slice(piece);
                    out.extend_from_slice(b"\n");
                }
            }
        } else {
            kept |= !line.trim_ascii_end_line().is_empty() && field(line, b"event").is_none();
            out.extend_from_slice(line);
        }
    }
    if !kept {
        return Bytes::new();
    }
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(pieces: &[&[u8]]) -> (Vec<Bytes>, BytesMut) {
        let (mut scanner, mut held, mut next) =
            (Scanner::plain(), BytesMut::new(), VecDeque::new());
        for piece in pieces {
            take(
                &Bytes::copy_from_slice(piece),
                &mut scanner,
                &mut held,
                &mut next,
            );
        }
        (next.into(), held)
    }

    #[test]
    fn events_are_cut_where_they_end_however_they_come() {
        let text = ": hello\n\nid: 1\ndata: {\"a\":\ndata: 1}\n\n\ndata: 2\n\nda";
        for end in ["\n", "\r\n", "\r"] {
            let text = text.replace('\n', end);
            for at in 0..=text.len() {
                let (one, two) = text.as_bytes().split_at(at);
                let (events, held) = cut(&[one, two]);
                let data: Vec<_> = events.iter().filter_map(data_of).collect();
                assert_eq!(data, ["{\"a\":\n1}", "2"], "{at} {end:?} {events:?}");
                let all = [events.concat(), held.to_vec()].concat();
                assert_eq!(all, text.as_bytes());
            }
        }
    }

    #[test]
    fn other_data_leaves_the_rest_of_an_event() {
        let event = b": note\r\nid: 7\r\nevent: message\r\ndata: {\r\ndata: }\r\nretry: 5\r\n\r\n";
        assert_eq!(
            with_data(event, Some(b"{\n1}")),
            &b": note\r\nid: 7\r\nevent: message\r\ndata: {\ndata: 1}\nretry: 5\r\n\r\n"[..]
        );
        assert_eq!(
            with_data(b"id: 7\nevent: message\ndata: x\n\n", None),
            &b"id: 7\nevent: message\n\n"[..]
        );
        assert_eq!(
            with_data(b"event: message\ndata: x\n\n", None),
            Bytes::new()
        );
    }

    #[test]
    fn what_no_client_reads_as_a_message_is_none() {
        for event in [
            "id: 1\ndata:\n\n",
            ": x\n\n",
            "event: endpoint\ndata: /x\n\n",
            "data: 1\n",
            "event\n\n",
        ] {
            assert_eq!(data_of(&Bytes::from(event)), None, "{event:?}");
        }
        assert_eq!(
            data_of(&Bytes::from("event\ndata:1\n\n")),
            Some(Bytes::from("1"))
        );
        assert_eq!(
            data_of(&Bytes::from("\u{feff}data: 1\n\n")),
            Some(Bytes::from("1"))
        );
    }

    proptest::proptest! {
        #[test]
        fn nothing_is_lost_whatever_comes(text in "(data: [a-z]{0,3}|id: a|event: message|:|\n|\r|\r\n|data|x: y){0,20}", at in 0usize..40) {
            let at = at.min(text.len());
            let (one, two) = text.as_bytes().split_at(at);
            let (events, held) = cut(&[one, two]);
            let all = [events.concat(), held.to_vec()].concat();
            proptest::prop_assert_eq!(all, text.as_bytes());
        }
    }
}
