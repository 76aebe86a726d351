//! The body that is observed.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
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
    counter: Counter,
    first: Option<Histogram>,
}

struct Teller {
    exchange: Arc<Exchange>,
    waits: Waits,
    asked: Option<Asked>,
}

impl<B> ObserveBody<B> {
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
                counter: shared.events.clone(),
                first: Some(shared.first_event.clone()),
            })),
            Media::Json if mcp => Look::Json(Box::default()),
            Media::Json | Media::Other => Look::Frames,
        };
        Self {
            inner,
            look,
            teller: Teller {
                exchange,
                waits: shared.waits.clone(),
                asked: None,
            },
        }
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
                Look::Events(events) => events.take(frame, this.teller),
                Look::Json(peek) => {
                    if let Some(data) = frame.as_ref().and_then(Frame::data_ref) {
                        peek.feed(data, |seen| this.teller.message(seen));
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
                self.release();
                self.ended = true;
                return;
            }
        };
        let Self {
            scanner,
            counter,
            first,
            ..
        } = self;
        let whole = scanner.feed(&data, |event| {
            if event.data {
                counter.increment(1);
                if let Some(first) = first.take() {
                    first.record(teller.exchange.started().elapsed().as_secs_f64());
                }
            }
            teller.event(event);
        });
        let mut rest = data;
        if whole > 0 {
            self.release();
            let ready = rest.split_to(whole);
            self.out.push_back(Frame::data(ready));
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

    fn release(&mut self) {
        self.held_bytes = 0;
        self.out.extend(self.held.drain(..).map(Frame::data));
    }
}

impl Teller {
    fn event(&mut self, event: Event) {
        match event.message {
            Some(seen) => self.message(seen),
            None if event.data && self.exchange.call().is_none() => self.exchange.saw_event(),
            None => {}
        }
    }

    fn message(&mut self, seen: Seen) {
        self.exchange.saw_event();
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
