//! `ziggurat admin`: the admin API from the command line. Its commands, what they take, and their help are the table of operations.
//!
//! What an operation must be told comes as words in the order of its body, what it may be told as options. People get tables, programs the JSON of the API
//! (`--json`). Exit codes: 0; 1 when the proxy refused, with its reason; 2 for a wrong command line; 3 when nobody answers there; 4 when the token is missing or wrong.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches, Subcommand};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use super::table;
use crate::admin::TokenFile;
use crate::admin::operations::{Operation, operations};

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

#[derive(Debug)]
struct Ask {
    operation: &'static str,
    body: Option<Value>,
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

// === impl Ask ===

/// The operations that are commands.
fn commands() -> impl Iterator<Item = Operation> {
    operations().into_iter().filter(|op| !op.public)
}

/// The name of a command: `openapi` for `openapi.json`.
fn word(operation: &Operation) -> &'static str {
    let name = operation.name;
    name.split('.').next().unwrap_or(name)
}

impl Subcommand for Ask {
    fn augment_subcommands(command: Command) -> Command {
        let command = command
            .subcommand_required(true)
            .arg_required_else_help(true);
        commands().fold(command, |command, operation| {
            let about = operation.about.trim_end_matches('.');
            let sub = Command::new(word(&operation)).about(about);
            command.subcommand(sub.args(Member::of(&operation).iter().map(Member::arg)))
        })
    }

    fn augment_subcommands_for_update(command: Command) -> Command {
        Self::augment_subcommands(command)
    }

    fn has_subcommand(name: &str) -> bool {
        commands().any(|operation| word(&operation) == name)
    }
}

impl FromArgMatches for Ask {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let missing = || clap::Error::new(clap::error::ErrorKind::MissingSubcommand);
        let (name, matches) = matches.subcommand().ok_or_else(missing)?;
        let operation = commands()
            .find(|operation| word(operation) == name)
            .ok_or_else(missing)?;
        let body = operation.body.is_some().then(|| {
            let members = Member::of(&operation).into_iter();
            let said =
                members.filter_map(|member| Some((member.name.clone(), member.said(matches)?)));
            Value::Object(said.collect())
        });
        Ok(Self {
            operation: operation.name,
            body,
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// A member of an operation's body, as its schema has it.
#[derive(Debug)]
struct Member {
    name: String,
    about: String,
    required: bool,
    number: bool,
    words: Vec<String>,
}

impl Member {
    /// Those that must be said first, in their order.
    fn of(operation: &Operation) -> Vec<Self> {
        let Some(body) = operation.body else {
            return Vec::new();
        };
        let settings = SchemaSettings::draft2020_12().with(|s| s.inline_subschemas = true);
        let schema = body(&mut settings.into_generator()).to_value();
        let required: Vec<&str> = schema["required"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let none = Map::new();
        let members = schema["properties"].as_object().unwrap_or(&none);
        let mut found: Vec<Self> = members
            .iter()
            .map(|(name, schema)| Self::new(name, schema, required.contains(&name.as_str())))
            .collect();
        found.sort_by_key(|member| {
            let at = required.iter().position(|name| *name == member.name);
            at.unwrap_or(usize::MAX)
        });
        found
    }

    fn new(name: &str, schema: &Value, required: bool) -> Self {
        let is = |kind: &str| match &schema["type"] {
            Value::Array(kinds) => kinds.iter().any(|k| k == kind),
            one => one == kind,
        };
        let listed = schema["enum"].as_array().into_iter().flatten();
        let described = schema["oneOf"].as_array().into_iter().flatten();
        let words = listed.chain(described.map(|one| &one["const"]));
        let about = schema["description"].as_str().unwrap_or_default();
        Self {
            name: name.to_owned(),
            about: about.trim_end_matches('.').to_owned(),
            required,
            number: is("integer"),
            words: words.filter_map(Value::as_str).map(str::to_owned).collect(),
        }
    }

    fn arg(&self) -> Arg {
        let arg = Arg::new(self.name.clone())
            .help(self.about.clone())
            .value_name(self.name.to_uppercase())
            .required(self.required);
        let arg = if self.required {
            arg
        } else {
            arg.long(self.name.clone())
        };
        if self.number {
            arg.value_parser(clap::value_parser!(i64))
        } else if self.words.is_empty() {
            arg.value_parser(clap::value_parser!(String))
        } else {
            arg.value_parser(PossibleValuesParser::new(&self.words))
        }
    }

    fn said(&self, matches: &ArgMatches) -> Option<Value> {
        if self.number {
            matches
                .get_one::<i64>(&self.name)
                .map(|number| (*number).into())
        } else {
            let said = matches.get_one::<String>(&self.name);
            said.map(|text| text.as_str().into())
        }
    }
}

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
                writeln!(out, "{answer:#}")?;
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
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use serde_json::json;

    use super::*;
    use crate::cli;

    fn read(words: &[&str]) -> Result<Admin, clap::Error> {
        let line = ["ziggurat", "admin"].iter().chain(words);
        match cli::Command::from_line(line)? {
            cli::Command::Admin(admin) => Ok(admin),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_operation_is_a_command_and_takes_what_its_body_takes() {
        for operation in commands() {
            let members = Member::of(&operation);
            let mut words = vec![word(&operation)];
            for member in members.iter().filter(|member| member.required) {
                words.push(match (&member.words[..], member.number) {
                    ([first, ..], _) => first,
                    ([], true) => "7",
                    ([], false) => "x",
                });
            }
            let admin = read(&words).unwrap();
            assert_eq!(admin.operation, operation.name);
            assert_eq!(admin.body.is_some(), operation.body.is_some());
            if words.len() > 1 {
                words.pop();
                assert!(read(&words).is_err(), "{words:?} lacks a word");
            }
        }
    }

    #[test]
    fn words_become_the_body() {
        let admin = read(&[
            "set-weight",
            "tools",
            "a:1",
            "--weight",
            "5",
            "--reason",
            "less",
            "--json",
        ])
        .unwrap();
        assert!(admin.json);
        assert_eq!(
            admin.body,
            Some(json!({"upstream": "tools", "endpoint": "a:1", "weight": 5, "reason": "less"}))
        );
        let admin = read(&["--admin", "h:1", "force-circuit", "tools", "a:1", "open"]).unwrap();
        assert_eq!(admin.address, "h:1");
        assert_eq!(
            admin.body,
            Some(json!({"upstream": "tools", "endpoint": "a:1", "state": "open"}))
        );
        assert!(read(&["force-circuit", "tools", "a:1", "ajar"]).is_err());
        assert!(read(&["set-weight", "tools", "a:1", "--weight", "much"]).is_err());
        assert!(read(&[]).is_err());
        assert_eq!(read(&["openapi"]).unwrap().operation, "openapi.json");
    }

    #[tokio::test]
    async fn where_nobody_answers_it_says_so() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let admin = read(&["--admin", &address, "build"]).unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        assert_eq!(admin.ask(&mut out, &mut err).await.unwrap(), 3);
        let said = String::from_utf8(err).unwrap();
        assert!(
            said.contains(&address) && said.contains("is ziggurat running"),
            "{said}"
        );
        assert!(out.is_empty());
    }
}
