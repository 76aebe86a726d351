//! The stdio transport: one message on each line.
//!
//! One task reads, runs what can be answered at once, and writes. What is ready together is written together; when
//! nothing more is ready it is flushed. A client that does not read is not read from either, past a bound.

mod lines;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use std::io;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use self::lines::{Line, Lines};
use super::engine::{Caller, Engine, Step};
use super::inflight::Inflight;
use super::outlet::{Outgoing, Outlet, outlet};
use super::revision::{self, Claim, MODERN, WITH_BATCHES};
use super::rpc::{self, Message, Params, Reply, Request, RpcError};
use super::session::Session;

/// Above so many bytes that wait to be written, nothing more is read.
const HIGH_WATER: usize = 1 << 20;

/// Why serving ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The client left.
    Closed,
    /// The tool `crash` was called.
    Crashed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Era {
    Legacy,
    Modern,
}

/// One client, from its first line to its last.
struct Connection {
    engine: Arc<Engine>,
    session: Arc<Session>,
    era: Option<Era>,
    inflight: Inflight,
    outlet: Outlet,
    outgoing: Outgoing,
    lines: Lines,
    out: BytesMut,
    reading: Reading,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    On,
    /// `hang_stdin` was called.
    Hung,
    Crashed,
}

/// Serves one client.
pub(crate) async fn serve<R, W>(
    engine: &Arc<Engine>,
    mut reader: R,
    mut writer: W,
) -> io::Result<Ending>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut connection = Connection::new(engine);
    match connection.run(&mut reader, &mut writer).await {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Ending::Closed),
        ending => ending,
    }
}

/// Writes some of `out`, or flushes when there is nothing to write.
async fn put<W: AsyncWrite + Unpin>(writer: &mut W, out: &[u8]) -> io::Result<usize> {
    if out.is_empty() {
        writer.flush().await?;
        return Ok(0);
    }
    match writer.write(out).await? {
        0 => Err(io::ErrorKind::BrokenPipe.into()),
        n => Ok(n),
    }
}

// === impl Connection ===

impl Connection {
    fn new(engine: &Arc<Engine>) -> Self {
        let (outlet, outgoing) = outlet();
        Self {
            engine: Arc::clone(engine),
            session: engine.session(None),
            era: None,
            inflight: Inflight::default(),
            outlet,
            outgoing,
            lines: Lines::default(),
            out: BytesMut::new(),
            reading: Reading::On,
        }
    }

    async fn run<R, W>(&mut self, reader: &mut R, writer: &mut W) -> io::Result<Ending>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut hearing = self.engine.changes().listen();
        let mut unflushed = false;
        loop {
            self.handle_lines();
            self.collect();
            if self.reading == Reading::Crashed {
                return Ok(Ending::Crashed);
            }
            let room = self.out.len() < HIGH_WATER;
            let read = room && self.reading == Reading::On;
            tokio::select! {
                biased;
                written = put(writer, &self.out), if !self.out.is_empty() || unflushed => {
                    unflushed = !self.out.is_empty();
                    self.out.advance(written?);
                }
                arrived = reader.read_buf(self.lines.buffer()), if read => {
                    if arrived? == 0 {
                        writer.write_all(&self.out).await?;
                        writer.flush().await?;
                        return Ok(Ending::Closed);
                    }
                }
                Some(out) = self.outgoing.recv(), if room => self.push(&out.text()),
                change = hearing.next(), if room => {
                    if self.era == Some(Era::Legacy) && self.session.wants(&change) {
                        self.push(&change.notification(None));
                    }
                }
                () = self.inflight.ended(), if !self.inflight.is_empty() => {}
            }
        }
    }

    /// Handles the lines that are complete, as long as there is room for answers.
    fn handle_lines(&mut self) {
        while self.reading == Reading::On && self.out.len() < HIGH_WATER {
            match self.lines.next() {
                Some(Line::Text(text)) => self.line(&text),
                Some(Line::TooLong) => {
                    self.answer(&RpcError::invalid_request("the line is too long").reply(None));
                }
                None => break,
            }
        }
    }

    /// Takes what running calls have said meanwhile.
    fn collect(&mut self) {
        while self.out.len() < HIGH_WATER {
            match self.outgoing.try_recv() {
                Ok(out) => self.push(&out.text()),
                Err(_) => break,
            }
        }
    }

    fn line(&mut self, line: &Bytes) {
        match rpc::batch(line) {
            None => self.message(line),
            Some(_) if self.session.version() != Some(WITH_BATCHES) => {
                self.answer(
                    &RpcError::invalid_request("batches are not part of this revision").reply(None),
                );
            }
            Some(elements) if elements.is_empty() => {
                self.answer(&RpcError::invalid_request("the batch is empty").reply(None));
            }
            Some(elements) => {
                for element in elements {
                    self.message(element.get().as_bytes());
                }
            }
        }
    }

    fn message(&mut self, text: &[u8]) {
        match rpc::read(text) {
            Ok(Message::Request(request)) => self.request(request),
            Ok(Message::Notification { method, params }) => self.notification(&method, &params),
            Ok(Message::Response { id, outcome }) => self.session.answered(&id, outcome),
            Err(malformed) => self.answer(&malformed.error.reply(malformed.id.as_ref())),
        }
    }

    fn notification(&mut self, method: &str, params: &Params) {
        if method == "notifications/cancelled" {
            self.inflight
                .cancel(params.get("requestId").unwrap_or(&Value::Null));
        }
    }

    fn request(&mut self, request: Request) {
        let caller = match self.caller(&request) {
            Ok(caller) => caller,
            Err(error) => return self.answer(&error.reply(Some(&request.id))),
        };
        match self.engine.request(request, caller, None) {
            Step::Answer(reply) => self.answer(&reply),
            Step::Later(call) => {
                let id = call.id.clone();
                if !self.inflight.has_room() {
                    return self.answer(
                        &RpcError::internal("too many calls are running").reply(Some(&id)),
                    );
                }
                let outlet = self.outlet.clone();
                self.inflight.spawn(id, async move {
                    let reply = call.run(outlet.clone()).await;
                    outlet.finish(reply).await;
                });
            }
            Step::Crash => self.reading = Reading::Crashed,
            Step::Hang(reply) => {
                self.answer(&reply);
                self.reading = Reading::Hung;
            }
        }
    }

    /// Who calls. The first request settles the era; the other era is refused from then on.
    fn caller(&mut self, request: &Request) -> Result<Caller, RpcError> {
        let marked = revision::is_modern(&request.method, &request.params);
        let first = if marked { Era::Modern } else { Era::Legacy };
        match (*self.era.get_or_insert(first), marked) {
            (Era::Legacy, false) => Ok(Caller::Legacy(Arc::clone(&self.session))),
            (Era::Legacy, true) => Err(RpcError::invalid_request(
                "this connection began with the older protocol; requests with a version of their own are refused",
            )),
            (Era::Modern, _) if request.method == "initialize" => {
                let asked = request
                    .params
                    .get("protocolVersion")
                    .cloned()
                    .unwrap_or_default();
                let error = RpcError::new(
                    -32022,
                    format!("this connection speaks {MODERN}; there is no handshake"),
                );
                Err(error.with_data(json!({"supported": [MODERN], "requested": asked})))
            }
            (Era::Modern, _) => Ok(Caller::Modern(Claim::read(&request.params)?.accept()?)),
        }
    }

    fn answer(&mut self, reply: &Reply) {
        self.push(&reply.text);
    }

    fn push(&mut self, text: &[u8]) {
        self.out.reserve(text.len() + 1);
        self.out.extend_from_slice(text);
        self.out.extend_from_slice(b"\n");
    }
}
