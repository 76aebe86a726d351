//! Children: when they start, what they see, how they end.

use serde_json::json;

use crate::harness::{
    BIN, Start, Ziggurat, config, demo, hasty,
    mcp::{initialize, text},
    process, stdio, until,
};

#[tokio::test]
async fn a_crash_fails_its_calls_at_once_and_ends_the_session() {
    let z = Ziggurat::yaml(&stdio("")).await;
    let session = z.target().session().await;
    let waiting = session.endless("w").await;
    let crashed = session.call("c", "crash", json!({})).await;
    assert_eq!(
        crashed.status, 200,
        "a failed call costs no transport error"
    );
    for (answer, id) in [(crashed, "c"), (waiting, "w")] {
        let error = answer.last().await;
        assert_eq!(error["id"], id);
        assert_eq!(error["error"]["code"], 502);
        assert_eq!(error["error"]["data"]["kind"], "server_gone");
        assert_eq!(error["error"]["data"]["outcome"], "unknown");
    }
    assert_eq!(session.ask(1, "ping", json!({})).await.status, 404);
    assert_eq!(session.stream().await.status, 404);
    until("it is logged", async || {
        z.log().contains("outcome_unknown=true")
    })
    .await;

    // The next initialize has a new child.
    let next = z.target().session().await;
    let answer = next.call(1, "echo", json!({"text": "anew"})).await;
    assert_eq!(text(&answer.last().await), "anew");
}

#[tokio::test]
async fn a_crash_of_a_shared_child_ends_all_its_sessions_and_the_next_has_another() {
    let z = Ziggurat::yaml(&stdio("isolation: shared")).await;
    let (one, other) = (z.target().session().await, z.target().session().await);
    let stream = other.stream().await;
    let error = one.call(1, "crash", json!({})).await.last().await;
    assert_eq!(error["error"]["data"]["kind"], "server_gone");
    let mut stream = stream;
    while stream.event().await.is_some() {}
    assert_eq!(other.ask(1, "ping", json!({})).await.status, 404);
    let next = z.target().session().await;
    assert_eq!(next.ask(1, "ping", json!({})).await.status, 200);
}

#[tokio::test]
async fn a_modern_call_after_a_crash_has_a_new_child() {
    let z = Ziggurat::yaml(&stdio("")).await;
    let error = z.target().modern_call(1, "crash", json!({})).await;
    assert_eq!(error.last().await["error"]["code"], 502);
    let target = z.target();
    let answer = target.modern_call(2, "echo", json!({"text": "b"})).await;
    assert_eq!(text(&answer.last().await), "b");
}

#[tokio::test]
async fn a_command_that_does_not_start_is_told_clearly_and_left_alone_for_a_while() {
    let z = Ziggurat::yaml(&config("", "", "", "command: [sh, -c, \"exit 7\"]")).await;
    let post = async || {
        let answer = z
            .target()
            .post("/mcp", &[], initialize("2025-11-25").to_string())
            .await;
        assert_eq!(answer.status, 200);
        answer.last().await
    };
    let first = post().await;
    assert_eq!(first["id"], "init");
    assert_eq!(first["error"]["data"]["kind"], "server_gone", "{first}");
    let mut delayed = json!(null);
    until("the next try is put off", async || {
        delayed = post().await;
        delayed["error"]["data"]["kind"] == "start_delayed"
    })
    .await;
    assert_eq!(delayed["error"]["code"], 503);
    assert_eq!(delayed["error"]["data"]["outcome"], "not_sent");
    assert!(z.servers().is_empty());
}

#[tokio::test]
async fn a_command_that_does_not_exist_is_named_when_it_is_needed() {
    let z = Ziggurat::yaml(&config("", "", "", "command: [no-such-program-here]")).await;
    let answer = z
        .target()
        .post("/mcp", &[], initialize("2025-11-25").to_string())
        .await;
    let error = answer.last().await;
    assert_eq!(error["error"]["data"]["kind"], "start_failed", "{error}");
    assert!(
        error["error"]["message"]
            .as_str()
            .unwrap()
            .contains("no-such-program-here"),
        "{error}"
    );
}

#[tokio::test]
async fn over_the_most_children_a_session_is_refused_and_let_in_when_there_is_room() {
    let z = Ziggurat::yaml(&stdio("max: 2")).await;
    let first = z.target().session().await;
    let _second = z.target().session().await;
    let refused = z
        .target()
        .post("/mcp", &[], initialize("2025-11-25").to_string())
        .await
        .last()
        .await;
    assert_eq!(refused["error"]["code"], 503);
    assert_eq!(refused["error"]["data"]["kind"], "server_busy", "{refused}");
    first.delete().await;
    until("there is room again", async || {
        let body = initialize("2025-11-25").to_string();
        let answer = z.target().post("/mcp", &[], body).await.last().await;
        answer.get("result").is_some()
    })
    .await;
    assert_eq!(z.servers().len(), 2);
}

#[tokio::test]
async fn a_session_that_is_not_used_ends_but_not_while_its_stream_is_open() {
    let z = Ziggurat::yaml(&stdio("idle: 1s")).await;
    let watched = z.target().session().await;
    let stream = watched.stream().await;
    let silent = z.target().session().await;
    until("the silent one is gone", async || z.servers().len() == 1).await;
    assert_eq!(silent.ask(1, "ping", json!({})).await.status, 404);
    assert_eq!(watched.ask(1, "ping", json!({})).await.status, 200);
    drop(stream);
    until("the other is gone too", async || z.servers().is_empty()).await;
    let metrics = z.metrics().await;
    assert_eq!(
        metrics.sum(
            "ziggurat_stdio_session_evictions_total",
            &["reason=\"idle\""]
        ),
        2.0
    );
}

#[tokio::test]
async fn a_child_sees_nothing_of_ziggurats_environment_but_a_short_list() {
    let z = Start::yaml(&stdio("env: { GIVEN: \"${OUTSIDE}\" }"))
        .env("CANARY_SECRET", "canary")
        .env("OUTSIDE", "given by name")
        .env("LANG", "C.UTF-8")
        .up()
        .await;
    let session = z.target().session().await;
    let look = async |name: &str| {
        let answer = session.call(1, "env", json!({"name": name})).await;
        text(&answer.last().await).to_owned()
    };
    assert_eq!(look("CANARY_SECRET").await, "CANARY_SECRET is not set");
    assert_eq!(look("OUTSIDE").await, "OUTSIDE is not set");
    assert_eq!(look("GIVEN").await, "given by name");
    assert_eq!(look("LANG").await, "C.UTF-8");
    let environment = std::fs::read(format!("/proc/{}/environ", z.servers()[0])).unwrap();
    assert!(!String::from_utf8_lossy(&environment).contains("canary"));
}

#[tokio::test]
async fn a_child_runs_in_the_folder_that_the_config_names() {
    let z = Start::yaml(&stdio("cwd: sub")).folder("sub").up().await;
    z.target().session().await;
    let cwd = std::fs::read_link(format!("/proc/{}/cwd", z.servers()[0])).unwrap();
    assert_eq!(cwd, z.dir().join("sub").canonicalize().unwrap());
}

#[tokio::test]
async fn a_child_that_ignores_every_hint_is_killed_with_its_group() {
    // A shell that takes no SIGTERM, waits for something that does not read stdin, and speaks through the demo server.
    let script = format!(
        "trap '' TERM; sleep 600 </dev/null >/dev/null 2>&1 & '{BIN}' demo; sleep 600 </dev/null & wait; sleep 600"
    );
    let z = Ziggurat::yaml(&config(
        "",
        "",
        "",
        &format!("command: [sh, -c, \"{script}\"], stop: {{ stdin: 50ms, term: 50ms }}"),
    ))
    .await;
    let session = z.target().session().await;
    let shell = z.servers()[0];
    let mut group = process::descendants(shell);
    group.push(shell);
    assert!(group.len() >= 3, "{group:?}");
    session.delete().await;
    until("the whole group is gone", async || {
        !group.iter().any(|pid| process::is_alive(*pid))
    })
    .await;
}

#[tokio::test]
async fn a_child_that_stops_reading_fails_what_is_asked_of_it_without_hurting_a_neighbour() {
    let z = Ziggurat::yaml(&hasty("", &demo("stop: { stdin: 50ms, term: 50ms }"))).await;
    let before = z.warm().await;
    let (hung, neighbour) = (z.target().session().await, z.target().session().await);
    hung.call(1, "hang_stdin", json!({})).await.last().await;
    let error = hung
        .at("/hasty")
        .call(2, "echo", json!({"text": "x"}))
        .await
        .last()
        .await;
    assert_eq!(error["id"], 2);
    assert_eq!(error["error"]["code"], 504, "{error}");
    let fine = neighbour.call(2, "echo", json!({"text": "y"})).await;
    assert_eq!(text(&fine.last().await), "y");
    hung.delete().await;
    neighbour.delete().await;
    z.assert_back_to(&before).await;
}

#[tokio::test]
async fn nothing_outlives_a_ziggurat_that_is_killed_hard() {
    let mut z = Ziggurat::yaml(&stdio("")).await;
    let session = z.target().session().await;
    let spawned = session.call(1, "spawn_child", json!({})).await.last().await;
    let grandchild = spawned["result"]["structuredContent"]["pid"]
        .as_i64()
        .unwrap();
    let grandchild = i32::try_from(grandchild).unwrap();
    let mut family = process::descendants(z.pid());
    assert!(family.contains(&grandchild) || process::is_alive(grandchild));
    family.push(grandchild);
    process::signal(z.pid(), "KILL");
    z.ended().await;
    until(
        "children, grandchildren and the reaper are gone",
        async || !family.iter().any(|pid| process::is_alive(*pid)),
    )
    .await;
}

#[tokio::test]
async fn nothing_outlives_a_session() {
    let z = Ziggurat::yaml(&stdio("")).await;
    let before = z.warm().await;
    let session = z.target().session().await;
    let held = json!({"inherit_stdout": true});
    let spawned = session.call(1, "spawn_child", held).await.last().await;
    let grandchild = spawned["result"]["structuredContent"]["pid"]
        .as_i64()
        .unwrap();
    session.delete().await;
    let grandchild = i32::try_from(grandchild).unwrap();
    until("the grandchild is gone", async || {
        !process::is_alive(grandchild)
    })
    .await;
    z.assert_back_to(&before).await;
}

#[tokio::test]
async fn a_child_that_never_answers_its_first_request_is_given_up() {
    let z = Ziggurat::yaml(&config(
        "",
        "",
        "",
        "command: [sleep, \"600\"], handshake: 100ms, stop: { stdin: 0s, term: 50ms }",
    ))
    .await;
    let body = initialize("2025-11-25").to_string();
    let error = z.target().post("/mcp", &[], body).await.last().await;
    assert_eq!(error["error"]["data"]["kind"], "start_timeout", "{error}");
    assert!(
        z.metrics()
            .await
            .sum("ziggurat_timeouts_total", &["phase=\"handshake\""])
            >= 1.0
    );
    until("it is gone", async || {
        !process::children(z.pid())
            .iter()
            .any(|pid| process::command_line(*pid).contains("sleep 600"))
    })
    .await;
}
