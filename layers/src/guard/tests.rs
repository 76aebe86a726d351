use std::{convert::Infallible, future::ready};

use http::{HeaderName, Method, Response, StatusCode};
use metrics_exporter_prometheus::PrometheusBuilder;
use proptest::prelude::*;
use tower::{ServiceBuilder, ServiceExt, service_fn};

use super::*;
use crate::{Body, error};

fn request(headers: &[(&'static str, &str)]) -> Request<Body> {
    let mut request = Request::new(Body::empty());
    for (name, value) in headers {
        let value = HeaderValue::from_bytes(value.as_bytes()).expect("a value");
        request
            .headers_mut()
            .append(HeaderName::from_static(name), value);
    }
    request
}

fn settings(hosts: &[&str], origins: &[&str]) -> Arc<GuardSettings> {
    let hosts = hosts.iter().map(|h| h.parse().expect("a host")).collect();
    let origins = origins.iter().map(|o| o.parse().expect("an origin"));
    Arc::new(GuardSettings {
        hosts: Some(hosts),
        origins: Some(origins.collect()),
    })
}

/// The result of a guard over a service that always answers.
async fn guarded(settings: &Arc<GuardSettings>, request: Request<Body>) -> Result<(), BoxError> {
    let service = GuardLayer::new(settings.clone())
        .layer(service_fn(|_: Request<Body>| ready(Ok::<_, BoxError>(()))));
    service.oneshot(request).await
}

fn origin_problem(error: &BoxError) -> Problem {
    error::find::<OriginRefused>(&**error)
        .expect("the origin is refused")
        .problem
}

fn host_problem(error: &BoxError) -> Problem {
    error::find::<HostRefused>(&**error)
        .expect("the host is refused")
        .problem
}

#[tokio::test]
async fn only_hosts_in_the_list_are_served() {
    let settings = settings(&["localhost", "*.a.example"], &[]);
    for host in ["localhost:8080", "127.0.0.1", "B.A.example."] {
        let answer = guarded(&settings, request(&[("host", host)])).await;
        assert!(answer.is_ok(), "{host}");
    }
    for (headers, problem) in [
        (&[][..], Problem::Missing),
        (&[("host", "evil.example")], Problem::Foreign),
        (&[("host", "a.example")], Problem::Foreign),
        (&[("host", "localhost@evil.example")], Problem::Malformed),
        (
            &[("host", "localhost"), ("host", "localhost")],
            Problem::Twice,
        ),
    ] {
        let error = guarded(&settings, request(headers))
            .await
            .expect_err("refused");
        assert_eq!(host_problem(&error), problem, "{headers:?}");
    }
}

#[tokio::test]
async fn an_absent_origin_passes_and_a_foreign_null_double_or_broken_one_does_not() {
    let settings = GuardSettings::loopback().into();
    assert!(
        guarded(&settings, request(&[("host", "localhost")]))
            .await
            .is_ok()
    );
    for good in [
        "http://localhost",
        "https://LOCALHOST:1",
        "http://127.0.0.1:5173",
        "http://[::1]:3",
    ] {
        let request = request(&[("host", "localhost"), ("origin", good)]);
        assert!(guarded(&settings, request).await.is_ok(), "{good}");
    }
    for (bad, problem) in [
        ("http://evil.example", Problem::Foreign),
        ("http://localhost.evil.example", Problem::Foreign),
        ("vscode-webview://localhost", Problem::Foreign),
        ("null", Problem::Foreign),
        ("", Problem::Malformed),
        ("localhost", Problem::Malformed),
        ("http://localhost/", Problem::Malformed),
        ("http://localhost http://localhost", Problem::Malformed),
        ("http://x@localhost", Problem::Malformed),
        ("://localhost", Problem::Malformed),
        ("http://localhost\u{e9}", Problem::Malformed),
    ] {
        let request = request(&[("host", "localhost"), ("origin", bad)]);
        let error = guarded(&settings, request).await.expect_err("refused");
        assert_eq!(origin_problem(&error), problem, "{bad}");
    }
    let twice = request(&[
        ("host", "localhost"),
        ("origin", "http://localhost"),
        ("origin", "http://localhost"),
    ]);
    let error = guarded(&settings, twice).await.expect_err("refused");
    assert_eq!(origin_problem(&error), Problem::Twice);
}

#[tokio::test]
async fn without_lists_anything_passes_that_can_be_read() {
    let any = GuardSettings::any().into();
    let stranger = request(&[("host", "x.example:9"), ("origin", "app://y")]);
    assert!(guarded(&any, stranger).await.is_ok());
    for bad in [
        &[("origin", "http://x.example")][..],
        &[("host", "a"), ("host", "b")],
        &[("host", "a"), ("origin", "null")],
    ] {
        assert!(guarded(&any, request(bad)).await.is_err(), "{bad:?}");
    }
}

#[test]
fn a_refusal_is_counted_and_its_text_is_one_short_line() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    ::metrics::with_local_recorder(&recorder, || {
        let settings = settings(&["a.example"], &[]);
        let layer = GuardLayer::new(settings);
        let long = format!("http://{}example", "x.".repeat(110));
        let error = layer.check(&request(&[("host", "a.example"), ("origin", &long)]));
        let text = error.expect_err("refused").to_string();
        assert!(text.len() < 250 && text.contains("`origins`"), "{text}");
        let error = layer.check(&request(&[("host", "b.example")]));
        assert_eq!(
            error.expect_err("refused").to_string(),
            "the request's Host is not allowed: `b.example` (the setting `hosts` lists what is)"
        );
        assert!(layer.check(&request(&[])).is_err());
    });
    let page = handle.render();
    assert!(page.contains("ziggurat_origin_rejected_total 3"), "{page}");
}

fn allowed(entry: &str, origin: &str) -> bool {
    let entry: OriginName = entry.parse().expect("an entry");
    entry.allows(&Origin::parse(origin).expect("an origin"))
}

#[test]
fn a_host_entry_is_for_http_and_https_and_a_whole_origin_for_itself() {
    for (entry, origin) in [
        ("a.example", "http://a.example"),
        ("a.example", "https://a.example:8443"),
        ("a.example:443", "https://a.example"),
        ("*.a.example", "https://b.a.example"),
        ("https://a.example", "https://a.example"),
        ("https://a.example", "HTTPS://A.example:443"),
        ("https://a.example:443", "https://a.example"),
        ("https://*.a.example", "https://b.a.example"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("vscode-webview://1a2b3c", "vscode-webview://1A2B3C"),
    ] {
        assert!(allowed(entry, origin), "{entry} {origin}");
    }
    for (entry, origin) in [
        ("a.example", "app://a.example"),
        ("a.example:443", "http://a.example"),
        ("https://a.example", "http://a.example"),
        ("https://a.example", "https://a.example:8443"),
        ("http://localhost:3000", "http://127.0.0.1:3000"),
        ("vscode-webview://1a2b3c", "https://1a2b3c"),
        ("vscode-webview://1a2b3c", "vscode-webview://1a2b3c:1"),
    ] {
        assert!(!allowed(entry, origin), "{entry} {origin}");
    }
}

#[test]
fn a_bad_origin_entry_is_refused_with_what_would_be_right() {
    for (entry, says) in [
        ("null", "sandboxed frame"),
        ("https://a.example/", "and no path"),
        ("https://a.example/x", "and no path"),
        ("1://a.example", "and no path"),
        ("https://*", "`*.example.com`"),
        ("*", "`*.example.com`"),
        ("https://", "is not a host"),
    ] {
        let error = entry.parse::<OriginName>().expect_err(entry);
        assert!(error.to_string().contains(says), "{error}");
        assert!(error.to_string().contains(entry), "{error}");
    }
}

proptest! {
    #[test]
    fn any_origin_is_read_or_refused(text in ".*") {
        let _origin = Origin::parse(&text);
        let _entry = text.parse::<OriginName>();
    }

    #[test]
    fn a_whole_origin_allows_itself_and_is_written_as_it_is_read(
        scheme in "[a-z][a-z0-9+.-]{0,9}",
        host in "[a-z][a-z0-9-]{0,9}(\\.[a-z]{1,9}){0,2}",
        port in any::<Option<u16>>(),
        other in "[a-z]{1,5}",
    ) {
        let port = port.map_or(String::new(), |p| format!(":{p}"));
        let origin = format!("{scheme}://{host}{port}");
        prop_assert!(allowed(&origin, &origin));
        prop_assert_eq!(origin.parse::<OriginName>().expect("an entry").to_string(), origin.clone());
        let longer = format!("{scheme}://{host}{other}{port}");
        let below = format!("{scheme}://{other}.{host}{port}");
        let foreign = format!("{scheme}{other}://{host}{port}");
        for strange in [longer, below, foreign] {
            prop_assert!(!allowed(&origin, &strange));
        }
    }
}

// === CORS ===

/// What CORS makes of a response with these headers.
async fn cors(request: Request<Body>, headers: &[(&'static str, &str)]) -> Response<Body> {
    let mut response = Response::new(Body::full("inside"));
    *response.status_mut() = StatusCode::BAD_GATEWAY;
    for (name, value) in headers {
        let value = value.parse().expect("a value");
        response
            .headers_mut()
            .append(HeaderName::from_static(name), value);
    }
    let mut response = Some(response);
    let service = ServiceBuilder::new()
        .layer(CorsLayer::new(settings(
            &["localhost"],
            &["https://app.example"],
        )))
        .service(service_fn(move |_: Request<Body>| {
            ready(Ok::<_, Infallible>(response.take().expect("one call")))
        }));
    service.oneshot(request).await.expect("infallible")
}

fn preflight(asked: &[(&'static str, &str)]) -> Request<Body> {
    let mut request = request(asked);
    *request.method_mut() = Method::OPTIONS;
    request
}

const APP: (&str, &str) = ("origin", "https://app.example");
const HOST: (&str, &str) = ("host", "localhost:1");

fn text<'a>(response: &'a Response<Body>, name: &str) -> &'a str {
    response
        .headers()
        .get(name)
        .map_or("", |v| v.to_str().expect("text"))
}

#[tokio::test]
async fn a_preflight_of_an_allowed_origin_is_answered_without_asking_inside() {
    let asked = "content-type, mcp-param-city,x-own";
    let response = cors(
        preflight(&[
            HOST,
            APP,
            ("access-control-request-method", "PATCH"),
            ("access-control-request-headers", asked),
        ]),
        &[],
    )
    .await;
    assert_eq!(response.status(), StatusCode::NO_CONTENT);
    assert_eq!(text(&response, "access-control-allow-origin"), APP.1);
    assert_eq!(
        text(&response, "access-control-allow-methods"),
        "GET, POST, DELETE, OPTIONS, PATCH"
    );
    assert_eq!(text(&response, "access-control-allow-headers"), asked);
    assert_eq!(text(&response, "access-control-max-age"), "600");
    assert!(text(&response, "vary").starts_with("Origin,"));
    assert!(
        !response
            .headers()
            .contains_key("access-control-allow-credentials")
    );
}

#[tokio::test]
async fn a_preflight_that_asks_for_too_much_gets_the_headers_of_mcp() {
    for asked in [&"x".repeat(5000)[..], "*", "a b", "", ","] {
        let response = cors(
            preflight(&[
                HOST,
                APP,
                ("access-control-request-method", "POST"),
                ("access-control-request-headers", asked),
            ]),
            &[],
        )
        .await;
        let allowed = text(&response, "access-control-allow-headers");
        assert!(
            allowed.contains("Mcp-Session-Id, MCP-Protocol-Version"),
            "{allowed}"
        );
        assert_eq!(
            text(&response, "access-control-allow-methods"),
            "GET, POST, DELETE, OPTIONS"
        );
    }
}

#[tokio::test]
async fn what_is_no_allowed_preflight_goes_inside() {
    for asked in [
        &[HOST, APP][..],
        &[HOST, ("access-control-request-method", "POST")],
        &[
            HOST,
            ("origin", "https://evil.example"),
            ("access-control-request-method", "POST"),
        ],
        &[
            ("host", "evil.example"),
            APP,
            ("access-control-request-method", "POST"),
        ],
        &[HOST, APP, ("access-control-request-method", "PO ST")],
    ] {
        let response = cors(preflight(asked), &[]).await;
        assert_eq!(response.status(), StatusCode::BAD_GATEWAY, "{asked:?}");
    }
}

#[tokio::test]
async fn a_page_may_read_responses_and_errors_and_no_star_or_credentials_pass() {
    let response = cors(
        request(&[HOST, APP]),
        &[
            ("access-control-allow-origin", "*"),
            ("access-control-allow-credentials", "true"),
            ("access-control-expose-headers", "X-Own"),
            ("vary", "Accept"),
        ],
    )
    .await;
    assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
    let headers = response.headers();
    let all = |name: &str| -> Vec<&str> {
        let values = headers.get_all(name).iter();
        values.map(|v| v.to_str().expect("text")).collect()
    };
    assert_eq!(all("access-control-allow-origin"), [APP.1]);
    assert!(all("access-control-allow-credentials").is_empty());
    assert_eq!(
        all("access-control-expose-headers"),
        [
            "X-Own",
            "Mcp-Session-Id, MCP-Protocol-Version, RateLimit, RateLimit-Policy, Retry-After, WWW-Authenticate, X-Request-Id"
        ]
    );
    assert_eq!(all("vary"), ["Accept", "Origin"]);
    let varied = cors(request(&[HOST, APP]), &[("vary", "accept, origin")]).await;
    assert_eq!(varied.headers().get_all("vary").iter().count(), 1);
}

#[tokio::test]
async fn without_an_allowed_origin_a_response_stays_as_it_is() {
    for headers in [
        &[HOST][..],
        &[HOST, ("origin", "https://evil.example")],
        &[HOST, APP, APP],
    ] {
        let response = cors(request(headers), &[("access-control-allow-origin", "x")]).await;
        assert_eq!(text(&response, "access-control-allow-origin"), "x");
        assert!(!response.headers().contains_key("vary"), "{headers:?}");
    }
}
