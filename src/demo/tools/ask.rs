//! The tools that need something from the client: an answer of its user, a text of its model, its roots.
//!
//! In a session the server sends a request and waits. A modern call ends instead with what it needs to know; the client
//! calls again with the answers. All that the second call needs is in it, so any replica can serve it. Its
//! `requestState` guards nothing: a forged one only makes the call fail.

use serde_json::{Value, json};

use super::{Slow, failure, later, structured};
use crate::demo::call::Desk;
use crate::demo::engine::{Caller, Outcome};
use crate::demo::rpc::{Params, RpcError, text};

/// Under which key the answer comes back.
const KEY: &str = "answer";

/// A question to the client.
#[derive(Debug)]
pub(crate) struct Question {
    capability: &'static str,
    method: &'static str,
    params: Value,
}

/// Answers one of these tools, in the way of the caller's era.
pub(super) fn call(
    tool: &str,
    arguments: &Value,
    params: &Params,
    caller: &Caller,
) -> Result<Outcome, RpcError> {
    let question = Question::of(tool, arguments);
    let able = caller.can(question.capability);
    match caller {
        Caller::Legacy(_) if able => Ok(later(Slow::Ask(question))),
        Caller::Legacy(_) => Ok(Outcome::Result(failure(format!(
            "the client did not declare the capability {}",
            question.capability
        )))),
        Caller::Modern(_) if able => question.round(&state(tool, arguments), params),
        Caller::Modern(_) => {
            let required = json!({"requiredCapabilities": {question.capability: {}}});
            let message = format!(
                "the client did not declare the capability {}",
                question.capability
            );
            Err(RpcError::new(-32021, message)
                .with_data(required)
                .with_status(400))
        }
    }
}

/// Ties a state to the call that it came from.
fn state(tool: &str, arguments: &Value) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in arguments.to_string().bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("{tool}-{hash:016x}")
}

fn report(answer: Value) -> Value {
    structured(answer.to_string(), json!({KEY: answer}))
}

// === impl Question ===

impl Question {
    fn of(tool: &str, arguments: &Value) -> Self {
        let say = |key, otherwise: &str| {
            arguments
                .get(key)
                .and_then(Value::as_str)
                .unwrap_or(otherwise)
                .to_owned()
        };
        match tool {
            "sample" => Self {
                capability: "sampling",
                method: "sampling/createMessage",
                params: json!({
                    "messages": [{
                        "role": "user",
                        "content": {"type": "text", "text": say("prompt", "Say hello.")},
                    }],
                    "maxTokens": 100,
                }),
            },
            "roots" => Self {
                capability: "roots",
                method: "roots/list",
                params: json!({}),
            },
            _ => Self {
                capability: "elicitation",
                method: "elicitation/create",
                params: json!({
                    "message": say("question", "What is your name?"),
                    "requestedSchema": {
                        "type": "object",
                        "properties": {"name": {"type": "string"}},
                        "required": ["name"],
                    },
                }),
            },
        }
    }

    /// One round of a modern call: the answer if it came along, the question if not.
    fn round(mut self, state: &str, params: &Params) -> Result<Outcome, RpcError> {
        let given = text(params, "requestState");
        let answers = params.get("inputResponses");
        if params.contains_key("requestState") || answers.is_some() {
            if given != Some(state) {
                return Err(RpcError::invalid_params("requestState is not of this call"));
            }
            if let Some(answer) = answers.and_then(|answers| answers.get(KEY)) {
                return Ok(Outcome::Result(report(answer.clone())));
            }
        }
        if self.method == "elicitation/create" {
            self.params["mode"] = json!("form");
        }
        Ok(Outcome::Result(json!({
            "resultType": "input_required",
            "inputRequests": {KEY: {"method": self.method, "params": self.params}},
            "requestState": state,
        })))
    }

    /// Asks in a session, and waits for as long as it takes.
    pub(super) async fn ask(self, desk: &Desk) -> Value {
        let Caller::Legacy(session) = &desk.caller else {
            return failure("a modern client cannot be asked in the middle of a call");
        };
        match session.ask(self.method, &self.params, &desk.outlet).await {
            Ok(answer) => report(answer),
            Err(unanswered) => failure(unanswered.describe()),
        }
    }
}
