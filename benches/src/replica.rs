//! One of several equal servers behind a proxy: the [`echo`] server in the modern era, which takes its time, writes
//! down what it executes, and misbehaves when told to.
//!
//! | signal | from then on, until it comes again |
//! | --- | --- |
//! | `SIGUSR1` | it answers 503, and executes nothing |
//! | `SIGUSR2` | it executes, sends half of the answer (of a stream, up to the middle of an event) and cuts the connection |
//!
//! The journal gets a line for each `tools/` request when its work begins: the name of the replica, the method, and the text argument or, where there
//! is none, the id. Each line is one `write` at the end of the file, so all replicas share the file, and what a killed one has
//! executed is in it. `GET` and `server/discover` are health checks, and are not written down: their ids may be those of calls.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, Stream, StreamExt};
use http::header::CONTENT_LENGTH;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;

use crate::echo::{self, Answer, Progress};
use crate::rpc::{self, EVENT_STREAM, JSON};
use crate::serve::{self, status};
use crate::{BoxError, Listen};

/// How long half of an answer is given to leave, before the connection is cut behind it.
const HALFWAY: Duration = Duration::from_millis(2);

#[derive(clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    listen: Listen,
    /// The file that gets a line for each call that is executed
    #[arg(long, value_name = "FILE")]
    journal: PathBuf,
    /// What it is called in the journal
    #[arg(long)]
    name: String,
    /// How long each request takes, such as 5ms
    #[arg(long, value_name = "TIME", default_value = "5ms", value_parser = time)]
    work: Duration,
    /// How many requests it works on at once; others wait in it. Left out, there is no end to it
    #[arg(long)]
    concurrency: Option<usize>,
}

struct Replica {
    name: String,
    journal: File,
    work: Duration,
    places: Option<Arc<Semaphore>>,
    refuses: AtomicBool,
    cuts: AtomicBool,
}

/// A place among those that are worked on, held until its work is done.
type Place = Option<OwnedSemaphorePermit>;
type Body = UnsyncBoxBody<Bytes, BoxError>;
type Piece = Result<Frame<Bytes>, BoxError>;

/// What a streamed answer does next.
enum Next {
    Message(Progress, Place),
    CutOff,
}

pub(crate) async fn run(options: Options) -> Result<(), BoxError> {
    let journal = OpenOptions::new()
        .append(true)
        .create(true)
        .open(&options.journal)?;
    let replica = Arc::new(Replica {
        name: options.name,
        journal,
        work: options.work,
        places: options.concurrency.map(Semaphore::new).map(Arc::new),
        refuses: AtomicBool::new(false),
        cuts: AtomicBool::new(false),
    });
    // Before it says that it is there: a signal without a handler would end it.
    let mut refuse = signal(SignalKind::user_defined1())?;
    let mut cut = signal(SignalKind::user_defined2())?;
    let told = replica.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = refuse.recv() => told.refuses.fetch_xor(true, Ordering::Relaxed),
                _ = cut.recv() => told.cuts.fetch_xor(true, Ordering::Relaxed),
            };
        }
    });
    serve::serve(options.listen.listen, move |request| {
        answer(replica.clone(), request)
    })
    .await
}

async fn answer(replica: Arc<Replica>, request: Request<Incoming>) -> Response<Body> {
    let method = request.method().clone();
    let Ok(body) = request.into_body().collect().await else {
        return status(StatusCode::BAD_REQUEST);
    };
    if replica.refuses.load(Ordering::Relaxed) {
        return status(StatusCode::SERVICE_UNAVAILABLE);
    }
    let body = body.to_bytes();
    match (method, serde_json::from_slice::<rpc::Request<'_>>(&body)) {
        (Method::GET, _) => status(StatusCode::OK),
        (Method::POST, Ok(request)) => execute(replica, &request).await,
        (Method::POST, Err(_)) => status(StatusCode::BAD_REQUEST),
        _ => status(StatusCode::METHOD_NOT_ALLOWED),
    }
}

async fn execute(replica: Arc<Replica>, request: &rpc::Request<'_>) -> Response<Body> {
    let place = match &replica.places {
        Some(places) => places.clone().acquire_owned().await.ok(),
        None => None,
    };
    if let Err(error) = replica.write_down(request) {
        eprintln!("{}: the journal: {error}", replica.name);
        return status(StatusCode::INTERNAL_SERVER_ERROR);
    }
    match echo::answer(request) {
        Answer::Nothing => status(StatusCode::ACCEPTED),
        Answer::Message(message) => {
            sleep(replica.work).await;
            drop(place);
            json(message, replica.cuts.load(Ordering::Relaxed))
        }
        Answer::Stream(messages) => {
            let steps = request.params.arguments.steps;
            serve::streamed(events(replica, messages, steps, place), EVENT_STREAM)
        }
    }
}

/// The messages as events, with the work spread between them. The answer is cut off in the event after the one in its middle.
fn events(
    replica: Arc<Replica>,
    messages: Progress,
    steps: u64,
    place: Place,
) -> impl Stream<Item = Piece> + Send + 'static {
    let pause = replica.work / u32::try_from(steps + 1).unwrap_or(u32::MAX);
    let first = Some(Next::Message(messages, place));
    stream::unfold((first, 0), move |(next, sent)| {
        let replica = replica.clone();
        async move {
            let (mut messages, place) = match next? {
                Next::Message(messages, place) => (messages, place),
                Next::CutOff => return Some((cut_off().await, (None, sent))),
            };
            let event = rpc::event(&messages.next()?);
            sleep(pause).await;
            if sent > steps / 2 && replica.cuts.load(Ordering::Relaxed) {
                let half = event.slice(..event.len() / 2);
                return Some((Ok(Frame::data(half)), (Some(Next::CutOff), sent)));
            }
            let next = Some(Next::Message(messages, place));
            Some((Ok(Frame::data(event)), (next, sent + 1)))
        }
    })
}

/// The end of an answer that does not come to its end.
async fn cut_off() -> Piece {
    sleep(HALFWAY).await;
    Err("told to cut it off".into())
}

fn json(message: String, cut: bool) -> Response<Body> {
    let message = Bytes::from(message);
    let length = HeaderValue::from(message.len());
    let shown = match cut {
        true => message.slice(..message.len() / 2),
        false => message,
    };
    let first = stream::once(async { Ok(Frame::data(shown)) });
    let rest = stream::iter(cut.then_some(())).then(|()| cut_off());
    let mut response = serve::streamed(first.chain(rest), JSON);
    response.headers_mut().insert(CONTENT_LENGTH, length);
    response
}

fn time(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, 1e-3),
        None => (text.strip_suffix('s').unwrap_or_default(), 1.0),
    };
    let seconds = number.parse::<f64>().map(|number| number * unit);
    seconds
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| "it is written like 5ms or 2s".to_owned())
}

// === impl Replica ===

impl Replica {
    /// One write: whole lines, whoever else writes, and nothing that a kill could take back.
    fn write_down(&self, request: &rpc::Request<'_>) -> std::io::Result<()> {
        let Some(id) = request.id else {
            return Ok(());
        };
        if !request.method.starts_with("tools/") {
            return Ok(());
        }
        let text = request.params.arguments.text.unwrap_or(id);
        let line = format!("{} {} {}\n", self.name, request.method, text.get());
        (&self.journal).write_all(line.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_their_unit() {
        assert_eq!(time("5ms"), Ok(Duration::from_millis(5)));
        assert_eq!(time("0.5s"), Ok(Duration::from_millis(500)));
        for wrong in ["5", "ms", "s", "-1s", "5m", ""] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
    }
}
