//! What the targets share: an exchange that goes through a layer, and words that are worth combining.

use std::sync::{Arc, Mutex};

use arbitrary::{Arbitrary, Result, Unstructured};
use futures_util::FutureExt;
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use http_body_util::BodyExt;
use serde_json::{Map, Value, json};
use tower::{Layer, ServiceExt, service_fn};
use ziggurat_layers::{
    Body, BoxError,
    exchange::Exchange,
    intercept::{Edit, InterceptLayer, PatchOp, Pointer},
    mcp::CallFacts,
};

/// A panic in a thread that reads expressions is an answer of its own; any other is a find.
pub fn quiet_readers() {
    let find = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if std::thread::current().name() == Some("main") {
            find(info);
        }
    }));
}

// === values ===

/// A JSON value that is small, and whose keys and texts come up again.
#[derive(Clone, Debug)]
pub struct Json(pub Value);

/// Keys, and texts that are looked for: some need an escape in JSON, some in a pointer.
const WORDS: &[&str] = &[
    "",
    "a",
    "b",
    "0",
    "1",
    "-",
    "a/b",
    "~",
    "m~n",
    "é",
    "\u{0}",
    "\"",
    "\\",
    "\u{1F600}",
    "params",
    "arguments",
    "name",
];

fn word(u: &mut Unstructured<'_>) -> Result<String> {
    Ok((*u.choose(WORDS)?).to_owned())
}

impl Json {
    fn make(u: &mut Unstructured<'_>, depth: usize) -> Result<Value> {
        let most = if depth < 4 { 6 } else { 4 };
        Ok(match u.int_in_range(0..=most)? {
            0 => Value::Null,
            1 => Value::Bool(u.arbitrary()?),
            2 => u.arbitrary::<i64>()?.into(),
            // Others may be read otherwise than they were written.
            3 => (f64::from(u.arbitrary::<i16>()?) / 4.0).into(),
            4 => word(u)?.into(),
            5 => {
                let elements = 0..u.int_in_range(0..=3)?;
                elements
                    .map(|_| Self::make(u, depth + 1))
                    .collect::<Result<Value>>()?
            }
            _ => {
                let mut object = Map::new();
                for _ in 0..u.int_in_range(0..=3)? {
                    object.insert(word(u)?, Self::make(u, depth + 1)?);
                }
                object.into()
            }
        })
    }
}

impl<'a> Arbitrary<'a> for Json {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        Self::make(u, 0).map(Self)
    }
}

// === changes ===

/// A JSON pointer as a text, which may be none.
#[derive(Clone, Debug)]
pub struct Place(pub String);

impl<'a> Arbitrary<'a> for Place {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let mut text = String::new();
        for _ in 0..u.int_in_range(0..=4)? {
            text.push('/');
            text.push_str(&word(u)?.replace('~', "~0").replace('/', "~1"));
        }
        if u.ratio(1, 16)? {
            text.push_str(u.arbitrary()?);
        }
        Ok(Self(text))
    }
}

/// A change of a message.
#[derive(Clone, Debug, Arbitrary)]
pub enum Change {
    Set(Place, Json),
    Remove(Place),
    Patch(Vec<Op>),
}

/// An operation of JSON Patch.
#[derive(Clone, Debug, Arbitrary)]
pub enum Op {
    Add(Place, Json),
    Remove(Place),
    Replace(Place, Json),
    Move(Place, Place),
    Copy(Place, Place),
    Test(Place, Json),
}

impl Place {
    fn pointer(&self) -> Option<Pointer> {
        self.0.parse().ok()
    }
}

impl Json {
    fn text(&self) -> Box<str> {
        self.0.to_string().into()
    }
}

impl Change {
    /// As the layer takes it; none where a pointer cannot be read.
    pub fn edit(&self) -> Option<Edit> {
        Some(match self {
            Self::Set(place, value) => Edit::Set(place.pointer()?, value.text()),
            Self::Remove(place) => Edit::Remove(place.pointer()?),
            Self::Patch(ops) => Edit::Patch(ops.iter().map(Op::edit).collect::<Option<_>>()?),
        })
    }
}

impl Op {
    /// As RFC 6902 writes it.
    pub fn json(&self) -> Value {
        match self {
            Self::Add(at, value) => json!({ "op": "add", "path": at.0, "value": value.0 }),
            Self::Remove(at) => json!({ "op": "remove", "path": at.0 }),
            Self::Replace(at, value) => json!({ "op": "replace", "path": at.0, "value": value.0 }),
            Self::Move(from, to) => json!({ "op": "move", "from": from.0, "path": to.0 }),
            Self::Copy(from, to) => json!({ "op": "copy", "from": from.0, "path": to.0 }),
            Self::Test(at, value) => json!({ "op": "test", "path": at.0, "value": value.0 }),
        }
    }

    fn edit(&self) -> Option<PatchOp> {
        Some(match self {
            Self::Add(place, value) => PatchOp::Add(place.pointer()?, value.text()),
            Self::Remove(place) => PatchOp::Remove(place.pointer()?),
            Self::Replace(place, value) => PatchOp::Replace(place.pointer()?, value.text()),
            Self::Move(from, to) => PatchOp::Move(from.pointer()?, to.pointer()?),
            Self::Copy(from, to) => PatchOp::Copy(from.pointer()?, to.pointer()?),
            Self::Test(place, value) => PatchOp::Test(place.pointer()?, value.text()),
        })
    }
}

// === exchanges ===

/// A request, and what its upstream will answer.
#[derive(Clone, Debug)]
pub struct Dialogue {
    /// The body of the request.
    pub asked: Vec<u8>,
    /// It is a message of MCP.
    pub mcp: bool,
    /// The body of the response.
    pub told: Vec<u8>,
    /// That is an event stream.
    pub events: bool,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// The body that the upstream got, if it was asked.
    pub asked: Option<Vec<u8>>,
    /// The response's body, or the error in place of a response, or of its rest.
    pub told: std::result::Result<Vec<u8>, BoxError>,
}

impl Dialogue {
    /// Goes through the layer; none where the request would never have come to it.
    pub fn through(&self, layer: &InterceptLayer) -> Option<Outcome> {
        let request = self.request()?;
        let seen = Arc::new(Mutex::new(None));
        let upstream = {
            let (seen, response) = (seen.clone(), self.response());
            service_fn(move |request: Request<Body>| {
                let (seen, response) = (seen.clone(), response.clone());
                async move {
                    let body = request.into_body().collect().await?.to_bytes();
                    *seen.lock().expect("one thread") = Some(body.to_vec());
                    Ok::<_, BoxError>(response.map(Body::full))
                }
            })
        };
        let exchange = async {
            let response = layer.layer(upstream).oneshot(request).await?;
            let body = response.into_body().collect().await?;
            Ok::<_, BoxError>(body.to_bytes().to_vec())
        };
        // Nothing here waits for anything.
        let told = exchange.now_or_never().expect("it hangs");
        let asked = seen.lock().expect("one thread").take();
        Some(Outcome { asked, told })
    }

    fn request(&self) -> Option<Request<Body>> {
        let mut request = Request::new(Body::full(self.asked.clone()));
        *request.method_mut() = Method::POST;
        let headers = request.headers_mut();
        let json = HeaderValue::from_static("application/json");
        headers.insert(header::CONTENT_TYPE, json);
        if self.mcp {
            let facts =
                CallFacts::read(&Method::POST, &HeaderMap::new(), &self.asked.clone().into())
                    .ok()?;
            Exchange::of(&mut request).set_call(facts);
        }
        Some(request)
    }

    fn response(&self) -> Response<Vec<u8>> {
        let mut response = Response::new(self.told.clone());
        let kind = if self.events {
            "text/event-stream"
        } else {
            "application/json"
        };
        let kind = HeaderValue::from_static(kind);
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    }
}
