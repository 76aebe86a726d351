//! `Mcp-Param-*`: in front of a modern stdio server the proxy is the HTTP server, so it checks the headers that mirror arguments.
//!
//! Which arguments have headers stands in the tools' schemas (`x-mcp-header`); they are learnt from `tools/list` when first needed, and
//! again after a minute, or when a check fails. Rules: revision 2026-07-28, Streamable HTTP, "Custom Headers from Tool
//! Parameters" and "Server Validation".

use std::{borrow::Cow, collections::HashMap, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::Instant;

use super::{
    error::StdioError,
    message,
    pool::{Modern, Pool},
};
use crate::{
    error::BoxError,
    mcp::{
        CLIENT, MODERN_VERSION,
        headers::{self, HeaderMismatch, PARAM_PREFIX},
    },
};

/// The annotated arguments of a server's tools.
#[derive(Debug, Default)]
pub(super) struct Schemas {
    known: tokio::sync::Mutex<Option<Known>>,
}

#[derive(Debug, Clone)]
struct Known {
    tools: Arc<HashMap<String, Vec<Param>>>,
    learnt: Instant,
}

/// An argument that has a header.
#[derive(Debug, PartialEq, Eq)]
struct Param {
    header: HeaderName,
    path: Vec<String>,
}

/// How long what was learnt is taken for current.
const CURRENT: Duration = Duration::from_secs(60);
/// The most pages of a tool list that are read.
const PAGES: usize = 100;
/// The most tools with such arguments that are kept.
const TOOLS: usize = 10_000;
/// How long a server may take to list its tools; then calls go on without.
const LIST: Duration = Duration::from_secs(10);

/// The `_meta` of a request of the proxy's own, as `params`.
pub(super) fn meta() -> String {
    format!(r#"{{{}}}"#, meta_member())
}

fn meta_member() -> String {
    format!(
        r#""_meta":{{"io.modelcontextprotocol/protocolVersion":"{MODERN_VERSION}","io.modelcontextprotocol/clientInfo":{CLIENT},"io.modelcontextprotocol/clientCapabilities":{{}}}}"#
    )
}

/// Checks the headers of a `tools/call` against its arguments.
pub(super) async fn check(
    pool: &Pool,
    modern: &Modern,
    tool: &str,
    request: &str,
    headers: &HeaderMap,
) -> Result<(), BoxError> {
    let known = learn(pool, modern, None).await?;
    let Some(params) = known.tools.get(tool) else {
        return Ok(());
    };
    let arguments = arguments(request);
    let Err(first) = compare(params, &arguments, headers) else {
        return Ok(());
    };
    // The tool may have changed since.
    let known = learn(pool, modern, Some(known.learnt)).await?;
    match known.tools.get(tool) {
        Some(params) => compare(params, &arguments, headers).map_err(Into::into),
        None => Err(first.into()),
    }
}

/// What is known, learnt anew if it is not current, or not newer than `newer`.
async fn learn(pool: &Pool, modern: &Modern, newer: Option<Instant>) -> Result<Known, StdioError> {
    let mut slot = modern.schemas.known.lock().await;
    if let Some(known) = &*slot {
        let current = match newer {
            None => known.learnt.elapsed() < CURRENT,
            Some(than) => known.learnt > than,
        };
        if current {
            return Ok(known.clone());
        }
    }
    let limit = pool.settings().handshake.min(LIST);
    let tools = match tokio::time::timeout(limit, list(pool, modern, limit)).await {
        Ok(Ok(tools)) => Arc::new(tools),
        Ok(Err(error @ StdioError::Gone { .. })) => return Err(error.unsent()),
        // It is busy, or does not say: no call waits for that. What was known stands.
        Ok(Err(_)) | Err(_) => slot.take().map(|known| known.tools).unwrap_or_default(),
    };
    let known = Known {
        tools,
        learnt: Instant::now(),
    };
    *slot = Some(known.clone());
    Ok(known)
}

async fn list(
    pool: &Pool,
    modern: &Modern,
    limit: Duration,
) -> Result<HashMap<String, Vec<Param>>, StdioError> {
    #[derive(Deserialize)]
    struct Page {
        #[serde(default)]
        tools: Vec<Tool>,
        #[serde(rename = "nextCursor")]
        next: Option<String>,
    }
    #[derive(Deserialize)]
    struct Tool {
        name: String,
        #[serde(rename = "inputSchema", default)]
        schema: Value,
    }
    let mut tools = HashMap::new();
    let mut cursor = None;
    for _ in 0..PAGES {
        let cursor_member = cursor.as_ref().map_or_else(String::new, |cursor: &String| {
            format!(r#""cursor":{},"#, Value::from(cursor.as_str()))
        });
        let request = format!(
            r#"{{"jsonrpc":"2.0","id":0,"method":"tools/list","params":{{{cursor_member}{}}}}}"#,
            meta_member()
        );
        let answer = pool.ask(&modern.child, request, limit).await?;
        let text = answer.message.into_parts().concat();
        let page = std::str::from_utf8(&text)
            .ok()
            .and_then(message::result)
            .and_then(|result| serde_json::from_str::<Page>(result).ok());
        // A server without tools has none with headers.
        let Some(page) = page else { break };
        for tool in page.tools {
            let mut params = Vec::new();
            collect(&tool.schema, &mut Vec::new(), &mut params);
            if !params.is_empty() && tools.len() < TOOLS {
                tools.insert(tool.name, params);
            }
        }
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    Ok(tools)
}

/// Finds annotated properties; only those that can be reached through `properties` alone count.
fn collect(schema: &Value, path: &mut Vec<String>, params: &mut Vec<Param>) {
    const DEEPEST: usize = 16;
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else {
        return;
    };
    for (name, property) in properties {
        path.push(name.clone());
        if let Some(header) = property.get("x-mcp-header").and_then(Value::as_str) {
            let header = format!("{PARAM_PREFIX}{}", header.to_ascii_lowercase());
            if let Ok(header) = HeaderName::try_from(header) {
                params.push(Param {
                    header,
                    path: path.clone(),
                });
            }
        }
        if path.len() < DEEPEST {
            collect(property, path, params);
        }
        path.pop();
    }
}

fn arguments(request: &str) -> Value {
    #[derive(Deserialize)]
    struct Request {
        params: Params,
    }
    #[derive(Deserialize)]
    struct Params {
        #[serde(default)]
        arguments: Value,
    }
    serde_json::from_str::<Request>(request).map_or(Value::Null, |r| r.params.arguments)
}

fn compare(params: &[Param], arguments: &Value, headers: &HeaderMap) -> Result<(), HeaderMismatch> {
    for param in params {
        let value = param
            .path
            .iter()
            .try_fold(arguments, |value, key| value.get(key));
        let wrong = |problem| {
            let name = param
                .header
                .as_str()
                .strip_prefix(PARAM_PREFIX)
                .unwrap_or_default();
            Err(HeaderMismatch {
                header: Cow::Owned(format!("Mcp-Param-{name}")),
                problem,
            })
        };
        let mut sent = headers.get_all(&param.header).iter();
        match (value.filter(|v| !v.is_null()), sent.next(), sent.next()) {
            (_, Some(_), Some(_)) => return wrong("stands twice"),
            (None, None, _) => {}
            (None, Some(_), _) => return wrong("mirrors an argument that is absent"),
            (Some(_), None, _) => return wrong("is missing"),
            (Some(value), Some(sent), None) => match headers::decode(sent) {
                None => return wrong("is not validly encoded"),
                Some(text) if !headers::mirrors(value, &text) => {
                    return wrong("does not match the body");
                }
                Some(_) => {}
            },
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn params() -> Vec<Param> {
        let schema = json!({"properties": {
            "region": {"type": "string", "x-mcp-header": "Region"},
            "deep": {"properties": {"count": {"type": "integer", "x-mcp-header": "Count"}}},
            "list": {"items": {"properties": {"no": {"x-mcp-header": "No"}}}},
        }});
        let mut params = Vec::new();
        collect(&schema, &mut Vec::new(), &mut params);
        params
    }

    fn sent(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(n, v)| {
                (
                    HeaderName::from_static(n),
                    http::HeaderValue::from_static(v),
                )
            })
            .collect()
    }

    #[test]
    fn headers_mirror_the_arguments() {
        let arguments = json!({"region": "é", "deep": {"count": 42}});
        let region = ("mcp-param-region", "=?base64?w6k=?=");
        assert_eq!(params().len(), 2);
        assert_eq!(
            compare(
                &params(),
                &arguments,
                &sent(&[region, ("mcp-param-count", "42.0")])
            ),
            Ok(())
        );
        assert_eq!(
            compare(&params(), &json!({"region": null}), &sent(&[])),
            Ok(())
        );
        for wrong in [
            sent(&[region]),
            sent(&[region, ("mcp-param-count", "43")]),
            sent(&[("mcp-param-region", "e"), ("mcp-param-count", "42")]),
        ] {
            assert!(compare(&params(), &arguments, &wrong).is_err());
        }
        assert!(compare(&params(), &json!({}), &sent(&[region])).is_err());
    }
}
