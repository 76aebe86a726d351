//! The clocks of calls and attempts.

use serde_json::{Value, json};

use super::{Case, Given, case, player, player::plays, scenario};

pub(super) fn cases() -> Vec<Case> {
    let own = json!({ "upstream": { "tools": [{ "tool": "t" }] } });
    let mut cases = deadline("route.deadline", &json!({}));
    cases.extend(deadline("upstream.tools[].deadline", &own));
    cases.extend(attempt("upstream.timeouts", &json!({})));
    cases.extend(attempt("upstream.tools[].timeouts", &own));
    cases.push(connect());
    cases.extend(instead());
    cases
}

/// How long a call may take.
fn deadline(place: &str, base: &Value) -> Vec<Case> {
    let at = |key: &str| format!("{place}.{key}");
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
            {
                let mut all = base.clone();
                super::put(&mut all, &at("limit"), &json!("1s"));
                all
            },
            plays("progress2000"),
            [("1s", "deadline_exceeded"), ("1m", "ok")],
        ),
    ]
}

/// How long an attempt may take to its head, and be silent.
fn attempt(place: &str, base: &Value) -> Vec<Case> {
    let key = |key: &str, steps| {
        let path = format!("{place}.{key}");
        let rows = [("200ms", "upstream_timeout"), ("1m", "ok"), ("off", "ok")];
        case(path, base.clone(), plays(steps), rows)
    };
    vec![key("head", "late700"), key("idle", "quiet700")]
}

/// What a tool has in place of what is there for all.
fn instead() -> Vec<Case> {
    let own = |key: &str, route: &str, steps, seen| {
        let base = json!({
            "route": { "deadline": route },
            "upstream": { "timeouts": { "head": "300ms", "idle": "300ms" }, "tools": [{ "tool": "t" }] },
        });
        let path = format!("upstream.tools[].{key}");
        case(path, base, plays(steps), [("off", "ok"), ("100ms", seen)])
    };
    let hasty = json!({
        "route": { "deadline": "300ms" },
        "upstream": { "tools": [{ "tool": "t" }] },
    });
    let rows = [("off", "ok"), ("100ms", "deadline_exceeded")];
    vec![
        case("upstream.tools[].deadline", hasty, plays("late700"), rows),
        own("timeouts.head", "1m", "late700", "upstream_timeout"),
        own("timeouts.idle", "1m", "quiet700", "upstream_timeout"),
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
    let rows = [
        ("100ms", "upstream_unreachable"),
        ("1m", "deadline_exceeded"),
    ];
    case("upstream.timeouts.connect", base, scenario(mute), rows)
}
