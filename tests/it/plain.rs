//! Routes without MCP: bodies pass unread, both ways, as they come.

use std::{sync::Arc, time::Duration};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{
    Ziggurat,
    client::read_until,
    until,
    upstream::{Received, Upstream, Wire, nobody},
    within,
};

/// A ziggurat that leads /api to the upstream's /v1, and everything else to it as it is.
async fn before(upstream: &Upstream) -> Ziggurat {
    let (based, whole) = (upstream.url("/v1"), upstream.url(""));
    Ziggurat::yaml(&format!(
        "routes:\n\
         - {{ match: {{ path: /api }}, protocol: http, upstream: based }}\n\
         - {{ match: {{ path: / }}, protocol: http, upstream: whole }}\n\
         upstreams:\n  \
         based: {{ circuit: off, endpoints: [{{ url: \"{based}\", pool_idle: 50ms }}] }}\n  \
         whole: {{ circuit: off, endpoints: [{{ url: \"{whole}\", pool_idle: 50ms }}] }}\n"
    ))
    .await
}

async fn echo(received: Received, wire: Wire) -> Option<Wire> {
    let headers =
        "x-answer: kept\r\nset-cookie: a=1\r\nset-cookie: b=2\r\ncontent-type: text/plain\r\n";
    let body = format!("{} {} {}", received.method, received.path, received.body);
    wire.answer("207 Multi-Status", headers, &body).await
}

#[tokio::test]
async fn a_client_cannot_take_away_what_is_said_of_its_host() {
    let upstream = Upstream::start(echo).await;
    let z = before(&upstream).await;
    let headers = [("connection", "host"), ("x-forwarded-host", "evil")];
    let answer = z.target().request("GET", "/", &headers, "").await;
    assert_eq!(answer.status, 207);
    let received = &upstream.received()[0];
    let hosts = received.headers.iter();
    let hosts = hosts.filter(|(name, _)| name == "x-forwarded-host");
    let hosts: Vec<_> = hosts.map(|(_, host)| &**host).collect();
    let last = hosts.last().and_then(|hosts| hosts.split(", ").last());
    let own = format!("localhost:{}", z.target().address.port());
    assert_eq!(last, Some(&*own), "{hosts:?}");
}

#[tokio::test]
async fn the_time_that_an_upstream_takes_is_told_from_the_proxys() {
    const TAKES: u64 = 100;
    let upstream = Upstream::start(|received, wire| async {
        tokio::time::sleep(Duration::from_millis(TAKES)).await;
        echo(received, wire).await
    })
    .await;
    let z = before(&upstream).await;
    assert_eq!(z.target().request("GET", "/", &[], "").await.status, 207);
    let line = z.logs(&["ziggurat::access", "status=207"]).await;
    let field = |name: &str| -> f64 {
        let fields = line.split_whitespace();
        let mut values = fields.filter_map(|field| field.strip_prefix(name));
        values.next().unwrap().parse().unwrap()
    };
    assert!(field("upstream_ms=") >= TAKES as f64, "{line}");
    let metrics = z.metrics().await;
    let own = metrics.sum("ziggurat_overhead_seconds_sum", &["route=\"/\""]) * 1000.0;
    assert!(own <= field("ms=") - TAKES as f64 + 1.0, "{own} {line}");
}

#[tokio::test]
async fn status_headers_path_query_and_body_pass() {
    let upstream = Upstream::start(echo).await;
    let z = before(&upstream).await;
    let headers = [
        ("x-custom", "kept"),
        ("connection", "x-hop"),
        ("x-hop", "gone"),
    ];
    let answer = z
        .target()
        .request("PUT", "/a%20b?c=d%2F", &headers, "body")
        .await;
    assert_eq!(answer.status, 207);
    assert_eq!(answer.header("x-answer"), "kept");
    let cookies: Vec<_> = answer.headers.get_all("set-cookie").iter().collect();
    assert_eq!(cookies, ["a=1", "b=2"]);
    assert_eq!(answer.text().await, "PUT /a%20b?c=d%2F body");
    let received = &upstream.received()[0];
    assert_eq!(received.header("x-custom"), "kept");
    assert_eq!(received.header("x-hop"), "", "hop-by-hop headers end here");
    assert_eq!(received.header("host"), upstream.address.to_string());
    assert_eq!(received.header("x-forwarded-for"), "127.0.0.1");
    assert!(received.header("via").contains("1.1"));
}

#[tokio::test]
async fn a_path_in_the_url_takes_the_place_of_the_routes() {
    let upstream = Upstream::start(echo).await;
    let z = before(&upstream).await;
    for (asked, sent) in [
        ("/api", "/v1"),
        ("/api/", "/v1/"),
        ("/api/x/y?z=1", "/v1/x/y?z=1"),
        ("/apix", "/apix"),
        ("/other", "/other"),
    ] {
        let answer = z.target().get(asked).await.text().await;
        assert_eq!(answer, format!("GET {sent} "));
    }
    for evil in [
        "/api/../secret",
        "/api/%2e%2e/secret",
        "/%61pi/x",
        "//api",
        "/other/..%2fapi",
    ] {
        let status = z.target().get(evil).await.status;
        assert_eq!(status, 400, "{evil}");
    }
    assert_eq!(upstream.received().len(), 5);
}

#[tokio::test]
async fn both_bodies_stream_at_the_same_time() {
    // Raw: the upstream answers while it is still being sent to, so the harness's reader of whole requests does not do.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let z = Ziggurat::yaml(&format!(
        "routes: [{{ match: {{ path: / }}, protocol: http, upstream: u }}]\n\
         upstreams: {{ u: {{ endpoints: [{{ url: \"http://{address}\" }}] }} }}"
    ))
    .await;
    let mut client = z.target().connect().await;
    let head = "POST /stream HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n";
    client.write_all(head.as_bytes()).await.unwrap();
    client.write_all(b"3\r\none\r\n").await.unwrap();
    let (mut server, _) = within("a connection", listener.accept()).await.unwrap();
    read_until(&mut server, "one").await;
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n";
    server.write_all(head.as_bytes()).await.unwrap();
    read_until(&mut client, "first").await;
    client.write_all(b"3\r\ntwo\r\n").await.unwrap();
    read_until(&mut server, "two").await;
    server.write_all(b"6\r\nsecond\r\n").await.unwrap();
    read_until(&mut client, "second").await;
    client.write_all(b"0\r\n\r\n").await.unwrap();
    read_until(&mut server, "0\r\n\r\n").await;
    server.write_all(b"0\r\n\r\n").await.unwrap();
    read_until(&mut client, "0\r\n\r\n").await;
}

#[tokio::test]
async fn events_pass_one_by_one_and_a_client_that_leaves_is_seen_upstream() {
    let (send, receive) = tokio::sync::mpsc::channel::<&str>(8);
    let receive = std::sync::Arc::new(tokio::sync::Mutex::new(receive));
    let upstream = Upstream::start(move |_: Received, wire: Wire| {
        let receive = receive.clone();
        async move {
            let mut wire = wire.sse().await;
            let mut receive = receive.lock().await;
            loop {
                match receive.recv().await {
                    Some("stall") | None => return wire.stall().await,
                    Some(event) => wire = wire.drip(event).await,
                }
            }
        }
    })
    .await;
    let z = before(&upstream).await;
    let baseline = z.baseline().await;
    send.send(": a comment\n\nid: 1\ndata: one\n\n")
        .await
        .unwrap();
    let mut stream = z.target().get("/events").await;
    assert!(stream.is_stream());
    let first = stream.event().await.unwrap();
    assert_eq!((first.id.as_deref(), &*first.data), (Some("1"), "one"));
    // The second is not sent before the first was seen: none waits for the next.
    send.send("id: 2\r\ndata: two\n\n").await.unwrap();
    assert_eq!(stream.event().await.unwrap().data, "two");
    send.send("stall").await.unwrap();
    drop(stream);
    upstream.left().await;
    z.assert_back_to(&baseline).await;
}

#[tokio::test]
async fn an_upgrade_joins_both_sides_until_one_leaves() {
    let upstream =
        Upstream::start(async |_: Received, wire: Wire| wire.upgrade_and_echo().await).await;
    let z = before(&upstream).await;
    let baseline = z.baseline().await;
    let mut client = z.target().connect().await;
    let head =
        "GET /ws HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
    client.write_all(head.as_bytes()).await.unwrap();
    let answer = read_until(&mut client, "\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    for said in ["hello", "again"] {
        client.write_all(said.as_bytes()).await.unwrap();
        read_until(&mut client, said).await;
    }
    drop(client);
    upstream.left().await;
    z.assert_back_to(&baseline).await;
}

#[tokio::test]
async fn an_upstream_that_resets_or_breaks_off_is_a_clear_error() {
    let now = Arc::new(tokio::sync::Notify::new());
    let cut = now.clone();
    let upstream = Upstream::start(move |received: Received, wire: Wire| {
        let now = now.clone();
        async move {
            match &*received.path {
                "/reset" => wire.reset(),
                "/close" => wire.close(),
                "/half" => {
                    let wire = wire.sse().await.drip("data: half\n").await;
                    now.notified().await;
                    wire.close()
                }
                _ => {
                    let mut wire = wire.sse().await;
                    for at in 0..3 {
                        wire = wire.event(&at.to_string()).await;
                    }
                    wire.end().await
                }
            }
        }
    })
    .await;
    let z = before(&upstream).await;
    let baseline = z.baseline().await;
    for path in ["/reset", "/close"] {
        let answer = z.target().get(path).await;
        assert_eq!(answer.status, 502, "{path}");
        let problem = answer.json().await;
        assert_eq!(problem["kind"], "upstream_broken", "{path}");
        assert_eq!(problem["outcome"], "unknown", "{path}");
    }
    let mut half = z.target().get("/half").await;
    cut.notify_one();
    let mut end = half.chunk().await;
    while let Some(Ok(_)) = end {
        end = half.chunk().await;
    }
    assert!(end.is_some(), "an end must not be faked");
    drop(half);
    assert_eq!(z.target().get("/whole").await.messages().await.len(), 3);
    z.assert_back_to(&baseline).await;
}

#[tokio::test]
async fn an_upstream_that_is_not_there_was_not_asked() {
    let (_kept, address) = nobody();
    let z = Ziggurat::yaml(&format!(
        "routes: [{{ match: {{ path: / }}, protocol: http, upstream: u }}]\n\
         upstreams: {{ u: {{ endpoints: [{{ url: \"http://{address}\" }}] }} }}"
    ))
    .await;
    let baseline = z.baseline().await;
    let answer = z.target().get("/").await;
    assert_eq!(answer.status, 502);
    let problem = answer.json().await;
    assert_eq!(problem["kind"], "connect_failed");
    assert_eq!(problem["outcome"], "not_sent");
    z.assert_back_to(&baseline).await;
}

#[tokio::test]
async fn a_client_that_vanishes_while_it_sends_is_seen_upstream() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let z = Ziggurat::yaml(&format!(
        "routes: [{{ match: {{ path: / }}, protocol: http, upstream: u }}]\n\
         upstreams: {{ u: {{ endpoints: [{{ url: \"http://{address}\" }}] }} }}"
    ))
    .await;
    let baseline = z.baseline().await;
    let mut client = z.target().connect().await;
    let head = "POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\npart";
    client.write_all(head.as_bytes()).await.unwrap();
    let (mut server, _) = within("a connection", listener.accept()).await.unwrap();
    read_until(&mut server, "part").await;
    drop(client);
    let mut rest = Vec::new();
    let _reset = within("it is closed", server.read_to_end(&mut rest)).await;
    drop(server);
    until("nothing is left", async || z.look().await == baseline).await;
}
