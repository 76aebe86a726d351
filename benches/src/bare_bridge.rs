//! The measure of all stdio ratios: a hyper server in front of one child, ids swapped on the wire, and
//! nothing else. No sessions, no validation, no bounds; a child that dies takes the bridge with it.
//!
//! ```text
//! POST ── own id ──► lines ──► writer task ──► child ──► reader task ── by id or token ──► POST
//! ```

#![expect(
    clippy::disallowed_methods,
    reason = "no bounds: it is what a bridge costs at the least"
)]

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::stream;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Either, Full, StreamBody};
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::rpc::{EVENT_STREAM, JSON};
use crate::{BoxError, serve};

type Body = Either<Full<Bytes>, UnsyncBoxBody<Bytes, Infallible>>;

/// What the bridge reads of a message; the rest passes as it is.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    params: Params<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Params<'a> {
    #[serde(borrow, rename = "_meta")]
    meta: Token<'a>,
    /// Where a progress notification has it.
    #[serde(borrow, rename = "progressToken")]
    token: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Token<'a> {
    #[serde(borrow, rename = "progressToken")]
    token: Option<&'a RawValue>,
}

/// A call whose response has not come.
struct Call {
    id: Box<str>,
    token: Box<str>,
    messages: UnboundedSender<FromChild>,
}

enum FromChild {
    Notification(Vec<u8>),
    Response(Vec<u8>),
}

struct Bridge {
    lines: UnboundedSender<Vec<u8>>,
    calls: Mutex<HashMap<u64, Call>>,
    next_id: AtomicU64,
}

pub(crate) async fn run(listen: SocketAddr, command: Vec<String>) -> Result<(), BoxError> {
    let (program, arguments) = command
        .split_first()
        .ok_or("a command is needed after --")?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let stdin = child.stdin.take().ok_or("the child has no stdin")?;
    let stdout = child.stdout.take().ok_or("the child has no stdout")?;
    let (lines, to_write) = unbounded_channel();
    let bridge = Arc::new(Bridge {
        lines,
        calls: Mutex::default(),
        next_id: AtomicU64::new(1),
    });
    let front = bridge.clone();
    tokio::select! {
        ended = serve::serve(listen, move |request| answer(front.clone(), request)) => ended,
        ended = tokio::spawn(write(stdin, to_write)) => Ok(ended??),
        ended = tokio::spawn(async move { bridge.read(stdout).await }) => Ok(ended??),
    }
}

async fn answer(bridge: Arc<Bridge>, request: Request<Incoming>) -> Response<Body> {
    if request.method() != Method::POST {
        return status(StatusCode::METHOD_NOT_ALLOWED);
    }
    let Ok(body) = request.into_body().collect().await else {
        return status(StatusCode::BAD_REQUEST);
    };
    let body = body.to_bytes();
    let Ok(envelope) = serde_json::from_slice(&body) else {
        return status(StatusCode::BAD_REQUEST);
    };
    let Some(mut messages) = bridge.send(&body, &envelope) else {
        return status(StatusCode::ACCEPTED);
    };
    match messages.recv().await {
        Some(FromChild::Response(message)) => respond(JSON, Either::Left(Full::from(message))),
        Some(first @ FromChild::Notification(_)) => {
            respond(EVENT_STREAM, Either::Right(events(first, messages)))
        }
        None => status(StatusCode::BAD_GATEWAY),
    }
}

fn events(
    first: FromChild,
    messages: UnboundedReceiver<FromChild>,
) -> UnsyncBoxBody<Bytes, Infallible> {
    let frames = stream::unfold(
        (Some(first), messages),
        |(first, mut messages)| async move {
            let message = match first {
                Some(first) => first,
                None => messages.recv().await?,
            };
            let (FromChild::Notification(message) | FromChild::Response(message)) = message;
            let event = [&b"event: message\ndata: "[..], &message, b"\n\n"].concat();
            Some((Ok(Frame::data(Bytes::from(event))), (None, messages)))
        },
    );
    StreamBody::new(frames).boxed_unsync()
}

fn respond(content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn status(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::default()));
    *response.status_mut() = status;
    response
}

// === impl Bridge ===

impl Bridge {
    /// Hands the message to the child; what comes back for it arrives on the receiver. A notification has
    /// none.
    fn send(&self, body: &Bytes, envelope: &Envelope<'_>) -> Option<UnboundedReceiver<FromChild>> {
        let Some(id) = envelope.id else {
            self.write_line(body.to_vec());
            return None;
        };
        let own_id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let digits = own_id.to_string();
        let token = envelope.params.meta.token;
        let line = replace(body, [Some(id), token], [&digits, &digits]);
        let (sender, messages) = unbounded_channel();
        let call = Call {
            id: id.get().into(),
            token: token.map_or("", RawValue::get).into(),
            messages: sender,
        };
        self.calls().insert(own_id, call);
        self.write_line(line);
        Some(messages)
    }

    fn write_line(&self, mut line: Vec<u8>) {
        line.push(b'\n');
        // Fails only when the writer has ended, and then the program ends too.
        let _ended = self.lines.send(line);
    }

    async fn read(&self, mut stdout: ChildStdout) -> std::io::Result<()> {
        let mut unread = BytesMut::new();
        let mut searched = 0;
        loop {
            unread.reserve(CHUNK);
            if stdout.read_buf(&mut unread).await? == 0 {
                return Ok(());
            }
            while let Some(end) = memchr::memchr(b'\n', &unread[searched..]) {
                let line = unread.split_to(searched + end);
                unread.advance(1);
                searched = 0;
                self.receive(&line);
            }
            searched = unread.len();
        }
    }

    /// Gives a line of the child to the call that it belongs to, with that call's own id or token in it.
    fn receive(&self, line: &[u8]) {
        let Ok(Envelope { id, params }) = serde_json::from_slice(line) else {
            return;
        };
        let own_id = |raw: Option<&RawValue>| raw?.get().parse::<u64>().ok();
        let mut calls = self.calls();
        if let Some(call) = own_id(id).and_then(|id| calls.remove(&id)) {
            drop(calls);
            let message = replace(line, [id, None], [&call.id, ""]);
            let _gone = call.messages.send(FromChild::Response(message));
        } else if let Some(call) = own_id(params.token).and_then(|token| calls.get(&token)) {
            let message = replace(line, [params.token, None], [&call.token, ""]);
            let _gone = call.messages.send(FromChild::Notification(message));
        }
    }

    fn calls(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Call>> {
        self.calls
            .lock()
            .expect("nobody panics with the calls in hand")
    }
}

const CHUNK: usize = 64 * 1024;

/// Writes lines to the child: with one write, all that are waiting.
async fn write(
    mut stdin: ChildStdin,
    mut lines: UnboundedReceiver<Vec<u8>>,
) -> std::io::Result<()> {
    let mut out = Vec::new();
    while let Some(line) = lines.recv().await {
        out.extend_from_slice(&line);
        while out.len() < CHUNK
            && let Ok(line) = lines.try_recv()
        {
            out.extend_from_slice(&line);
        }
        stdin.write_all(&out).await?;
        out.clear();
    }
    Ok(())
}

/// `message` with other texts in place of two values that were read from it, in either order.
fn replace(message: &[u8], values: [Option<&RawValue>; 2], with: [&str; 2]) -> Vec<u8> {
    let place = |value: &RawValue, with| {
        let start = value.get().as_ptr().addr() - message.as_ptr().addr();
        (start, start + value.get().len(), with)
    };
    let mut places: [Option<(usize, usize, &str)>; 2] =
        [0, 1].map(|i| values[i].map(|value| place(value, with[i])));
    places.sort();
    let mut out = Vec::with_capacity(message.len() + with[0].len() + with[1].len() + 1);
    let mut copied = 0;
    for (start, end, with) in places.into_iter().flatten() {
        out.extend_from_slice(&message[copied..start]);
        out.extend_from_slice(with.as_bytes());
        copied = end;
    }
    out.extend_from_slice(&message[copied..]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_tokens_are_swapped_and_nothing_else_is_touched() {
        for (message, expected) in [
            (
                r#"{"id": "a", "x":1, "params":{"_meta":{"progressToken":7}}}"#,
                r#"{"id": 12, "x":1, "params":{"_meta":{"progressToken":12}}}"#,
            ),
            (
                r#"{"params":{"_meta":{"progressToken":"t"}},"id":0}"#,
                r#"{"params":{"_meta":{"progressToken":12}},"id":12}"#,
            ),
        ] {
            let envelope: Envelope<'_> = serde_json::from_str(message).expect("it is JSON");
            let swapped = replace(
                message.as_bytes(),
                [envelope.id, envelope.params.meta.token],
                ["12", "12"],
            );
            assert_eq!(swapped, expected.as_bytes());
        }
    }
}
