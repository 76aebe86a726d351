//! The GET stream of a channel's session: opened inside, and opened again whenever it ends.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body as HttpBody;
use tokio::time::Instant;
use tower::{Service, ServiceExt};

use super::{
    channel::Session,
    relay::{Read, Relay, in_session},
};
use crate::{
    Body,
    error::BoxError,
    exchange::Origin,
    limit::Counted,
    mcp::{
        events::{EventReader, EventTooLong},
        headers::LAST_EVENT_ID,
    },
    observe::Media,
    retry::Backoff,
};

/// The pauses before a stream is opened again.
const BACKOFF: Backoff = Backoff {
    base: Duration::from_secs(1),
    max: Duration::from_secs(30),
};

/// The shortest pause, and the most that is waited for of what a server asks for.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5 * 60);

/// A stream that stood for so long was of use, though nothing came on it: somebody between here and there cuts what is quiet.
const STOOD: Duration = Duration::from_secs(30);

/// How often a server is asked that never had a stream. One that had has it again some day, and its client would not know what it misses.
const TRIES: u32 = 5;

/// The GET that opens a stream in this session, after what was read of the one before.
fn get(origin: &Origin, session: &Session, reader: &EventReader) -> Option<Request<Body>> {
    let mut request = in_session(origin, Method::GET, session)?;
    request.extensions_mut().insert(Counted);
    if let Ok(last) = HeaderValue::from_bytes(reader.last_id())
        && !last.is_empty()
    {
        request.headers_mut().insert(LAST_EVENT_ID, last);
    }
    Some(request)
}

impl Relay {
    /// Keeps the session's GET stream open, if the server has one.
    pub(super) async fn stand<O, Own>(self, own: O, origin: Origin)
    where
        O: Service<Request<Body>, Response = Response<Own>> + Clone,
        O::Error: Into<BoxError>,
        Own: HttpBody<Data = Bytes>,
        Own::Error: Into<BoxError>,
    {
        // Of this session alone: the channel may have begun another when this task hears of it.
        let session = self.channel.session();
        let mut reader = EventReader::new(self.message_limit);
        let (mut fruitless, mut streamed) = (0_u32, false);
        while streamed || fruitless < TRIES {
            let Some(request) = get(&origin, &session, &reader) else {
                return;
            };
            let resumes = request.headers().contains_key(LAST_EVENT_ID);
            let begun = Instant::now();
            fruitless = fruitless.saturating_add(1);
            let sent: Result<_, BoxError> = own.clone().oneshot(request).await.map_err(Into::into);
            if let Ok(response) = sent {
                let status = response.status();
                if status.is_success() && Media::of(response.headers()) == Media::Events {
                    streamed = true;
                    reader.begin();
                    let mut read = Read::default();
                    let end = self.read(response, &mut reader, &mut read).await;
                    if read.events > 0 || begun.elapsed() >= STOOD {
                        fruitless = 0;
                    }
                    // Asked for what comes after the last id, the server would send the same again.
                    if end.is_err_and(|error| error.is::<EventTooLong>()) {
                        reader = EventReader::new(self.message_limit);
                    }
                } else if has_none(status, streamed) {
                    return;
                } else if streamed {
                    self.look(status, session.id.as_ref());
                    // It may be the place to go on from that is not known any more.
                    if resumes && status.is_client_error() && !is_for_now(status) {
                        reader = EventReader::new(self.message_limit);
                    }
                }
            }
            tokio::time::sleep(pause(reader.retry(), fruitless, fastrand::f64())).await;
        }
    }
}

/// By this status a server says that it has no stream: with 405, as the specification has it; some have other words for it.
fn has_none(status: StatusCode, streamed: bool) -> bool {
    match status {
        StatusCode::METHOD_NOT_ALLOWED => true,
        StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND | StatusCode::NOT_ACCEPTABLE => !streamed,
        _ => false,
    }
}

/// The status says nothing of the request.
fn is_for_now(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::REQUEST_TIMEOUT | StatusCode::CONFLICT | StatusCode::TOO_MANY_REQUESTS
    )
}

/// The pause before the next stream, with a random number from 0 to 1: what the server asks for, and on top of it longer and longer for so many in a row
/// that were in vain.
fn pause(told: Option<u64>, fruitless: u32, random: f64) -> Duration {
    let told = told.map_or(Duration::ZERO, Duration::from_millis);
    let pause = told.min(LONGEST) + BACKOFF.pause(fruitless.max(1), random);
    pause.max(SHORTEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_asks_for_is_never_undercut() {
        for random in [0.0, 0.5, 1.0] {
            for fruitless in [0, 1, 2, 7, u32::MAX] {
                for told in [0, 99, 3000, 60_000] {
                    let pause = pause(Some(told), fruitless, random);
                    assert!(pause >= Duration::from_millis(told), "{pause:?}");
                    assert!(pause >= SHORTEST, "{pause:?}");
                    assert!(pause <= Duration::from_millis(told) + BACKOFF.max);
                }
                assert!(pause(None, fruitless, random) >= SHORTEST);
                // Nobody is kept away for ever.
                assert!(pause(Some(u64::MAX), fruitless, random) <= LONGEST + BACKOFF.max);
            }
        }
        assert_eq!(pause(Some(3000), 1, 0.5), Duration::from_millis(3500));
    }
}
