//! The clocks of calls and attempts.

use serde_json::{Value, json};

use super::{Case, Given, case, merge, player, player::plays, put, scenario};

pub(super) fn of_calls() -> Vec<Case> {
    let own = json!({ "upstream": { "tools": [{ "tool": "t" }] } });
    let mut cases = deadline("route.deadline", &json!({}));
    cases.extend(deadline("upstream.tools[].deadline", &own));
    // In place of what is there for all.
    let mut hasty = json!({ "route": { "deadline": "300ms" } });
    merge(&mut hasty, &own);
    let rows = [("off", "ok"), ("100ms", "deadline_exceeded")];
    let late = plays("late700");
    cases.push(case("upstream.tools[].deadline", hasty, late, rows));
    cases
}

pub(super) fn of_attempts() -> Vec<Case> {
    let own = json!({ "upstream": { "tools": [{ "tool": "t" }] } });
    let mut cases = attempt("upstream.timeouts", &json!({}));
    cases.extend(attempt("upstream.tools[].timeouts", &own));
    // In place of what is there for all.
    let mut hasty = json!({ "upstream": { "timeouts": { "head": "300ms", "idle": "300ms" } } });
    merge(&mut hasty, &own);
    cases.extend(attempt("upstream.tools[].timeouts", &hasty));
    cases.push(connect());
    cases
}

/// How long a call may take.
fn deadline(place: &str, base: &Value) -> Vec<Case> {
    let at = |key: &str| format!("{place}.{key}");
    let mut limited = base.clone();
    put(&mut limited, &at("limit"), &json!("1s"));
    vec![
        case(
            place,
            base.clone(),
            plays("late700"),
            [("200ms", "deadline_exceeded"), ("1m", "ok"), ("off", "ok")],
        ),
        case(
            at("limit"),
            base.clone(),
            plays("late700"),
            [("200ms", "deadline_exceeded"), ("1m", "ok")],
        ),
        case(
            at("cap"),
            limited,
            plays("progress2000"),
            [("1s", "deadline_exceeded"), ("1m", "ok")],
        ),
    ]
}

/// How long an attempt may take to its head, and be silent.
fn attempt(place: &str, base: &Value) -> Vec<Case> {
    let key = |key: &str, steps, seen| {
        let path = format!("{place}.{key}");
        let rows = [("200ms", seen), ("1m", "ok"), ("off", "ok")];
        case(path, base.clone(), plays(steps), rows)
    };
    vec![
        key("head", "late700", "upstream_timeout"),
        key("idle", "quiet700", "upstream_silent"),
    ]
}

/// How long a connection may take, TLS included: this server has never heard of that.
fn connect() -> Case {
    let mute = async |given: Given| {
        let server = player::player("a").await;
        let url = format!("https://{}/mcp", server.address);
        let z = given.with(json!([{ "url": url }])).await;
        let caller = z.target().stateless("/mcp");
        player::end_of(player::call(&caller, "ok").await).await
    };
    let base = json!({ "route": { "deadline": "1s" } });
    let rows = [("100ms", "connect_timeout"), ("1m", "deadline_exceeded")];
    case("upstream.timeouts.connect", base, scenario(mute), rows)
}
