//! Expressions, over messages: whatever they say, they are refused when they are read, or judged in bounded time.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use serde_json::json;
use ziggurat_fuzz::{Dialogue, Json};
use ziggurat_layers::intercept::{
    Direction, InterceptLayer, InterceptSettings,
    rules::{Action, Expression, OnError, Rule, RuleSet, When},
};

#[derive(Debug, Arbitrary)]
struct Input<'a> {
    expression: &'a str,
    arguments: Json,
}

fuzz_target!(
    init: ziggurat_fuzz::quiet_readers(),
    |input: Input<'_>| {
        let Ok(expression) = Expression::new(input.expression) else { return };
        assert_eq!(expression.as_str(), input.expression);
        let rule = |on_error| Rule {
            name: "rule".into(),
            when: When { expression: Some(expression.clone()), ..When::new(Direction::Request) },
            action: Action::Block("no".to_owned()),
            on_error,
        };
        let asked = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": { "name": "a", "arguments": input.arguments.0 } });
        let dialogue = Dialogue { asked: asked.to_string().into_bytes(), mcp: true, told: b"{}".to_vec(), events: false };
        let passed = |on_error| {
            let rules = RuleSet { rules: vec![rule(on_error)], dry_run: false };
            let layer = InterceptLayer::new(InterceptSettings::default(), rules.interceptors("fuzz"));
            let outcome = dialogue.through(&layer)?;
            let asked = outcome.asked;
            assert!(asked.as_ref().is_none_or(|asked| *asked == dialogue.asked), "it looks, and changes nothing");
            Some(asked.is_some())
        };
        let (strict, lax) = (passed(OnError::Block), passed(OnError::Skip));
        assert!(strict <= lax, "what fails is stopped where that is asked for");
        assert_eq!(strict, passed(OnError::Block), "it says the same each time");
    }
);
