//! Response bodies that are cut, dripped or spoilt.

use std::{
    num::{NonZeroU32, NonZeroUsize},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame, SizeHint};
use pin_project::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};

use super::{Injected, rules::Point};
use crate::{error::BoxError, mcp::sse::Scanner};

/// The response body of [`Chaos`](super::Chaos).
#[pin_project]
pub struct ChaosBody<B> {
    /// `None` is empty: the inner service was not called.
    #[pin]
    inner: Option<B>,
    spoil: Option<Spoil>,
}

/// What is done to a body.
#[derive(Debug)]
pub(super) enum Spoil {
    Cut(Cut),
    Drip(Drip),
    Garbage(Garbage),
}

#[derive(Debug)]
pub(super) struct Cut {
    at: Point,
    scanner: Scanner,
    over: bool,
}

#[derive(Debug)]
pub(super) struct Drip {
    size: NonZeroUsize,
    every: Duration,
    held: Bytes,
    pause: Option<Pin<Box<Sleep>>>,
}

#[derive(Debug)]
pub(super) struct Garbage {
    one_in: NonZeroU32,
    /// The good bytes until the next bad one.
    good: u64,
    random: fastrand::Rng,
}

// === impl ChaosBody ===

impl<B> ChaosBody<B> {
    pub(super) fn new(inner: B, spoil: Option<Spoil>) -> Self {
        Self {
            inner: Some(inner),
            spoil,
        }
    }

    pub(super) fn empty() -> Self {
        Self {
            inner: None,
            spoil: None,
        }
    }
}

impl<B> HttpBody for ChaosBody<B>
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
        let this = self.project();
        let Some(inner) = this.inner.as_pin_mut() else {
            return Poll::Ready(None);
        };
        match this.spoil {
            Some(Spoil::Cut(cut)) if cut.is_due() => {
                cut.over = true;
                return Poll::Ready(Some(Err(Injected { sent: true }.into())));
            }
            Some(Spoil::Cut(cut)) if cut.over => return Poll::Ready(None),
            Some(Spoil::Drip(drip)) if !drip.held.is_empty() => {
                ready!(drip.poll_pause(cx));
                return Poll::Ready(Some(Ok(Frame::data(drip.piece()))));
            }
            _ => {}
        }
        let Some(frame) = ready!(inner.poll_frame(cx)) else {
            return Poll::Ready(None);
        };
        let data = match frame.map_err(Into::into)?.into_data() {
            Ok(data) => data,
            Err(other) => return Poll::Ready(Some(Ok(other))),
        };
        let data = match this.spoil {
            None => data,
            Some(Spoil::Cut(cut)) => cut.apply(data),
            Some(Spoil::Garbage(garbage)) => garbage.apply(&data),
            Some(Spoil::Drip(drip)) => {
                drip.held = data;
                if drip.pause.is_some() && !drip.held.is_empty() {
                    ready!(drip.poll_pause(cx));
                }
                drip.piece()
            }
        };
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        let more = match &self.spoil {
            Some(Spoil::Cut(cut)) if cut.over => return true,
            Some(Spoil::Cut(cut)) => cut.is_due(),
            Some(Spoil::Drip(drip)) => !drip.held.is_empty(),
            Some(Spoil::Garbage(_)) | None => false,
        };
        !more && self.inner.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let Some(inner) = &self.inner else {
            return SizeHint::with_exact(0);
        };
        let mut hint = inner.size_hint();
        match &self.spoil {
            // It may be less, but that is an error: what was promised stays promised.
            Some(Spoil::Cut(_) | Spoil::Garbage(_)) | None => {}
            Some(Spoil::Drip(drip)) => {
                let held = drip.held.len() as u64;
                if let Some(upper) = hint.upper() {
                    hint.set_upper(upper + held);
                }
                hint.set_lower(hint.lower() + held);
            }
        }
        hint
    }
}

// === impl Spoil ===

impl Spoil {
    pub(super) fn cut(at: Point) -> Self {
        Self::Cut(Cut {
            at,
            scanner: Scanner::plain(),
            over: false,
        })
    }

    pub(super) fn drip(size: NonZeroUsize, every: Duration) -> Self {
        Self::Drip(Drip {
            size,
            every,
            held: Bytes::new(),
            pause: None,
        })
    }

    pub(super) fn garbage(one_in: NonZeroU32, random: fastrand::Rng) -> Self {
        let mut garbage = Garbage {
            one_in,
            good: 0,
            random,
        };
        garbage.good = garbage.gap();
        Self::Garbage(garbage)
    }
}

// === impl Cut ===

impl Cut {
    /// Everything before the cut has passed.
    fn is_due(&self) -> bool {
        !self.over && matches!(self.at, Point::Events(0) | Point::Bytes(0))
    }

    /// The part of `data` before the cut.
    fn apply(&mut self, mut data: Bytes) -> Bytes {
        match &mut self.at {
            Point::Bytes(left) => {
                data.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= data.len() as u64;
            }
            Point::Events(left) => {
                let mut passed = 0;
                // In pieces that end with a line: an event ends with the last byte of one.
                for line in data.split_inclusive(|b| matches!(b, b'\n' | b'\r')) {
                    passed += line.len();
                    self.scanner
                        .feed(line, |event| *left -= u32::from(event.data && *left > 0));
                    if *left == 0 {
                        break;
                    }
                }
                data.truncate(passed);
            }
        }
        data
    }
}

// === impl Drip ===

impl Drip {
    fn poll_pause(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        Poll::Ready(())
    }

    fn piece(&mut self) -> Bytes {
        let size = self.size.get().min(self.held.len());
        self.pause = Some(Box::pin(sleep_until(Instant::now() + self.every)));
        self.held.split_to(size)
    }
}

// === impl Garbage ===

impl Garbage {
    fn gap(&mut self) -> u64 {
        self.random.u64(0..=2 * (u64::from(self.one_in.get()) - 1))
    }

    fn apply(&mut self, data: &[u8]) -> Bytes {
        let mut spoilt = BytesMut::from(data);
        for byte in spoilt.iter_mut() {
            if self.good > 0 {
                self.good -= 1;
                continue;
            }
            // Never by itself.
            *byte ^= self.random.u8(1..);
            self.good = self.gap();
        }
        spoilt.freeze()
    }
}
