//! Which calls may be repeated although they may have been executed.

use http::Method;

use super::annotations::Annotations;
use crate::{
    exchange::Exchange,
    mcp::{Kind, MessageFacts, Verb},
    pattern::Pattern,
};

/// Whether a request for this MCP method may be repeated, whatever became of it: it only reads, or sets what it sets to the same again.
///
/// A `tools/call` depends on the tool; `initialize` would leave an orphaned session; what is unknown may do anything.
pub fn is_safe(method: &str) -> bool {
    matches!(
        method,
        "completion/complete"
            | "logging/setLevel"
            | "ping"
            | "prompts/get"
            | "prompts/list"
            | "resources/list"
            | "resources/read"
            | "resources/subscribe"
            | "resources/templates/list"
            | "resources/unsubscribe"
            | "server/discover"
            // It is opened again. Nothing was delivered yet: only calls without a response head are repeated.
            | "subscriptions/listen"
            | "tasks/get"
            | "tasks/list"
            | "tools/list"
    )
}

/// The tools whose calls may be repeated.
#[derive(Debug)]
pub(super) struct SafeTools {
    /// Names that the operator marks.
    pub(super) marked: Vec<Pattern>,
    /// What the server says, if it is trusted.
    pub(super) hints: Option<Annotations>,
}

impl SafeTools {
    fn holds(&self, tool: &str) -> bool {
        self.marked.iter().any(|pattern| pattern.fits(tool))
            || self.hints.as_ref().is_some_and(|hints| hints.is_safe(tool))
    }

    /// Whether the call may be repeated although it may have been executed. Without MCP facts, and for GET and DELETE of MCP, the
    /// HTTP method decides (RFC 9110, 9.2.2); a batch may if each of its messages may.
    pub(super) fn may_repeat(&self, exchange: &Exchange, method: &Method) -> bool {
        match exchange.call() {
            Some(call) if call.verb == Verb::Post => {
                let messages = call.messages();
                !messages.is_empty() && messages.iter().all(|message| self.may(message))
            }
            Some(_) | None => method.is_idempotent(),
        }
    }

    fn may(&self, message: &MessageFacts) -> bool {
        message.kind == Kind::Request
            && !message.continues
            && match (message.method.as_ref(), message.tool()) {
                (_, Some(tool)) => self.holds(tool),
                (Some(method), None) => is_safe(method.as_str()),
                (None, None) => false,
            }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, Request};

    use super::*;
    use crate::mcp::{CallFacts, METHODS};

    #[test]
    fn every_method_is_as_the_specification_has_it() {
        let safe: Vec<_> = METHODS.iter().copied().filter(|m| is_safe(m)).collect();
        assert_eq!(
            safe,
            [
                "completion/complete",
                "logging/setLevel",
                "ping",
                "prompts/get",
                "prompts/list",
                "resources/list",
                "resources/read",
                "resources/subscribe",
                "resources/templates/list",
                "resources/unsubscribe",
                "server/discover",
                "subscriptions/listen",
                "tasks/get",
                "tasks/list",
                "tools/list",
            ]
        );
        for unsafe_one in [
            "initialize",
            "tools/call",
            "tasks/update",
            "tasks/cancel",
            "tasks/result",
            "notifications/initialized",
            "notifications/cancelled",
            "acme/list",
            "",
        ] {
            assert!(!is_safe(unsafe_one), "{unsafe_one}");
        }
    }

    fn may(tools: &SafeTools, method: Method, body: &str) -> bool {
        let exchange = Exchange::of(&mut Request::new(()));
        let body = Bytes::from(body.to_owned());
        exchange.set_call(CallFacts::read(&method, &HeaderMap::new(), &body).expect("facts"));
        tools.may_repeat(&exchange, &method)
    }

    #[test]
    fn a_call_may_be_repeated_if_all_of_it_may() {
        let hints = Annotations::default();
        hints.learn(
            br#"{"result":{"tools":[{"name":"look","annotations":{"readOnlyHint":true}}]}}"#,
        );
        let tools = SafeTools {
            marked: vec!["get_*".into()],
            hints: Some(hints),
        };
        let list = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
        let call = |tool: &str| {
            format!(
                r#"{{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{{"name":"{tool}"}}}}"#
            )
        };
        let note = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
        let answer = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;
        for (body, expected) in [
            (list.to_owned(), true),
            (call("get_weather"), true),
            (call("look"), true),
            (call("set_weather"), false),
            (note.to_owned(), false),
            (answer.to_owned(), false),
            (format!("[{list},{}]", call("look")), true),
            (format!("[{list},{}]", call("set_weather")), false),
            (format!("[{list},{note}]"), false),
            (
                list.replace("}", r#","params":{"requestState":"x"}}"#),
                false,
            ),
            (
                list.replace("}", r#","params":{"inputResponses":{}}}"#),
                false,
            ),
        ] {
            assert_eq!(may(&tools, Method::POST, &body), expected, "{body}");
        }
        assert!(may(&tools, Method::GET, ""));
        assert!(may(&tools, Method::DELETE, ""));
    }

    #[test]
    fn without_facts_the_http_method_decides() {
        let exchange = Exchange::of(&mut Request::new(()));
        let tools = SafeTools {
            marked: Vec::new(),
            hints: None,
        };
        for (method, expected) in [
            (Method::GET, true),
            (Method::HEAD, true),
            (Method::OPTIONS, true),
            (Method::TRACE, true),
            (Method::PUT, true),
            (Method::DELETE, true),
            (Method::POST, false),
            (Method::PATCH, false),
            (Method::CONNECT, false),
        ] {
            assert_eq!(tools.may_repeat(&exchange, &method), expected, "{method}");
        }
    }
}
