//! The breakers: of endpoints, of tools, and of the tools that have one of their own.

use serde_json::{Value, json};

use super::{Case, case, merge, player::letters};

pub(super) fn of_endpoints() -> Vec<Case> {
    breaker("upstream.circuit", &json!({}))
}

pub(super) fn of_tools() -> Vec<Case> {
    breaker("upstream.tool_circuit", &json!({}))
}

pub(super) fn of_some_tools() -> Vec<Case> {
    let place = "upstream.tools[].circuit";
    let own = json!({ "upstream": { "tools": [{ "tool": "t" }] } });
    let mut cases = breaker(place, &own);
    // Its name says which calls it is for.
    let one = json!({ "upstream": { "tools": [{ "circuit": { "consecutive": 1 } }] } });
    let rows = [("t", "fr"), ("u", "fo"), ("*", "fr")];
    let fails = || letters("status500 ok");
    cases.push(case("upstream.tools[].tool", one, fails(), rows));
    // What is off for one tool is on for the others.
    let mut all = json!({ "upstream": { "tool_circuit": { "consecutive": 1 } } });
    merge(&mut all, &own);
    let rows = [(json!("off"), "fo"), (json!({ "consecutive": 1 }), "fr")];
    cases.push(case(place, all, fails(), rows));
    cases
}

/// The cases of the breaker at this place: `f` failed, `o` went well, `r` was refused.
fn breaker(place: &str, base: &Value) -> Vec<Case> {
    let at = |key: &str| format!("{place}.{key}");
    let with = |settings: Value| {
        let mut all = base.clone();
        super::put(&mut all, place, &settings);
        all
    };
    let mut cases = vec![case(
        place,
        base.clone(),
        letters("status500 status500 status500 status500 status500 ok"),
        [(json!("off"), "fffffo"), (json!({}), "fffffr")],
    )];
    cases.extend(thresholds(&at, &with));
    cases.extend(clocks(&at, &with));
    cases.extend(verdicts(&at, &with));
    cases
}

fn thresholds(at: &dyn Fn(&str) -> String, with: &dyn Fn(Value) -> Value) -> Vec<Case> {
    let rates = |more: Value| {
        let mut settings = json!({ "consecutive": "off", "min_calls": 2 });
        merge(&mut settings, &more);
        with(settings)
    };
    vec![
        case(
            at("consecutive"),
            with(json!({ "failure_rate": "off" })),
            letters("status500 status500 status500 status500 status500 status500 ok"),
            [("2", "ffrrrrr"), ("3", "fffrrrr"), ("off", "ffffffo")],
        ),
        case(
            at("failure_rate"),
            rates(json!({ "min_calls": 4 })),
            letters("ok ok ok status500 status500 status500 ok"),
            [("25%", "ooofrrr"), ("40%", "oooffrr"), ("off", "ooofffo")],
        ),
        case(
            at("min_calls"),
            rates(json!({})),
            letters("status500 status500 status500 ok"),
            [("2", "ffrr"), ("3", "fffr"), ("4", "fffo")],
        ),
        case(
            at("window"),
            rates(json!({ "failure_rate": "60%" })),
            letters("ok ok ok status500 status500 ok"),
            [
                ("2 calls", "oooffr"),
                ("100 calls", "oooffo"),
                ("1h", "oooffo"),
            ],
        ),
        case(
            at("window"),
            rates(json!({ "failure_rate": "60%" })),
            letters("ok ok ok wait1700 status500 status500 ok"),
            [("1500ms", "oooffr"), ("1h", "oooffo")],
        ),
        case(
            at("slow_call"),
            rates(json!({})),
            letters("late200 late200 ok"),
            [("50ms", "oor"), ("1h", "ooo")],
        ),
        case(
            at("slow_rate"),
            rates(json!({ "slow_call": "1500ms" })),
            letters("late1600 ok ok"),
            [("50%", "oor"), ("100%", "ooo")],
        ),
    ]
}

fn clocks(at: &dyn Fn(&str) -> String, with: &dyn Fn(Value) -> Value) -> Vec<Case> {
    vec![
        case(
            at("open"),
            with(json!({ "consecutive": 1 })),
            letters("status500 wait200 ok"),
            [("100ms", "fo"), ("1h", "fr")],
        ),
        // It is open for twice as long each time, as long as it may.
        case(
            at("open_max"),
            with(json!({ "consecutive": 1, "open": "20ms" })),
            letters(
                "status500 again:status500 again:status500 again:status500 again:status500 \
                 again:status500 again:status500 wait100 ok",
            ),
            [("20ms", "fffffffo"), ("1h", "fffffffr")],
        ),
        // A place is kept for no longer than it was open.
        case(
            at("probes"),
            with(json!({ "consecutive": 1, "open": "1s", "successes": 100 })),
            letters("status500 wait1300 hang ok"),
            [("1", "fr"), ("2", "fo")],
        ),
        case(
            at("successes"),
            with(json!({ "consecutive": 2, "open": "400ms" })),
            letters("status500 status500 wait600 ok status500 ok"),
            [("1", "ffofo"), ("2", "ffofr")],
        ),
    ]
}

/// A tool gets its breaker with its first result.
fn verdicts(at: &dyn Fn(&str) -> String, with: &dyn Fn(Value) -> Value) -> Vec<Case> {
    vec![
        case(
            at("rpc_errors"),
            with(json!({ "consecutive": 1 })),
            letters("ok rpc ok"),
            [("false", "oeo"), ("true", "oer")],
        ),
        case(
            at("tool_errors"),
            with(json!({ "consecutive": 1 })),
            letters("ok tool ok"),
            [("false", "oto"), ("true", "otr")],
        ),
    ]
}
