//! Which path gives which answer.

use http::{Method, Request, StatusCode};

use super::answer::{Answer, Problem, json, plain, text};
use super::{AdminSettings, AdminSources, guard};

/// What Prometheus expects of its text format.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
const PRIVATE: &str = "/admin/v1/";

/// Answers one request. For HEAD the body stays in, and the server leaves it out after it has taken the length.
pub(super) fn answer<B>(
    settings: &AdminSettings,
    sources: &AdminSources,
    request: &Request<B>,
) -> Answer {
    private(settings, sources, request)
        .unwrap_or_else(|| public(sources, request))
        .unwrap_or_else(Problem::answer)
}

/// What anybody may read.
fn public<B>(sources: &AdminSources, request: &Request<B>) -> Result<Answer, Problem> {
    let answer: fn(&AdminSources) -> Answer = match request.uri().path() {
        "/livez" => |_| plain(StatusCode::OK, "alive\n"),
        "/readyz" => readyz,
        "/metrics" => |sources| text(StatusCode::OK, METRICS_TYPE, (sources.metrics)()),
        _ => return Err(Problem::NotFound),
    };
    only_read(request.method())?;
    Ok(answer(sources))
}

/// What is behind the guard and the token. `None` for other paths.
fn private<B>(
    settings: &AdminSettings,
    sources: &AdminSources,
    request: &Request<B>,
) -> Option<Result<Answer, Problem>> {
    let name = request.uri().path().strip_prefix(PRIVATE)?;
    Some(guard::admit(settings, request).and_then(|()| {
        let answer: fn(&AdminSources) -> Answer = match name {
            "config" => |sources| config((sources.config)()),
            "upstreams" => |sources| json(&(sources.upstreams)()),
            "sessions" => |sources| json(&(sources.sessions)()),
            "streams" => |sources| json(&(sources.streams)()),
            "limits" => |sources| json(&(sources.limits)()),
            _ => return Err(Problem::NotFound),
        };
        only_read(request.method())?;
        Ok(answer(sources))
    }))
}

fn only_read(method: &Method) -> Result<(), Problem> {
    if method == Method::GET || method == Method::HEAD {
        Ok(())
    } else {
        Err(Problem::MethodNotAllowed)
    }
}

fn readyz(sources: &AdminSources) -> Answer {
    match sources.readiness.ready() {
        Ok(()) => plain(StatusCode::OK, "ready\n"),
        Err(reason) => plain(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("not ready: {reason}\n"),
        ),
    }
}

fn config(config: String) -> Answer {
    let content_type = if config.trim_start().starts_with('{') {
        "application/json"
    } else {
        "application/yaml"
    };
    text(StatusCode::OK, content_type, config)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use std::sync::Arc;

    use http::header::{ALLOW, CONTENT_TYPE};
    use serde_json::json;

    use super::*;

    fn sources(ready: Result<(), String>) -> AdminSources {
        AdminSources {
            readiness: Arc::new(move || ready.clone()),
            metrics: Arc::new(|| "up 1\n".to_owned()),
            config: Arc::new(|| "listen: here\n".to_owned()),
            upstreams: Arc::new(|| json!(["tools"])),
            sessions: Arc::new(|| json!([])),
            streams: Arc::new(|| json!([])),
            limits: Arc::new(|| json!([])),
        }
    }

    fn ask(method: Method, path: &str) -> Answer {
        let settings = AdminSettings {
            token: Some("secret".to_owned()),
            ..AdminSettings::default()
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost:9901")
            .header("authorization", "Bearer secret")
            .body(())
            .unwrap();
        answer(&settings, &sources(Err("draining".to_owned())), &request)
    }

    #[test]
    fn each_path_has_its_type() {
        let of = |path| {
            let answer = ask(Method::GET, path);
            (
                answer.status().as_u16(),
                answer.headers()[CONTENT_TYPE].to_str().unwrap().to_owned(),
            )
        };
        let text = "text/plain; charset=utf-8".to_owned();
        assert_eq!(of("/livez"), (200, text.clone()));
        assert_eq!(of("/readyz"), (503, text));
        assert_eq!(of("/metrics"), (200, METRICS_TYPE.to_owned()));
        assert_eq!(of("/admin/v1/config"), (200, "application/yaml".to_owned()));
        assert_eq!(
            of("/admin/v1/upstreams"),
            (200, "application/json".to_owned())
        );
        assert_eq!(of("/admin/v1/limits"), (200, "application/json".to_owned()));
        assert_eq!(
            of("/admin/v1/nothing"),
            (404, "application/problem+json".to_owned())
        );
        assert_eq!(of("/"), (404, "application/problem+json".to_owned()));
    }

    #[test]
    fn only_reading_is_allowed() {
        for path in ["/livez", "/readyz", "/metrics", "/admin/v1/config"] {
            let answer = ask(Method::POST, path);
            assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED);
            assert_eq!(answer.headers()[ALLOW], "GET, HEAD");
        }
        assert_eq!(
            ask(Method::POST, "/nothing").status(),
            StatusCode::NOT_FOUND
        );
        assert_eq!(ask(Method::HEAD, "/livez").status(), StatusCode::OK);
    }
}
