//! The body that is observed.

use std::{
    collections::VecDeque,
    ops::Range,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use ::metrics::{Counter, Histogram};
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use pin_project::pin_project;

use super::{HOLD, Media, Shared};
use crate::{
    error::BoxError,
    exchange::Exchange,
    mcp::{
        peek::{Peek, Seen},
        sse::{Event, Scanner},
    },
    waits::{Asked, Waits},
};

/// A response body that tells the exchange what passes.
#[pin_project]
pub struct ObserveBody<B> {
    #[pin]
    inner: B,
    look: Look,
    teller: Teller,
}

/// How closely to look.
enum Look {
    /// An event stream.
    Events(Box<Events>),
    /// One JSON text with MCP messages.
    Json(Box<Peek>),
    /// Nothing to read in it: frames are all there is.
    Frames,
}

struct Events {
    scanner: Scanner,
    /// Parts of an event whose end has not come.
    held: VecDeque<Bytes>,
    held_bytes: usize,
    /// What may go out.
    out: VecDeque<Frame<Bytes>>,
    ended: bool,
    /// The body goes on with a stream of which a part has passed.
    goes_on: bool,
    counter: Counter,
    first: Option<Histogram>,
}

struct Teller {
    exchange: Arc<Exchange>,
    waits: Waits,
    asked: Option<Asked>,
}

impl<B: HttpBody> ObserveBody<B> {
    pub(super) fn new(inner: B, media: Media, exchange: Arc<Exchange>, shared: &Shared) -> Self {
        let mcp = exchange.call().is_some();
        let look = match media {
            Media::Events => Look::Events(Box::new(Events {
                scanner: if mcp {
                    Scanner::messages()
                } else {
                    Scanner::plain()
                },
                held: VecDeque::new(),
                held_bytes: 0,
                out: VecDeque::new(),
                ended: false,
                goes_on: exchange.response().goes_on(),
                counter: shared.events.clone(),
                first: Some(shared.first_event.clone()),
            })),
            Media::Json if mcp => Look::Json(Box::default()),
            Media::Json | Media::Other => Look::Frames,
        };
        let mut body = Self {
            inner,
            look,
            teller: Teller {
                exchange,
                waits: shared.waits.clone(),
                asked: None,
            },
        };
        if let Look::Events(events) = &mut body.look {
            if events.goes_on {
                events.first = None;
                body.teller.asked = body.teller.exchange.response().take_questions();
            }
            if body.inner.is_end_stream() {
                body.teller.ended();
            }
        }
        body
    }
}

impl<B> HttpBody for ObserveBody<B>
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
        let mut this = self.project();
        loop {
            if let Look::Events(events) = this.look {
                if let Some(frame) = events.out.pop_front() {
                    return Poll::Ready(Some(Ok(frame)));
                }
                if events.ended {
                    return Poll::Ready(None);
                }
            }
            let frame = match ready!(this.inner.as_mut().poll_frame(cx)) {
                Some(Ok(frame)) => Some(frame),
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => None,
            };
            match this.look {
                Look::Events(events) => {
                    events.take(frame, this.teller);
                    // Whoever reads it may not ask again.
                    if this.inner.is_end_stream() && events.held.is_empty() {
                        this.teller.ended();
                    }
                }
                Look::Json(peek) => {
                    if let Some(data) = frame.as_ref().and_then(Frame::data_ref) {
                        peek.feed(data, |seen| {
                            this.teller.exchange.saw_event();
                            this.teller.message(seen);
                        });
                    }
                    return Poll::Ready(frame.map(Ok));
                }
                Look::Frames => {
                    if frame.is_some() {
                        this.teller.exchange.saw_event();
                    }
                    return Poll::Ready(frame.map(Ok));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.look {
            Look::Events(events) if !events.out.is_empty() || !events.held.is_empty() => false,
            Look::Events(_) | Look::Json(_) | Look::Frames => self.inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.look {
            // Held bytes belong to the whole: what is left is not known exactly.
            Look::Events(_) => SizeHint::default(),
            Look::Json(_) | Look::Frames => self.inner.size_hint(),
        }
    }
}

impl Events {
    /// Takes in what came, and moves what may go out.
    fn take(&mut self, frame: Option<Frame<Bytes>>, teller: &mut Teller) {
        let data = match frame.map(Frame::into_data) {
            Some(Ok(data)) => data,
            Some(Err(trailers)) => {
                self.release();
                self.out.push_back(trailers);
                return;
            }
            None => {
                // Of what is torn a part has passed: that is no beginning that could be left out.
                let response = teller.exchange.response();
                if !self.held.is_empty() && response.at_boundary() {
                    response.set_unfinished();
                }
                self.release();
                self.ended = true;
                teller.ended();
                return;
            }
        };
        let (whole, repeated) = self.scan(&data, teller);
        let mut rest = data;
        if whole > 0 {
            self.release();
            let ready = rest.split_to(whole);
            if repeated.is_empty() {
                self.out.push_back(Frame::data(ready));
            } else {
                self.leave_out(&repeated, &ready);
            }
            teller.exchange.response().set_torn(false);
        }
        if !rest.is_empty() {
            self.held_bytes += rest.len();
            self.held.push_back(rest);
            if self.held_bytes > HOLD {
                self.release();
                teller.exchange.response().set_torn(true);
            }
        }
    }

    /// Tells what is in the bytes. Returns how many of them belong to whole events, and which of those were delivered before.
    fn scan(&mut self, data: &Bytes, teller: &mut Teller) -> (usize, Vec<Range<usize>>) {
        let Self {
            scanner,
            counter,
            first,
            goes_on,
            ..
        } = self;
        let (mut repeated, mut start) = (Vec::new(), 0);
        let whole = scanner.feed_with_ends(data, |event, end| {
            let begin = std::mem::replace(&mut start, end);
            let response = teller.exchange.response();
            let again = |id| response.is_repeated(id);
            // Of a very long one a part may have gone out.
            let whole = begin > 0 || response.at_boundary();
            if *goes_on && event.id.as_deref().is_some_and(again) && whole {
                repeated.push(begin..end);
                return;
            }
            if event.data {
                counter.increment(1);
                if let Some(first) = first.take() {
                    first.record(teller.exchange.started().elapsed().as_secs_f64());
                }
            }
            teller.event(event);
        });
        (whole, repeated)
    }

    /// Releases whole events but for those that were delivered before; of the first one, what was held is a part.
    fn leave_out(&mut self, repeated: &[Range<usize>], ready: &Bytes) {
        if repeated[0].start == 0 {
            self.out.clear();
        }
        let mut kept = 0;
        for range in repeated {
            if kept < range.start {
                self.out
                    .push_back(Frame::data(ready.slice(kept..range.start)));
            }
            kept = range.end;
        }
        if kept < ready.len() {
            self.out.push_back(Frame::data(ready.slice(kept..)));
        }
    }

    fn release(&mut self) {
        self.held_bytes = 0;
        self.out.extend(self.held.drain(..).map(Frame::data));
    }
}

impl Teller {
    fn event(&mut self, event: Event) {
        let response = self.exchange.response();
        if let Some(id) = event.id {
            response.saw_event_id(id);
        }
        if let Some(retry) = event.retry {
            response.saw_retry(Duration::from_millis(retry));
        }
        let plain = event.data && self.exchange.call().is_none();
        if plain || !event.messages.is_empty() {
            self.exchange.saw_event();
        }
        for seen in event.messages {
            self.message(seen);
        }
    }

    /// The event stream is over.
    fn ended(&self) {
        let Some(call) = self.exchange.call() else {
            return;
        };
        let waits = call.requests().next().is_some() && !call.is_standing();
        let mut ids = call.requests().filter_map(|message| message.id());
        if waits && !self.exchange.is_answered() && !ids.any(|id| self.exchange.is_taken_back(id)) {
            self.exchange.response().set_ended_unanswered();
        }
    }

    fn message(&mut self, seen: Seen) {
        let session = self
            .exchange
            .call()
            .and_then(|call| call.session.as_deref());
        if let Some(asked) = &mut self.asked
            && session.is_none()
        {
            asked.moved_on();
        }
        match seen {
            Seen::Response(answer) => self.exchange.response().saw_answer(answer),
            Seen::Notification { method } if method.as_str() == "notifications/progress" => {
                self.exchange.saw_progress();
            }
            Seen::Notification { .. } => {}
            Seen::Request { id, .. } => {
                let key = session.unwrap_or(self.exchange.id());
                self.asked
                    .get_or_insert_with(|| self.waits.stream(key))
                    .ask(id);
            }
        }
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        if let Some(asked) = self.asked.take() {
            self.exchange.response().leave_questions(asked);
        }
    }
}
