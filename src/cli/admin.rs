//! `ziggurat admin`: the admin API from the command line. Its commands, what they take, and their help are the table of operations.
//!
//! What an operation must be told comes as words in the order of its body, what it may be told as options. People get tables, programs the JSON of the API
//! (`--json`). Exit codes: 0; 1 when the proxy refused, with its reason; 2 for a wrong command line; 3 when nobody answers there; 4 when the token is missing or wrong.

mod words;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use self::words::{Ask, commands};
use super::table;
use crate::admin::TokenFile;
use crate::admin::operations::Operation;

/// What is asked of which proxy, and how its answer is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Host and port of its admin listener.
    pub address: String,
    /// The file with the token; without it, the environment and the file that the proxy left are looked at.
    pub token_file: Option<PathBuf>,
    /// The answer as it comes.
    pub json: bool,
    /// The operation.
    pub operation: &'static str,
    /// What it is told.
    pub body: Option<Value>,
}

/// The words behind `ziggurat admin`.
#[derive(Debug, Args)]
pub(super) struct AdminLine {
    /// The admin listener of the proxy
    // Not of the name of the option of `run`, since what is global is known above too.
    #[arg(
        long = "admin",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:9901",
        global = true
    )]
    proxy: String,
    /// A file with the token; else it is $ZIGGURAT_ADMIN_TOKEN, or what a proxy on this machine left for its user
    #[arg(long, value_name = "FILE", global = true)]
    token_file: Option<PathBuf>,
    /// Print the JSON of the API
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    ask: Ask,
}

/// Why there is no answer to show.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("nobody answers at {address}: {problem}; is ziggurat running there? (--admin ADDRESS)")]
    Nobody { address: String, problem: String },
    #[error(
        "there is no token for {0}: set ZIGGURAT_ADMIN_TOKEN, or name a file with --token-file"
    )]
    NoToken(String),
    #[error("the token cannot be read: {0}")]
    Token(String),
    #[error("{0}")]
    Shut(String),
    #[error("{0}")]
    Refused(String),
}

/// Where the token may be.
const TOKEN: &str = "ZIGGURAT_ADMIN_TOKEN";
const CONNECT: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_secs(30);
const LARGEST: usize = 64 << 20;

impl From<AdminLine> for Admin {
    fn from(line: AdminLine) -> Self {
        Self {
            address: line.proxy,
            token_file: line.token_file,
            json: line.json,
            operation: line.ask.operation,
            body: line.ask.body,
        }
    }
}

// === impl Admin ===

impl Admin {
    /// Asks, and shows the answer; returns the exit code.
    ///
    /// # Errors
    /// When nothing can be written.
    pub async fn ask(&self, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<u8> {
        let operation = commands().find(|operation| operation.name == self.operation);
        let Some(operation) = operation else {
            return Ok(2);
        };
        match self.answer(&operation).await {
            Ok(answer) if self.json => {
                writeln!(out, "{}", table::json(&answer))?;
                Ok(0)
            }
            Ok(answer) => {
                table::show(operation.show, &answer, out)?;
                Ok(0)
            }
            Err(trouble) => {
                writeln!(err, "ziggurat admin: {trouble}")?;
                Ok(trouble.code())
            }
        }
    }

    async fn answer(&self, operation: &Operation) -> Result<Value, Trouble> {
        let token = self.token().await?;
        let has_token = token.is_some();
        let request = self.request(operation, token)?;
        let nobody = |problem: String| Trouble::Nobody {
            address: self.address.clone(),
            problem,
        };
        let (status, body) = match timeout(ANSWER, exchange(&self.address, request)).await {
            Ok(answer) => answer.map_err(nobody)?,
            Err(_) => return Err(nobody("no answer came in time".to_owned())),
        };
        let value: Option<Value> = serde_json::from_slice(&body).ok();
        if status.is_success()
            && let Some(value) = value
        {
            return Ok(value);
        }
        let detail = value.and_then(|value| Some(value["detail"].as_str()?.to_owned()));
        let detail = detail.unwrap_or_else(|| {
            format!("the answer, {status}, is none of a ziggurat's admin listener")
        });
        Err(match status {
            StatusCode::UNAUTHORIZED if !has_token => Trouble::NoToken(self.address.clone()),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Trouble::Shut(detail),
            _ => Trouble::Refused(detail),
        })
    }

    fn request(
        &self,
        operation: &Operation,
        token: Option<HeaderValue>,
    ) -> Result<Request<Full<Bytes>>, Trouble> {
        let mut request = Request::new(Full::default());
        *request.method_mut() = operation.method();
        let path = operation.path.parse();
        *request.uri_mut() = path.map_err(|_| Trouble::Refused("no such path".to_owned()))?;
        let host = HeaderValue::from_str(&self.address);
        let host = host.map_err(|error| Trouble::Nobody {
            address: self.address.escape_debug().to_string(),
            problem: error.to_string(),
        })?;
        let headers = request.headers_mut();
        headers.insert(HOST, host);
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.extend(token.map(|token| (AUTHORIZATION, token)));
        if operation.method() == Method::POST {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            let body = self.body.as_ref().map(Value::to_string);
            *request.body_mut() = Full::from(body.unwrap_or_default());
        }
        Ok(request)
    }

    /// The token, from where it is found first. Without one it is tried all the same: the door may be open.
    async fn token(&self) -> Result<Option<HeaderValue>, Trouble> {
        let unreadable = |error: io::Error| Trouble::Token(error.to_string());
        let text = if let Some(file) = &self.token_file {
            Some(
                std::fs::read_to_string(file)
                    .map_err(|error| Trouble::Token(format!("{}: {error}", file.display())))?,
            )
        } else if let Ok(token) = std::env::var(TOKEN) {
            Some(token)
        } else {
            let mut found = None;
            for address in self.resolve().await? {
                found = TokenFile::find(address).map_err(unreadable)?;
                if found.is_some() {
                    break;
                }
            }
            found
        };
        let Some(text) = text else { return Ok(None) };
        let mut token = HeaderValue::from_str(&format!("Bearer {}", text.trim()))
            .map_err(|_| Trouble::Token("it has characters that no header can carry".to_owned()))?;
        token.set_sensitive(true);
        Ok(Some(token))
    }

    async fn resolve(&self) -> Result<Vec<SocketAddr>, Trouble> {
        let found = timeout(CONNECT, lookup_host(&self.address)).await;
        let problem = match found {
            Ok(Ok(found)) => return Ok(found.collect()),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "its name is not found in time".to_owned(),
        };
        Err(Trouble::Nobody {
            address: self.address.clone(),
            problem,
        })
    }
}

/// One request on a connection of its own; the status and the body, or what went wrong.
async fn exchange(
    address: &str,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Bytes), String> {
    let stream = timeout(CONNECT, TcpStream::connect(address)).await;
    let stream = stream.map_err(|_| "no connection in time".to_owned())?;
    let stream = stream.map_err(|error| error.to_string())?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
    let answered = async {
        let answer = sender.send_request(request).await;
        let answer = answer.map_err(|error| error.to_string())?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), LARGEST).collect().await;
        let body = body.map_err(|error| error.to_string())?;
        Ok((status, body.to_bytes()))
    };
    // It moves the bytes; what it ends with, the answer tells.
    let moves = async {
        let _ended = connection.await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        answer = answered => answer,
        () = moves => Err("the connection ended".to_owned()),
    }
}

// === impl Trouble ===

impl Trouble {
    fn code(&self) -> u8 {
        match self {
            Self::Refused(_) => 1,
            Self::Nobody { .. } => 3,
            Self::NoToken(_) | Self::Token(_) | Self::Shut(_) => 4,
        }
    }
}

#[cfg(test)]
mod tests;
