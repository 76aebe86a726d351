//! Settings by tool: one value for all calls, and others for the tools that are named.
//!
//! A server's tools differ more than servers do: one answers in a millisecond, another works for half an hour. So the layers that bound calls
//! ([`deadline`](crate::deadline), [`timeout`](crate::timeout), [`limit`](crate::limit), and the [`circuit`](crate::circuit) breakers of tools) take their settings as
//! [`ByTool`]: rules in order, of which the first whose pattern fits the tool counts, and a value for all else. A plain value turns into one without
//! rules, which costs one branch.
//!
//! All else is: other methods, plain HTTP, tools that no pattern fits, and a batch that is not of one tool ([`CallFacts::tool`]), which has one exchange and so one clock: it must
//! suit all that is in it. So who puts calls of two tools, or a call and a `ping`, into one batch goes by what is for all calls, also where that is more than one of the tools has.
//! (What can be counted is: under [`limit`](crate::limit) each call of a batch takes a place of its own.) The tool is the one that goes on to
//! the upstream, as an interceptor may have changed it.
//!
//! ```
//! use std::time::Duration;
//! use ziggurat_layers::by_tool::ByTool;
//!
//! let limits = ByTool::new(Duration::from_secs(60), [
//!     ("report_daily".into(), Duration::from_secs(120)),
//!     ("report_*".into(), Duration::from_secs(1800)),
//! ]);
//! assert_eq!(limits.of(Some("report_daily")).as_secs(), 120);
//! assert_eq!(limits.of(Some("report_yearly")).as_secs(), 1800);
//! assert_eq!(limits.of(Some("search")).as_secs(), 60);
//! assert_eq!(limits.of(None).as_secs(), 60);
//! ```

use std::sync::Arc;

use crate::{exchange::Exchange, mcp::CallFacts, pattern::Pattern};

/// A value for all calls, and others for those of some tools. Clones share the others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ByTool<T> {
    otherwise: T,
    /// Never empty.
    rules: Option<Arc<[(Pattern, T)]>>,
}

// === impl ByTool ===

impl<T> ByTool<T> {
    /// These values for the tools that their patterns fit, the first that does; another for all else.
    pub fn new(otherwise: T, rules: impl IntoIterator<Item = (Pattern, T)>) -> Self {
        let rules: Arc<[_]> = rules.into_iter().collect();
        Self {
            otherwise,
            rules: (!rules.is_empty()).then_some(rules),
        }
    }

    /// The value for this tool, or for what is no call of a tool.
    pub fn of(&self, tool: Option<&str>) -> &T {
        let rule = tool.and_then(|tool| self.rule(tool));
        rule.map_or(&self.otherwise, |(_, value)| value)
    }

    /// The rule that counts for this tool.
    pub fn rule(&self, tool: &str) -> Option<&(Pattern, T)> {
        self.rules().find(|(pattern, _)| pattern.fits(tool))
    }

    /// The rules, in order.
    pub fn rules(&self) -> impl Iterator<Item = &(Pattern, T)> {
        self.rules.iter().flat_map(|rules| rules.iter())
    }

    /// The value for this exchange.
    pub fn of_exchange(&self, exchange: &Exchange) -> &T {
        match self.only() {
            Some(only) => only,
            None => self.of(exchange.call().and_then(CallFacts::tool)),
        }
    }

    /// The value for every call, if no tool has another.
    pub fn only(&self) -> Option<&T> {
        self.rules.is_none().then_some(&self.otherwise)
    }

    /// The same rules, with what is made of their values.
    pub fn map<U>(&self, mut change: impl FnMut(&T) -> U) -> ByTool<U> {
        let rules: Vec<_> = self
            .rules()
            .map(|(pattern, value)| (pattern.clone(), change(value)))
            .collect();
        ByTool::new(change(&self.otherwise), rules)
    }
}

impl<T> From<T> for ByTool<T> {
    /// The same for every call.
    fn from(otherwise: T) -> Self {
        Self {
            otherwise,
            rules: None,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, Method, Request};

    use super::*;
    use crate::Body;

    /// A call of this tool.
    fn call(tool: &str) -> String {
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{tool}"}}}}"#)
    }

    /// A request with the facts of this body.
    fn request(body: &str) -> Request<Body> {
        let mut request = Request::new(Body::empty());
        let bytes = Bytes::from(body.to_owned());
        let facts = CallFacts::read(&Method::POST, &HeaderMap::new(), &bytes);
        Exchange::of(&mut request).set_call(facts.expect("facts"));
        request
    }

    /// A request that calls this tool, or these in a batch.
    pub(crate) fn calls(tools: &[&str]) -> Request<Body> {
        match tools {
            [tool] => request(&call(tool)),
            tools => {
                let calls: Vec<_> = tools.iter().map(|tool| call(tool)).collect();
                request(&format!("[{}]", calls.join(",")))
            }
        }
    }

    fn rules() -> ByTool<u8> {
        let rules = [("slow_one", 1), ("slow_*", 2), ("slow_two", 3)];
        ByTool::new(0, rules.map(|(tool, value)| (tool.into(), value)))
    }

    #[test]
    fn the_first_pattern_that_fits_counts() {
        let rules = rules();
        for (tool, value) in [("slow_one", 1), ("slow_two", 2), ("slow_", 2), ("fast", 0)] {
            assert_eq!(rules.of(Some(tool)), &value, "{tool}");
        }
        assert_eq!((rules.of(None), rules.only()), (&0, None));
    }

    #[test]
    fn without_rules_there_is_one_value() {
        for plain in [ByTool::from(7), ByTool::new(7, [])] {
            assert_eq!((plain.only(), plain.of(Some("any"))), (Some(&7), &7));
        }
        assert_eq!(ByTool::from(7), ByTool::new(7, []));
    }

    #[test]
    fn what_is_made_of_the_values_has_the_same_rules() {
        let doubled = rules().map(|value| value * 2);
        assert_eq!(doubled.of(Some("slow_one")), &2);
        assert_eq!(doubled.of(Some("slow_two")), &4);
        assert_eq!(ByTool::from(1).map(|value| value + 1).only(), Some(&2));
    }

    #[test]
    fn a_call_goes_by_its_tool_and_a_batch_by_that_of_all_in_it() {
        let plain = Exchange::of(&mut Request::new(()));
        assert_eq!(rules().of_exchange(&plain), &0);
        let list = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
        let prompt = call("slow_one").replace("tools/call", "prompts/get");
        let one = format!("[{}]", call("slow_one"));
        let two = format!("[{},{}]", call("slow_one"), call("slow_one"));
        let others = format!("[{},{}]", call("slow_one"), call("slow_two"));
        let noted = format!(r#"[{},{{"method":"notifications/foo"}}]"#, call("slow_one"));
        for (body, value) in [
            (call("slow_one"), 1),
            (call("slow_three"), 2),
            (call("fast"), 0),
            (list.to_owned(), 0),
            (prompt, 0),
            (one, 1),
            (two, 1),
            (others, 0),
            (noted, 1),
        ] {
            let exchange = Exchange::of(&mut request(&body));
            assert_eq!(rules().of_exchange(&exchange), &value, "{body}");
        }
    }
}
