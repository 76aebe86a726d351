//! `Mcp-Param-*` against what the tools' schemas say.

use super::*;

const LIST: &str = r#"*'"method":"tools/list"'*) note x lists; answer '{"tools":[{"name":"echo","inputSchema":{"properties":{"mark":{"type":"string","x-mcp-header":"Mark"}}}}]}' ;;"#;

fn with_param(mut request: Request<Body>, value: &str) -> Request<Body> {
    request
        .headers_mut()
        .insert("mcp-param-mark", value.parse().expect("a value"));
    request
}

#[tokio::test]
async fn a_header_that_mirrors_an_argument_must_agree() {
    let rig = Rig::new(LIST, |_| {});
    let reply = rig
        .reply(with_param(modern_tool(1, "echo", "a"), "a"))
        .await;
    assert_eq!(reply.json()["result"]["mark"], "a");
    assert_eq!(rig.noted("lists").len(), 1);
    for wrong in [
        modern_tool(1, "echo", "a"),
        with_param(modern_tool(1, "echo", "a"), "b"),
    ] {
        let error = rig.send(wrong).await.expect_err("a mismatch");
        assert!(
            find::<crate::mcp::headers::HeaderMismatch>(&*error).is_some(),
            "{error}"
        );
    }
    assert_eq!(
        rig.reply(modern_tool(1, "heard", 0)).await.heard(),
        Vec::<Value>::new()
    );
}

#[tokio::test]
async fn a_tool_list_that_never_comes_or_fails_stops_no_call() {
    for arm in [
        "note x lists",
        "note x lists; fail -32603",
        "note x lists; answer '[]'",
        "note x lists; answer '{\"tools\":[],\"nextCursor\":\"again\"}'",
    ] {
        let arms = format!(r#"*'"method":"tools/list"'*) {arm} ;;"#);
        let rig = Rig::new(&arms, |s| s.handshake = Duration::from_millis(200));
        let calls: Vec<_> = (0..8)
            .map(|_| rig.start(modern_tool(1, "echo", 1)))
            .collect();
        let began = std::time::Instant::now();
        for call in calls {
            let reply = call.await.expect("no panic").expect("a reply");
            assert_eq!(reply.json()["result"]["mark"], 1);
        }
        assert!(
            began.elapsed() < Duration::from_secs(2),
            "they wait for it once, not one after the other"
        );
    }
}

#[tokio::test]
async fn a_server_that_ends_while_it_lists_its_tools_fails_the_call_as_not_sent() {
    let rig = Rig::new(r#"*'"method":"tools/list"'*) exit 3 ;;"#, |_| {});
    let error = rig.error(modern_tool(1, "echo", 1)).await;
    assert!(
        matches!(
            error,
            StdioError::Gone {
                how: Gone::Exited(3),
                sent: false
            }
        ),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_server_that_ends_once_while_it_lists_its_tools_costs_the_client_nothing() {
    let once = r#"*'"method":"tools/list"'*) [ -e "$DIR/once" ] || { : >"$DIR/once"; exit 3; }; answer '{"tools":[]}' ;;"#;
    let rig = Rig::new(once, |_| {});
    let reply = rig.reply(modern_tool(1, "echo", 1)).await;
    assert_eq!(reply.json()["result"]["mark"], 1);
    assert_eq!(rig.noted("starts").len(), 2);
}
