//! Rules over whole exchanges. What no rule touches passes byte for byte; what one changes is a message still, and answers the same call.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use ziggurat_fuzz::{Change, Dialogue, Json};
use ziggurat_layers::intercept::{
    Direction, InterceptLayer, InterceptSettings,
    rules::{self, Action, OnError, Respond, Rule, RuleSet, Template, When},
};

#[derive(Debug, Arbitrary)]
struct Input<'a> {
    rules: Vec<Written<'a>>,
    dry_run: bool,
    request: Request<'a>,
    answer: Answer<'a>,
    mcp: bool,
    cap: u16,
}

#[derive(Debug, Arbitrary)]
struct Written<'a> {
    direction: Way,
    tool: Option<&'a str>,
    method: Option<&'a str>,
    action: Does<'a>,
    skip: bool,
}

#[derive(Debug, Arbitrary, Clone, Copy)]
enum Way {
    Request,
    Response,
    Server,
}

#[derive(Debug, Arbitrary)]
enum Does<'a> {
    Continue,
    Modify(Vec<Change>),
    Block,
    Mock(Json),
    MockText(&'a str),
}

#[derive(Debug, Arbitrary)]
enum Request<'a> {
    Call(&'a str, Json),
    Batch(Vec<Json>),
    Raw(&'a [u8]),
}

#[derive(Debug, Arbitrary)]
enum Answer<'a> {
    Result(Json),
    Stream(Vec<Event<'a>>),
    Raw(&'a [u8], bool),
}

#[derive(Debug, Arbitrary)]
enum Event<'a> {
    Notice(Json),
    Question(Json),
    Result(Json),
    Batch(Vec<Json>),
    Raw(&'a [u8]),
}

impl Written<'_> {
    fn rule(&self) -> Option<Rule> {
        let direction = match self.direction {
            Way::Request => Direction::Request,
            Way::Response => Direction::Response,
            Way::Server => Direction::Server,
        };
        let action = match &self.action {
            Does::Continue => Action::Continue,
            Does::Block => Action::Block("no".to_owned()),
            Does::Modify(changes) => Action::Modify(rules::Change {
                edits: changes.iter().map(Change::edit).collect::<Option<_>>()?,
                ..rules::Change::default()
            }),
            Does::Mock(value) => {
                Action::Mock(Respond::Result(Template::new(value.0.clone()).ok()?))
            }
            Does::MockText(text) => {
                Action::Mock(Respond::Result(Template::new((*text).into()).ok()?))
            }
        };
        let list = |pattern: Option<&str>| pattern.into_iter().map(Into::into).collect();
        Some(Rule {
            name: "rule".into(),
            when: When {
                tools: list(self.tool),
                methods: list(self.method),
                ..When::new(direction)
            },
            action,
            on_error: if self.skip {
                OnError::Skip
            } else {
                OnError::Block
            },
        })
    }

    fn only_looks(&self) -> bool {
        matches!(self.action, Does::Continue)
    }
}

fn call(id: usize, tool: &str, arguments: &Json) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": { "name": tool, "arguments": arguments.0 } })
}

impl Request<'_> {
    fn body(&self) -> Vec<u8> {
        match self {
            Self::Call(tool, arguments) => call(1, tool, arguments).to_string().into_bytes(),
            Self::Batch(all) => {
                let all = all.iter().enumerate();
                let all: Value = all
                    .map(|(id, arguments)| call(id, "a", arguments))
                    .collect();
                all.to_string().into_bytes()
            }
            Self::Raw(bytes) => bytes.to_vec(),
        }
    }
}

impl Event<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        let result =
            |(id, value): (usize, &Json)| json!({ "jsonrpc": "2.0", "id": id, "result": value.0 });
        let message = match self {
            Self::Notice(params) => {
                json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": params.0 })
            }
            Self::Question(params) => {
                json!({ "jsonrpc": "2.0", "id": 9, "method": "sampling/createMessage", "params": params.0 })
            }
            Self::Result(value) => result((1, value)),
            Self::Batch(all) => all.iter().enumerate().map(result).collect(),
            Self::Raw(bytes) => return out.extend_from_slice(bytes),
        };
        out.extend_from_slice(format!("id: x\ndata: {message}\n\n").as_bytes());
    }
}

impl Answer<'_> {
    fn body(&self) -> (Vec<u8>, bool) {
        match self {
            Self::Result(value) => (
                json!({ "jsonrpc": "2.0", "id": 1, "result": value.0 })
                    .to_string()
                    .into_bytes(),
                false,
            ),
            Self::Stream(events) => {
                let mut out = Vec::new();
                events.iter().for_each(|event| event.write(&mut out));
                (out, true)
            }
            Self::Raw(bytes, events) => (bytes.to_vec(), *events),
        }
    }
}

/// What a message goes by.
fn identity(text: &[u8]) -> Option<(Value, Value)> {
    let value: Value = serde_json::from_slice(text).ok()?;
    Some((value["id"].clone(), value["method"].clone()))
}

fuzz_target!(|input: Input<'_>| {
    let Some(rules) = input.rules.iter().map(Written::rule).collect() else {
        return;
    };
    let rules = RuleSet {
        rules,
        dry_run: input.dry_run,
    };
    let settings = InterceptSettings {
        cap: usize::from(input.cap),
        ..InterceptSettings::default()
    };
    let layer = InterceptLayer::new(settings, rules.interceptors("fuzz"));
    let (told, events) = input.answer.body();
    let dialogue = Dialogue {
        asked: input.request.body(),
        mcp: input.mcp,
        told,
        events,
    };
    let Some(outcome) = dialogue.through(&layer) else {
        return;
    };
    if input.dry_run || input.rules.iter().all(Written::only_looks) {
        if let Some(asked) = &outcome.asked {
            assert_eq!(*asked, dialogue.asked, "who only looks changes no request");
        }
        if let Ok(told) = &outcome.told {
            let refused = String::from_utf8_lossy(told).contains("could not be inspected");
            assert!(
                refused || *told == dialogue.told,
                "who only looks changes no answer"
            );
        }
    }
    if input.rules.is_empty() {
        assert_eq!(
            outcome.told.as_ref().ok(),
            Some(&dialogue.told),
            "nobody looked"
        );
    }
    if let (Some(asked), Request::Call(..), true) = (&outcome.asked, &input.request, input.mcp) {
        assert_eq!(
            identity(asked),
            identity(&dialogue.asked),
            "it is the same message"
        );
    }
});
