use http::{HeaderMap, Method};
use serde_json::{Value, json};

use super::*;
use crate::{exchange::Exchange, mcp::envelope::read_message};

fn ask(text: &str, body: &Value) -> Result<bool, String> {
    with(body, |about| expression(text).is_true(about))
}

fn expression(text: &str) -> Expression {
    Expression::new(text).expect("an expression")
}

fn with<T>(body: &Value, ask: impl FnOnce(&About<'_>) -> T) -> T {
    let exchange = Exchange::new("r");
    exchange.set_principal("alice".into());
    let mut headers = HeaderMap::new();
    headers.insert("x-team", "red".parse().expect("a value"));
    let facts = read_message(&body.to_string(), 0).expect("a message");
    let method = facts.method.as_ref().map(|method| method.as_str());
    ask(&About {
        exchange: Some(&exchange),
        http_method: &Method::POST,
        path: "/mcp",
        headers: &headers,
        direction: method.map_or("response", |_| "request"),
        method,
        name: facts.name.as_deref(),
        body,
    })
}

fn call(arguments: Value) -> Value {
    json!({"id": 1, "method": "tools/call", "params": {"name": "read", "arguments": arguments}})
}

#[test]
fn an_expression_looks_at_facts_and_arguments() {
    let body = call(
        json!({"path": "/etc/passwd", "n": 5, "f": 1.5, "l": ["a", "b"], "deep": {"x": null}}),
    );
    for (text, expected) in [
        ("args.path.startsWith('/etc')", true),
        ("args.n > 4 && args.n + 1 == 6 && args.f < 2.0", true),
        ("has(args.none) || size(args.l) == 2", true),
        (
            "args.l.exists(x, x == 'b') && !args.l.all(x, x in ['a'])",
            true,
        ),
        (
            "'b' in args.l && args.l[0] == 'a' && args.deep.x == null",
            true,
        ),
        (
            "method == 'tools/call' && name == 'read' && direction == 'request' && era == ''",
            true,
        ),
        (
            "principal == 'alice' && headers['x-team'] == 'red' && path == '/mcp'",
            true,
        ),
        ("params.name == 'write' || http_method == 'GET'", false),
        ("result == null && error == null", true),
    ] {
        assert_eq!(ask(text, &body), Ok(expected), "{text}");
    }
    let answer = json!({"id": 1, "result": {"isError": true}});
    assert_eq!(
        ask("direction == 'response' && result.isError", &answer),
        Ok(true)
    );
}

#[test]
fn a_key_is_a_text_and_null_is_none() {
    let body = call(json!({"tenant": "red", "n": 5, "yes": true, "f": 1.5, "l": []}));
    let key = |text: &str| with(&body, |about| expression(text).key(about));
    for (text, expected) in [
        ("args.tenant", Some("red")),
        ("args.n", Some("5")),
        ("uint(args.n)", Some("5")),
        ("args.yes", Some("true")),
        ("args.f", Some("1.5")),
        ("args.n > 9 ? args.tenant : null", None),
        ("headers['x-team'] + '/' + args.tenant", Some("red/red")),
    ] {
        assert_eq!(key(text), Ok(expected.map(str::to_owned)), "{text}");
    }
    for text in ["args.none", "args.l", "args"] {
        assert!(key(text).is_err(), "{text}");
    }
}

#[test]
fn what_fails_at_run_time_is_told_without_its_values() {
    let body = call(json!({"secret": "hush", "l": []}));
    for text in [
        "args.none == 1",
        "args.secret > 5",
        "args.l[3] == 1",
        "args.secret",
        "int(args.secret) == 1",
    ] {
        let error = ask(text, &body).expect_err("it fails");
        assert!(!error.contains("hush"), "{error}");
    }
}

#[test]
fn what_is_not_there_or_costs_too_much_is_refused_at_once() {
    use BadExpression as B;
    for text in [
        "",
        "args.",
        "1 +",
        &"(".repeat(2000),
        &"a".repeat(2049),
        &"!".repeat(2000),
        &"[".repeat(41),
        &"a?".repeat(900),
    ] {
        assert!(
            matches!(
                Expression::new(text),
                Err(B::Unreadable { .. } | B::TooLong)
            ),
            "{text}"
        );
    }
    for (text, unknown) in [
        ("arg.x == 1", "arg"),
        ("args.x.matches('a')", "matches"),
        ("now() > 1", "now"),
        ("_f(args) == 1", "_f"),
        ("args._g_() == 1", "_g_"),
    ] {
        assert_eq!(
            Expression::new(text),
            Err(B::Unknown(unknown.to_owned())),
            "{text}"
        );
    }
    for text in [
        "args.a.all(x, args.b.all(y, x == y))",
        "args.a.map(x, x) == []",
        "args.a.all(x, x in args.a)",
        "args.a.exists(x, args.b + x == 'a')",
    ] {
        assert!(matches!(Expression::new(text), Err(B::Costly(_))), "{text}");
    }
    for deep in [&"a.".repeat(900), &"1+".repeat(900), &"!(".repeat(40)] {
        assert!(Expression::new(&format!("{deep}args{}", ")".repeat(40))).is_err());
    }
    let many = vec!["args.x == 1"; 150].join("||");
    assert_eq!(Expression::new(&many), Err(B::TooLong));
    let repeated = format!("args.l.all(x, {})", vec!["x == 1"; 20].join("||"));
    assert!(matches!(Expression::new(&repeated), Err(B::Costly(_))));
}

#[test]
fn each_name_has_a_value_and_it_is_known_who_asks_for_the_principal() {
    for name in Variable::ALL {
        let text = format!("type({}) != type(1)", name.as_str());
        assert_eq!(ask(&text, &call(json!({}))), Ok(true), "{text}");
    }
    for (text, asks) in [
        ("principal == 'a'", true),
        ("args.x == r'\\' && principal == 'a'", true),
        ("args.l.exists(x, x == principal)", true),
        ("args.principal == 'principal'", false),
        (r#"args.x == "it's \" principal""#, false),
        ("args.l.exists(principal, principal == 'a')", false),
    ] {
        let expression = Expression::new(text).expect("an expression");
        assert_eq!(expression.names_principal(), asks, "{text}");
    }
}

#[test]
fn a_large_message_is_not_looked_into() {
    let many = call(json!({"l": vec![0; Expression::VALUES]}));
    let long = call(json!({"t": "x".repeat(Expression::BYTES)}));
    let both = json!({"l": vec![0; Expression::VALUES / 2 - 50], "t": "x".repeat(10)});
    for body in [many, long] {
        for text in ["args.a == 1", "has(params.a)", "args == params"] {
            assert!(ask(text, &body).is_err(), "{text}");
        }
        // What does not ask about it goes by the rest.
        assert_eq!(ask("name == 'read'", &body), Ok(true));
    }
    // Arguments are looked into once, by whichever name.
    let both = call(both);
    assert_eq!(ask("params.arguments.t == args.t", &both), Ok(true));
}

proptest::proptest! {
    #[test]
    fn any_text_and_any_arguments_end_in_a_word(text in "(args|\\.a|\\.all\\(x, |has\\(|x|\\)|==|<|&&|!|\\[|\\]|'a'|1|\\(|,| ){0,14}", a in "[a\\[\\]0-9,]{0,6}") {
        if let Ok(expression) = Expression::new(&text) {
            let value = serde_json::from_str::<Value>(&a).unwrap_or_default();
            let _either = with(&call(json!({"a": value})), |about| expression.is_true(about));
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(text in "\\PC{0,200}") {
        let _either = Expression::new(&text);
    }
}
