use proptest::prelude::*;
use tower::{ServiceExt, service_fn, util::BoxCloneSyncService};

use super::*;
use crate::error;

type Named = BoxCloneSyncService<Request<()>, &'static str, BoxError>;

fn route(name: &'static str, matcher: Match) -> Route<Named> {
    let info = RouteInfo {
        name: name.into(),
        prefix: matcher.path.as_str().into(),
        errors: Default::default(),
    };
    let service = service_fn(move |_: Request<()>| std::future::ready(Ok(name)));
    Route {
        matcher,
        info: Arc::new(info),
        service: BoxCloneSyncService::new(service),
    }
}

fn at(path: &str) -> Match {
    Match {
        path: path.parse().expect("a prefix"),
        ..Match::default()
    }
}

fn get(uri: &str) -> Request<()> {
    Request::get(uri).body(()).expect("a request")
}

/// A router whose routes are named after their prefixes.
fn router(prefixes: &[&'static str]) -> Router<Named> {
    Router::new(prefixes.iter().map(|prefix| route(prefix, at(prefix))))
}

async fn taken(router: &Router<Named>, request: Request<()>) -> Result<&'static str, BoxError> {
    router.clone().oneshot(request).await
}

fn is_unsafe(result: &Result<&'static str, BoxError>) -> bool {
    matches!(result, Err(e) if error::find::<UnsafePath>(&**e).is_some())
}

fn is_unrouted(result: &Result<&'static str, BoxError>) -> bool {
    matches!(result, Err(e) if error::find::<NoRoute>(&**e).is_some())
}

#[tokio::test]
async fn a_prefix_covers_whole_segments() {
    let router = router(&["/mcp", "/files/"]);
    for path in [
        "/mcp",
        "/mcp/",
        "/mcp/x",
        "/mcp//x",
        "/mcp/a%2Fb",
        "/mcp?q=/x",
    ] {
        assert_eq!(
            taken(&router, get(path)).await.expect("a route"),
            "/mcp",
            "{path}"
        );
    }
    assert_eq!(
        taken(&router, get("/files")).await.expect("a route"),
        "/files/"
    );
    for path in ["/", "/mcpx", "/mc", "/x/mcp", "/MCP"] {
        assert!(is_unrouted(&taken(&router, get(path)).await), "{path}");
    }
}

#[tokio::test]
async fn a_slash_covers_everything_and_the_first_match_wins() {
    let all = router(&["/a/b", "/a", "/"]);
    for (path, name) in [
        ("/a/b/c", "/a/b"),
        ("/a/bc", "/a"),
        ("/", "/"),
        ("*", "/"),
        ("/.well-known/x", "/"),
    ] {
        assert_eq!(
            taken(&all, get(path)).await.expect("a route"),
            name,
            "{path}"
        );
    }
    assert_eq!(
        taken(&router(&["/", "/a"]), get("/a"))
            .await
            .expect("a route"),
        "/"
    );
    assert!(is_unrouted(&taken(&router(&[]), get("/")).await));
}

#[tokio::test]
async fn dot_segments_are_refused_however_they_are_written() {
    let router = router(&["/admin", "/"]);
    for path in [
        "/..",
        "/.",
        "/x/../admin",
        "/x/./y",
        "/x/..",
        "/x/%2e%2e/admin",
        "/x/.%2E/admin",
        "/x/%2e/admin",
        "/x%2f..%2fadmin",
        "/x/..%2fadmin",
        "/x/..;/admin",
        "/x/..;a=b/admin",
        "/x/%2e%2e%3b/admin",
        "/x%5c..%5cadmin",
    ] {
        assert!(is_unsafe(&taken(&router, get(path)).await), "{path}");
    }
    for path in [
        "/x/...", "/x/.a", "/x/a..", "/x/%2ea", "/x%2fy", "/x/%zz", "/x/100%", "/x;v=1",
    ] {
        assert_eq!(
            taken(&router, get(path)).await.expect("a route"),
            "/",
            "{path}"
        );
    }
}

#[tokio::test]
async fn a_path_that_could_be_read_as_another_routes_is_refused() {
    let router = router(&["/admin", "/"]);
    for path in [
        "//admin",
        "///admin/x",
        "/%61dmin",
        "/admin%2fx",
        "/%2fadmin",
        "/admin;x",
        "/admin;x/y",
        "/%5cadmin",
    ] {
        assert!(is_unsafe(&taken(&router, get(path)).await), "{path}");
    }
    for path in ["/admin//x", "/admin/%61", "/admin/x;y"] {
        assert_eq!(
            taken(&router, get(path)).await.expect("a route"),
            "/admin",
            "{path}"
        );
    }
}

#[tokio::test]
async fn host_and_headers_narrow_a_route() {
    let header = |value| {
        (
            HeaderName::from_static("x-team"),
            HeaderValue::from_static(value),
        )
    };
    let host = |name: &str| Some(name.parse().expect("a host"));
    let router = Router::new([
        route(
            "both",
            Match {
                host: host("a.example"),
                headers: vec![header("red")],
                ..at("/")
            },
        ),
        route(
            "host",
            Match {
                host: host("*.example:81"),
                ..at("/")
            },
        ),
        route(
            "header",
            Match {
                headers: vec![header("red"), header("blue")],
                ..at("/")
            },
        ),
    ]);
    for (host, teams, name) in [
        ("A.example.:9", &["blue", "red"][..], "both"),
        ("a.example:81", &["blue"], "host"),
        ("c.example", &["red", "blue"], "header"),
        ("not a host", &["red", "blue"], "header"),
    ] {
        let mut request = get("/x");
        request
            .headers_mut()
            .insert("host", host.parse().expect("a value"));
        for team in teams {
            request
                .headers_mut()
                .append("x-team", team.parse().expect("a value"));
        }
        assert_eq!(
            taken(&router, request).await.expect("a route"),
            name,
            "{host}"
        );
    }
    assert_eq!(
        taken(&router, get("http://b.example:81/"))
            .await
            .expect("a route"),
        "host"
    );
    assert!(is_unrouted(&taken(&router, get("/")).await));
}

#[tokio::test]
async fn the_route_is_filed_and_its_service_is_waited_for() {
    let (mut service, mut handle) =
        tower_test::mock::spawn_with::<Request<()>, &str, _, _>(|inner| {
            Router::new([Route {
                matcher: at("/mcp"),
                info: Arc::new(RouteInfo {
                    name: "tools".into(),
                    prefix: "/mcp".into(),
                    errors: Default::default(),
                }),
                service: inner,
            }])
        });
    handle.allow(0);
    assert!(service.poll_ready().is_ready());
    let mut request = get("/mcp");
    let exchange = Exchange::of(&mut request);
    let mut call = tokio_test::task::spawn(service.call(request));
    assert!(call.poll().is_pending());
    assert_eq!(exchange.route().map(|r| &*r.name), Some("tools"));
    handle.allow(1);
    assert!(call.is_woken());
    assert!(call.poll().is_pending());
    let (_, respond) = handle.next_request().await.expect("a request");
    respond.send_response("done");
    assert_eq!(call.await.expect("an answer"), "done");
}

#[tokio::test]
async fn the_layers_around_a_router_stand_on_each_other() {
    use crate::{Body, body_limit::*, credentials::*, guard::*, inspect::*};
    use http::{Response, header};
    use tower::ServiceBuilder;

    let leaf = service_fn(async |request: Request<Body>| {
        assert!(!request.headers().contains_key(header::COOKIE));
        Ok::<_, BoxError>(Response::new(Body::new(request.into_body())))
    });
    let inner = ServiceBuilder::new()
        .layer(InspectLayer::new(InspectSettings::mcp()))
        .layer(CredentialsLayer::new(CredentialsSettings::default()))
        .service(leaf);
    let router = Router::new([Route {
        matcher: at("/mcp"),
        info: Arc::new(RouteInfo {
            name: "tools".into(),
            prefix: "/mcp".into(),
            errors: Default::default(),
        }),
        service: BoxCloneSyncService::new(inner),
    }]);
    let settings = Arc::new(GuardSettings::loopback());
    let server = ServiceBuilder::new()
        .layer(CorsLayer::new(settings.clone()))
        .layer(BodyLimitLayer::new(Some(100)))
        .layer(GuardLayer::new(settings))
        .service(router);
    let mut request = Request::post("http://localhost/mcp")
        .header(header::ORIGIN, "http://localhost:5173")
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::COOKIE, "secret")
        .body(Body::full(r#"{"id":1,"method":"ping"}"#))
        .expect("a request");
    let exchange = Exchange::of(&mut request);
    let server = BoxCloneSyncService::new(server);
    let response = tokio::spawn(server.oneshot(request)).await.expect("joined");
    let headers = response.expect("an answer").into_parts().0.headers;
    assert_eq!(
        headers[header::ACCESS_CONTROL_ALLOW_ORIGIN],
        "http://localhost:5173"
    );
    assert!(exchange.call().is_some() && exchange.route().is_some());
}

#[test]
fn a_bad_prefix_is_refused() {
    for bad in [
        "", "mcp", "//", "/a//b", "/a/../b", "/.", "/a?b", "/a%20b", "/a b", "/é", "/a;b", "/a\\b",
        "/{x}",
    ] {
        assert!(bad.parse::<PathPrefix>().is_err(), "{bad}");
    }
    for (good, text) in [
        ("/", "/"),
        ("/a", "/a"),
        ("/a/b/", "/a/b"),
        ("/.well-known", "/.well-known"),
    ] {
        assert_eq!(good.parse::<PathPrefix>().expect("a prefix").as_str(), text);
    }
}

/// How an upstream that resolves everything reads a path.
fn resolved(path: &str) -> Vec<String> {
    let mut bytes = Vec::new();
    let mut rest = path.as_bytes();
    while let [first, after @ ..] = rest {
        let coded = after
            .get(..2)
            .filter(|_| *first == b'%')
            .and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        bytes.push(coded.unwrap_or(*first));
        rest = if coded.is_some() { &after[2..] } else { after };
    }
    let text: String = bytes.into_iter().map(char::from).collect();
    let mut segments = Vec::new();
    for segment in text.replace('\\', "/").split('/') {
        match segment.split(';').next().unwrap_or_default() {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            name => segments.push(name.to_owned()),
        }
    }
    segments
}

proptest! {
    #[test]
    fn no_path_reaches_a_segment_past_its_rule(
        pieces in proptest::collection::vec(
            prop_oneof![
                Just("/"), Just("."), Just(".."), Just("%2e"), Just("%2E"), Just("%2f"), Just("%5c"), Just(";"),
                Just("%3b"), Just("admin"), Just("%61dmin"), Just("x"), Just("%"), Just("%2"),
            ],
            0..10,
        ),
    ) {
        let path = format!("/{}", pieces.concat());
        let router = router(&["/admin", "/x/admin", "/"]);
        // Whatever passes takes the route that its fully resolved form would take.
        if let Ok(route) = router.route(&get(&path)) {
            let resolved = format!("/{}", resolved(&path).join("/"));
            let rule = ["/admin", "/x/admin"].into_iter().find(|prefix| {
                resolved == *prefix || resolved.starts_with(&format!("{prefix}/"))
            });
            prop_assert_eq!(&*route.info.name, rule.unwrap_or("/"), "{}", path);
        }
    }

    #[test]
    fn plain_paths_are_matched_by_segments(
        segments in proptest::collection::vec("[a-c]{1,2}", 0..4),
        prefix in proptest::collection::vec("[a-c]{1,2}", 0..3),
    ) {
        let path = format!("/{}", segments.join("/"));
        let prefix_path: PathPrefix = format!("/{}", prefix.join("/")).parse().expect("a prefix");
        prop_assert_eq!(prefix_path.covers(path.as_bytes()), segments.starts_with(&prefix));
        prop_assert_eq!(path::resolve(&path), Ok(None));
    }

    #[test]
    fn any_prefix_is_read_or_refused(text in ".*") {
        if let Ok(prefix) = text.parse::<PathPrefix>() {
            prop_assert_eq!(prefix.to_string().parse::<PathPrefix>().expect("again"), prefix);
        }
    }
}
