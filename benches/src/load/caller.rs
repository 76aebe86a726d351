//! One client: a connection, the era it speaks, its session, and the calls it makes and checks.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{Era, Target};
use crate::BoxError;
use crate::rpc::{ENVELOPE, EVENT_STREAM, Events, JSON, LEGACY, MODERN, Reply, header};

pub(crate) struct Caller {
    target: Target,
    era: Era,
    /// What every request carries.
    headers: HeaderMap,
    connection: SendRequest<Full<Bytes>>,
    next_id: u64,
}

impl Caller {
    /// Connects and, in the legacy era, opens a session. Ids begin far apart, so that an answer that went to
    /// the wrong caller is seen.
    pub(crate) async fn connect(target: Target, era: Era, number: u32) -> Result<Self, BoxError> {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_str(&target.address.to_string())?);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
        let both = "application/json, text/event-stream";
        headers.insert(ACCEPT, HeaderValue::from_static(both));
        if era == Era::Modern {
            headers.insert(header::VERSION, HeaderValue::from_static(MODERN));
        }
        let mut caller = Self {
            connection: open(target.address).await?,
            target,
            era,
            headers,
            next_id: u64::from(number) * 1_000_000_000,
        };
        if era == Era::Legacy {
            caller.initialize().await?;
        }
        Ok(caller)
    }

    /// A new connection after an error; the session goes on. Waits a moment when there is none to be had.
    pub(crate) async fn reconnect(&mut self) {
        match open(self.target.address).await {
            Ok(connection) => self.connection = connection,
            Err(_not_now) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }

    pub(crate) async fn echo_small(&mut self) -> Result<(), BoxError> {
        let text = format!("call {}", self.next_id);
        self.call("echo", &format!(r#"{{"text":"{text}"}}"#), |answer| {
            answer == text
        })
        .await
    }

    pub(super) async fn echo_big(&mut self, bytes: usize) -> Result<(), BoxError> {
        let text = "x".repeat(bytes);
        self.call("echo", &format!(r#"{{"text":"{text}"}}"#), |answer| {
            answer == text
        })
        .await
    }

    pub(super) async fn big(&mut self, bytes: usize) -> Result<(), BoxError> {
        self.call("big", &format!(r#"{{"bytes":{bytes}}}"#), |answer| {
            answer.len() == bytes && answer.bytes().all(|byte| byte == b'x')
        })
        .await
    }

    /// Reads a progress stream to its end; `arrived` hears how many events each piece of it brought.
    pub(crate) async fn progress(
        &mut self,
        steps: u64,
        mut arrived: impl FnMut(u64),
    ) -> Result<(), BoxError> {
        let (id, response) = self
            .send("progress", &format!(r#"{{"steps":{steps}}}"#))
            .await?;
        if !is_event_stream(&response) {
            return Err("the progress stream came without events".into());
        }
        let mut body = response.into_body();
        let mut events = Events::default();
        let mut seen = 0;
        let mut done = false;
        while let Some(frame) = body.frame().await {
            let Ok(bytes) = frame?.into_data() else {
                continue;
            };
            events.push(&bytes);
            let before = seen;
            while let Some(event) = events.next() {
                let reply: Reply<'_> = serde_json::from_slice(&event)?;
                if reply.text_for(id) == Some("done") && seen == steps && !done {
                    done = true;
                } else if is_step(&reply, id, seen + 1) && !done {
                    seen += 1;
                } else {
                    return Err(format!("not event {} of {steps}", seen + 1).into());
                }
            }
            arrived(seen - before);
        }
        match done {
            true => Ok(()),
            false => Err(format!("the stream ended after {seen} of {steps} events").into()),
        }
    }

    /// Opens the standing stream of this caller's session, or goes on with it after the event of this id.
    pub(crate) async fn listen(&mut self, after: Option<&str>) -> Result<Incoming, BoxError> {
        let mut request = self.request(Method::GET, Bytes::new());
        let headers = request.headers_mut();
        headers.insert(ACCEPT, HeaderValue::from_static(EVENT_STREAM));
        if let Some(id) = after {
            headers.insert("last-event-id", HeaderValue::from_str(id)?);
        }
        let response = self.exchange(request).await?;
        match is_event_stream(&response) {
            true => Ok(response.into_body()),
            false => Err("the standing stream is none".into()),
        }
    }

    async fn call(
        &mut self,
        tool: &'static str,
        arguments: &str,
        is_right: impl FnOnce(&str) -> bool,
    ) -> Result<(), BoxError> {
        let (id, response) = self.send(tool, arguments).await?;
        let streamed = is_event_stream(&response);
        let mut body = response.into_body().collect().await?.to_bytes();
        if streamed {
            // The one event may as well be a stream's.
            let mut events = Events::default();
            events.push(&body);
            body = events.next().unwrap_or_default();
        }
        let reply: Reply<'_> = serde_json::from_slice(&body)?;
        match reply.text_for(id).is_some_and(is_right) {
            true => Ok(()),
            false => Err(format!("not the answer to call {id}: {}", beginning(&body)).into()),
        }
    }

    async fn send(
        &mut self,
        tool: &'static str,
        arguments: &str,
    ) -> Result<(u64, Response<Incoming>), BoxError> {
        let id = self.next_id;
        self.next_id += 1;
        let meta = match (self.era, tool) {
            (Era::Legacy, "progress") => format!(r#""progressToken":{id}"#),
            (Era::Legacy, _) => String::new(),
            (Era::Modern, "progress") => format!(r#"{ENVELOPE},"progressToken":{id}"#),
            (Era::Modern, _) => ENVELOPE.to_owned(),
        };
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"{tool}","arguments":{arguments},"_meta":{{{meta}}}}}}}"#
        );
        let mut request = self.request(Method::POST, Bytes::from(body));
        if self.era == Era::Modern {
            let headers = request.headers_mut();
            headers.insert(header::METHOD, HeaderValue::from_static("tools/call"));
            headers.insert(header::NAME, HeaderValue::from_static(tool));
        }
        Ok((id, self.exchange(request).await?))
    }

    async fn initialize(&mut self) -> Result<(), BoxError> {
        let initialize = format!(
            r#"{{"jsonrpc":"2.0","id":{},"method":"initialize","params":{{"protocolVersion":"{LEGACY}","capabilities":{{}},"clientInfo":{{"name":"ziggurat-bench","version":"1"}}}}}}"#,
            self.next_id
        );
        let response = self
            .exchange(self.request(Method::POST, Bytes::from(initialize)))
            .await?;
        if let Some(session) = response.headers().get(header::SESSION) {
            self.headers.insert(header::SESSION, session.clone());
        }
        response.into_body().collect().await?;
        self.headers
            .insert(header::VERSION, HeaderValue::from_static(LEGACY));
        let initialized = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
        let response = self
            .exchange(self.request(Method::POST, Bytes::from_static(initialized.as_bytes())))
            .await?;
        response.into_body().collect().await?;
        Ok(())
    }

    fn request(&self, method: Method, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = self.target.path.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }

    async fn exchange(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, BoxError> {
        self.connection.ready().await?;
        let response = self.connection.send_request(request).await?;
        match response.status() {
            StatusCode::OK | StatusCode::ACCEPTED => Ok(response),
            other => {
                let body = response.into_body().collect().await?.to_bytes();
                Err(format!("status {other}: {}", beginning(&body)).into())
            }
        }
    }
}

/// A new HTTP/1.1 connection.
pub(crate) async fn open(address: SocketAddr) -> Result<SendRequest<Full<Bytes>>, BoxError> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (connection, io) = http1::handshake(TokioIo::new(stream)).await?;
    // Ends with its sender. How it ended, the request that it failed says.
    tokio::spawn(io);
    Ok(connection)
}

pub(crate) fn is_event_stream(response: &Response<Incoming>) -> bool {
    response
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(EVENT_STREAM.as_bytes()))
}

fn is_step(reply: &Reply<'_>, token: u64, step: u64) -> bool {
    reply.method.as_deref() == Some("notifications/progress")
        && reply
            .params
            .as_ref()
            .is_some_and(|params| params.token == Some(token) && params.progress == Some(step))
}

fn beginning(body: &[u8]) -> String {
    let end = body.len().min(200);
    String::from_utf8_lossy(&body[..end]).into_owned()
}
