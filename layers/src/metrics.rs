//! Metric handles: made when a layer is built, only moved while it works.
//!
//! Everything goes through the `metrics` facade, so it costs next to nothing where no recorder is installed; install it
//! before the layers are built. A label's values come from configured names, from names that the specification defines, or from
//! tools that answered (see [`Tools`]); everything else is `other`.

pub mod names;

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock, PoisonError, RwLock},
    time::Duration,
};

use ::metrics::{Counter, Gauge, Histogram, Label};
use foldhash::fast::RandomState;

use crate::mcp::{Era, MessageFacts, peek::Answer};

/// A counter with fixed labels.
pub fn counter(name: &'static str, labels: &[(&'static str, &str)]) -> Counter {
    ::metrics::counter!(name, owned(labels))
}

/// A gauge with fixed labels.
pub fn gauge(name: &'static str, labels: &[(&'static str, &str)]) -> Gauge {
    ::metrics::gauge!(name, owned(labels))
}

/// A histogram with fixed labels.
pub fn histogram(name: &'static str, labels: &[(&'static str, &str)]) -> Histogram {
    ::metrics::histogram!(name, owned(labels))
}

fn owned(labels: &[(&'static str, &str)]) -> Vec<Label> {
    labels
        .iter()
        .map(|(key, value)| Label::new(*key, (*value).to_owned()))
        .collect()
}

/// A gauge that is one higher as long as this lives.
#[derive(Debug)]
pub struct UpWhile(Gauge);

impl UpWhile {
    /// Raises the gauge.
    pub fn new(gauge: &Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge.clone())
    }
}

impl Drop for UpWhile {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

/// How an operation failed, as a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorType {
    /// It did not.
    None,
    /// A tool result with `isError`.
    Tool,
    /// A JSON-RPC error of this code.
    Code(i64),
    /// A fault of this kind, or another fixed word.
    Kind(&'static str),
    /// An HTTP status of 400 or more without a JSON-RPC answer.
    Status(u16),
}

impl ErrorType {
    /// What an answer means.
    pub fn of(answer: Answer) -> Self {
        match answer {
            Answer::Result => Self::None,
            Answer::ToolError => Self::Tool,
            // The codes that JSON-RPC and MCP define, and those that carry a status; the rest is unbounded.
            Answer::Error(code @ (-32799..=-32000 | 400..=599)) => Self::Code(code),
            Answer::Error(_) => Self::Kind("other"),
        }
    }

    /// The label's text: empty for no error.
    pub fn label(self) -> String {
        match self {
            Self::None => String::new(),
            Self::Tool => "tool_error".to_owned(),
            Self::Code(code) => code.to_string(),
            Self::Kind(kind) => kind.to_owned(),
            Self::Status(status) => status.to_string(),
        }
    }
}

/// The tools that may be labels: those whose call has had a result that was no error. A client cannot
/// make up names, since a server answers a call of a tool that it lacks with an error.
#[derive(Debug, Clone, Default)]
pub struct Tools {
    names: Arc<RwLock<HashMap<Box<str>, &'static str, RandomState>>>,
    overflow: Arc<OnceLock<Counter>>,
}

impl Tools {
    /// The most names; later ones are `other`, and counted in `ziggurat_label_overflow_total`.
    pub const MAX: usize = 256;

    /// The label of a tool; `learn` if its call had a result.
    pub(crate) fn label(&self, tool: &str, learn: bool) -> &'static str {
        let full = {
            let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(label) = names.get(tool) {
                return label;
            }
            names.len() >= Self::MAX
        };
        if !learn || tool.len() > 128 {
            return OTHER;
        }
        if full {
            return self.overflowed();
        }
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        if names.len() >= Self::MAX && !names.contains_key(tool) {
            return self.overflowed();
        }
        // Bounded: at most `MAX` names for each set, which lives as long as the process.
        names
            .entry(tool.into())
            .or_insert_with(|| Box::leak(tool.to_owned().into_boxed_str()))
    }

    fn overflowed(&self) -> &'static str {
        let overflow = || counter(names::LABEL_OVERFLOW, &[]);
        self.overflow.get_or_init(overflow).increment(1);
        OTHER
    }
}

pub(crate) const OTHER: &str = "other";

/// The durations of JSON-RPC operations: one histogram, its handles found by what an operation was.
#[derive(Debug, Clone)]
pub struct Operations {
    inner: Arc<OperationsInner>,
}

type Cells<K> = HashMap<K, Histogram, RandomState>;

#[derive(Debug)]
struct OperationsInner {
    name: &'static str,
    fixed: Vec<(&'static str, String)>,
    with_era: bool,
    tools: Tools,
    cells: RwLock<Cells<Cell>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Cell {
    method: &'static str,
    tool: &'static str,
    error: ErrorType,
    era: Era,
}

impl Operations {
    /// Operations of the server side (`with_era`) or the client side, with labels that are the same for all.
    pub fn new(
        name: &'static str,
        fixed: &[(&'static str, &str)],
        with_era: bool,
        tools: Tools,
    ) -> Self {
        let fixed = fixed.iter().map(|(k, v)| (*k, (*v).to_owned())).collect();
        Self {
            inner: Arc::new(OperationsInner {
                name,
                fixed,
                with_era,
                tools,
                cells: RwLock::default(),
            }),
        }
    }

    /// An operation is over.
    pub fn record(&self, message: &MessageFacts, era: Era, error: ErrorType, took: Duration) {
        let method = message
            .method
            .as_ref()
            .and_then(|m| m.known())
            .unwrap_or(OTHER);
        let tool = message.tool().map_or("", |tool| {
            self.inner.tools.label(tool, error == ErrorType::None)
        });
        let cell = Cell {
            method,
            tool,
            error,
            era,
        };
        let cells = self
            .inner
            .cells
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = cells.get(&cell) {
            return known.record(took.as_secs_f64());
        }
        drop(cells);
        self.make(cell).record(took.as_secs_f64());
    }

    fn make(&self, cell: Cell) -> Histogram {
        let error = cell.error.label();
        let mut labels: Vec<(&'static str, &str)> = self
            .inner
            .fixed
            .iter()
            .map(|(k, v)| (*k, v.as_str()))
            .collect();
        labels.extend([
            ("mcp_method", cell.method),
            ("tool", cell.tool),
            ("error_type", &error),
        ]);
        if self.inner.with_era {
            labels.push(("era", cell.era.as_str()));
        }
        let handle = histogram(self.inner.name, &labels);
        let mut cells = self
            .inner
            .cells
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        cells.entry(cell).or_insert(handle).clone()
    }
}

/// The durations of plain HTTP requests, by method and status.
#[derive(Debug, Clone)]
pub struct Requests {
    name: &'static str,
    fixed: (&'static str, Arc<str>),
    cells: Arc<RwLock<Cells<(&'static str, u16)>>>,
}

impl Requests {
    /// Requests with one label that is the same for all (`route` or `upstream`).
    pub fn new(name: &'static str, label: &'static str, value: &str) -> Self {
        Self {
            name,
            fixed: (label, value.into()),
            cells: Arc::default(),
        }
    }

    /// A request is over. Status 0 stands for none: it failed without a response.
    pub fn record(&self, method: &http::Method, status: u16, took: Duration) {
        let key = (method_label(method), status);
        let known = self
            .cells
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&key)
            .cloned();
        let handle = known.unwrap_or_else(|| {
            let text = status.to_string();
            let labels = [
                (self.fixed.0, &*self.fixed.1),
                ("http_request_method", key.0),
                (
                    "http_response_status_code",
                    if status == 0 { "" } else { &text },
                ),
            ];
            let handle = histogram(self.name, &labels);
            let mut cells = self.cells.write().unwrap_or_else(PoisonError::into_inner);
            cells.entry(key).or_insert(handle).clone()
        });
        handle.record(took.as_secs_f64());
    }
}

/// The method's name, if HTTP defines it.
fn method_label(method: &http::Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        "CONNECT" => "CONNECT",
        "TRACE" => "TRACE",
        _ => "_OTHER",
    }
}
