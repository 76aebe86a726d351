//! JSON-RPC 2.0: reading one message, writing one message.
//!
//! Ids are kept as the text in which they came, so an answer carries the same value in the same spelling and type.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

/// The members of `params`, or nothing.
pub(crate) type Params = Map<String, Value>;

/// The id of a request: the JSON text of a string or a number.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Id(Box<str>);

/// A message that came from the client.
#[derive(Debug)]
pub(crate) enum Message {
    /// Wants an answer.
    Request(Request),
    /// Wants none.
    Notification {
        /// What happened.
        method: String,
        /// The details.
        params: Params,
    },
    /// Answers a request of ours.
    Response {
        /// The id of our request.
        id: Id,
        /// The result, or the error object.
        outcome: Result<Value, Value>,
    },
}

/// A request of the client.
#[derive(Debug)]
pub(crate) struct Request {
    /// Comes back in the answer.
    pub(crate) id: Id,
    /// What to do.
    pub(crate) method: String,
    /// With what.
    pub(crate) params: Params,
}

/// An error answer.
#[derive(Debug, Clone)]
pub(crate) struct RpcError {
    /// The JSON-RPC code.
    pub(crate) code: i64,
    /// One sentence for a person.
    pub(crate) message: String,
    /// What a program may want to know.
    pub(crate) data: Option<Value>,
    /// The HTTP status that carries this error in the modern era.
    pub(crate) status: u16,
}

/// A text that is no message; `id` is there when it could still be read.
#[derive(Debug)]
pub(crate) struct Malformed {
    /// Whom to answer.
    pub(crate) id: Option<Id>,
    /// With what.
    pub(crate) error: RpcError,
}

/// The final answer to a request, written out.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    /// The JSON text, on one line.
    pub(crate) text: Bytes,
    /// The HTTP status that carries it.
    pub(crate) status: u16,
}

#[derive(Deserialize)]
struct Wire<'a> {
    jsonrpc: Option<String>,
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a RawValue>,
    method: Option<String>,
    #[serde(default)]
    params: Option<Value>,
    #[serde(default, deserialize_with = "present_value")]
    result: Option<Value>,
    #[serde(default, deserialize_with = "present_value")]
    error: Option<Value>,
}

/// Reads one message.
pub(crate) fn read(text: &[u8]) -> Result<Message, Malformed> {
    let wire: Wire<'_> = serde_json::from_slice(text).map_err(|error| Malformed {
        id: None,
        error: if error.is_data() {
            RpcError::invalid_request("the message is not a JSON-RPC object")
        } else {
            RpcError::parse("the message is not JSON")
        },
    })?;
    let id = match wire.id {
        None => None,
        Some(raw) => Some(Id::read(raw).ok_or_else(|| Malformed {
            id: None,
            error: RpcError::invalid_request("an id is a string or a number"),
        })?),
    };
    let refuse = |id, message| {
        let error = RpcError::invalid_request(message);
        Err(Malformed { id, error })
    };
    if wire.jsonrpc.as_deref() != Some("2.0") {
        return refuse(id, "jsonrpc is not \"2.0\"");
    }
    let Some(method) = wire.method else {
        return match (id, wire.result, wire.error) {
            (Some(id), Some(result), None) => Ok(Message::Response {
                id,
                outcome: Ok(result),
            }),
            (Some(id), None, Some(error)) => Ok(Message::Response {
                id,
                outcome: Err(error),
            }),
            (id, ..) => refuse(id, "the message is neither a request nor a response"),
        };
    };
    let params = match wire.params {
        None => Params::new(),
        Some(Value::Object(params)) => params,
        Some(_) => return refuse(id, "params is not an object"),
    };
    Ok(match id {
        Some(id) => Message::Request(Request { id, method, params }),
        None => Message::Notification { method, params },
    })
}

/// The elements of a batch; `None` when the text is not a JSON array.
pub(crate) fn batch(text: &[u8]) -> Option<Vec<&RawValue>> {
    if text.trim_ascii_start().first() != Some(&b'[') {
        return None;
    }
    serde_json::from_slice(text).ok()
}

/// A notification, written out.
pub(crate) fn notification(method: &str, params: &Value) -> Bytes {
    write(
        &json!({"jsonrpc": "2.0", "method": method, "params": params}),
        128,
    )
}

/// A request of ours, written out.
pub(crate) fn request(id: u64, method: &str, params: &Value) -> Bytes {
    write(
        &json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}),
        256,
    )
}

/// The text content of `key`, if it is there and a string.
pub(crate) fn text<'a>(params: &'a Params, key: &str) -> Option<&'a str> {
    params.get(key).and_then(Value::as_str)
}

fn write(value: &Value, guess: usize) -> Bytes {
    let mut out = Vec::with_capacity(guess);
    append(&mut out, value);
    out.into()
}

fn append(out: &mut Vec<u8>, value: &Value) {
    serde_json::to_writer(out, value).expect("a JSON value is always writable to memory");
}

fn present<'de, D>(from: D) -> Result<Option<&'de RawValue>, D::Error>
where
    D: serde::Deserializer<'de>,
{
    <&RawValue>::deserialize(from).map(Some)
}

fn present_value<'de, D>(from: D) -> Result<Option<Value>, D::Error>
where
    D: serde::Deserializer<'de>,
{
    Value::deserialize(from).map(Some)
}

// === impl Id ===

impl Id {
    fn read(raw: &RawValue) -> Option<Self> {
        let text = raw.get();
        let first = *text.as_bytes().first()?;
        (first == b'"' || first == b'-' || first.is_ascii_digit()).then(|| Self(text.into()))
    }

    /// Whether a value that names a request, as `requestId` does, means this one.
    pub(crate) fn is(&self, value: &Value) -> bool {
        self.value() == *value
    }

    /// The id as a JSON value.
    pub(crate) fn value(&self) -> Value {
        serde_json::from_str(&self.0).unwrap_or(Value::Null)
    }

    /// The id as one of our own numbers.
    pub(crate) fn number(&self) -> Option<u64> {
        self.0.parse().ok()
    }
}

// === impl RpcError ===

impl RpcError {
    /// An error with a code of its own; it travels in HTTP 200.
    pub(crate) fn new(code: i64, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            data: None,
            status: 200,
        }
    }

    /// Adds what a program may want to know.
    pub(crate) fn with_data(mut self, data: Value) -> Self {
        self.data = Some(data);
        self
    }

    /// Sets the HTTP status that the modern era assigns.
    pub(crate) fn with_status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// −32700
    pub(crate) fn parse(message: &str) -> Self {
        Self::new(-32700, message).with_status(400)
    }

    /// −32600
    pub(crate) fn invalid_request(message: &str) -> Self {
        Self::new(-32600, message).with_status(400)
    }

    /// −32601
    pub(crate) fn unknown_method(method: &str) -> Self {
        Self::new(-32601, format!("there is no method {method}")).with_status(404)
    }

    /// −32602
    pub(crate) fn invalid_params(message: impl Into<String>) -> Self {
        Self::new(-32602, message)
    }

    /// −32603
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(-32603, message)
    }

    /// −32020
    pub(crate) fn header_mismatch(message: impl Into<String>) -> Self {
        Self::new(-32020, message).with_status(400)
    }

    /// The error as the answer to `id`; to no one when there is none.
    pub(crate) fn reply(&self, id: Option<&Id>) -> Reply {
        let mut error = json!({"code": self.code, "message": self.message});
        if let Some(data) = &self.data {
            error["data"] = data.clone();
        }
        let mut out = Vec::with_capacity(128);
        out.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
        out.extend_from_slice(id.map_or("null", |id| &id.0).as_bytes());
        out.extend_from_slice(b",\"error\":");
        append(&mut out, &error);
        out.push(b'}');
        Reply {
            text: out.into(),
            status: self.status,
        }
    }
}

// === impl Reply ===

impl Reply {
    /// The answer with `result`.
    pub(crate) fn result(id: &Id, result: &Value) -> Self {
        let mut out = Vec::with_capacity(256);
        out.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
        out.extend_from_slice(id.0.as_bytes());
        out.extend_from_slice(b",\"result\":");
        append(&mut out, result);
        out.push(b'}');
        Self {
            text: out.into(),
            status: 200,
        }
    }
}
