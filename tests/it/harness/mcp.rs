//! A client of each era.

use serde_json::{Value, json};

use super::client::{Answer, Target};

pub(crate) const LEGACY: &str = "2025-11-25";
pub(crate) const MODERN: &str = "2026-07-28";

/// A legacy session.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub(crate) target: Target,
    pub(crate) path: String,
    pub(crate) id: String,
    pub(crate) version: String,
}

/// The parameters of a tool call.
pub(crate) fn call(tool: &str, arguments: Value) -> Value {
    json!({"name": tool, "arguments": arguments})
}

/// A request.
pub(crate) fn request(id: &Value, method: &str, params: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
}

/// An `initialize` of a client that can be asked anything.
pub(crate) fn initialize(version: &str) -> Value {
    request(
        &json!("init"),
        "initialize",
        &json!({
            "protocolVersion": version,
            "capabilities": {"elicitation": {}, "sampling": {}, "roots": {}},
            "clientInfo": {"name": "it", "version": "0"},
        }),
    )
}

/// The text of a tool's result.
pub(crate) fn text(answer: &Value) -> &str {
    answer["result"]["content"][0]["text"]
        .as_str()
        .unwrap_or_else(|| panic!("no text in {answer}"))
}

// === impl Target ===

impl Target {
    /// Opens a legacy session.
    pub(crate) async fn session(&self) -> Session {
        self.session_at(self.path, LEGACY).await
    }

    pub(crate) async fn session_at(&self, path: &str, version: &str) -> Session {
        let answer = self.post(path, &[], initialize(version).to_string()).await;
        assert_eq!(answer.status, 200);
        let id = answer.header("mcp-session-id").to_owned();
        let result = answer.last().await;
        let version = result["result"]["protocolVersion"].as_str();
        let session = Session {
            target: self.clone(),
            path: path.to_owned(),
            id,
            version: version.unwrap_or_else(|| panic!("{result}")).to_owned(),
        };
        let ready = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        assert_eq!(session.post(&ready).await.status, 202);
        session
    }

    /// What asks a server that keeps no sessions.
    pub(crate) fn stateless(&self, path: &str) -> Session {
        Session {
            target: self.clone(),
            path: path.to_owned(),
            id: String::new(),
            version: LEGACY.to_owned(),
        }
    }

    /// Sends a modern request, with all that belongs to it.
    pub(crate) async fn modern(&self, id: impl Into<Value>, method: &str, params: Value) -> Answer {
        self.modern_with(id, method, params, &[]).await
    }

    /// The same, with more headers.
    pub(crate) async fn modern_with(
        &self,
        id: impl Into<Value>,
        method: &str,
        params: Value,
        headers: &[(&str, &str)],
    ) -> Answer {
        let body = request(&id.into(), method, &modern_params(params));
        let name = body["params"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let mut all = vec![("mcp-protocol-version", MODERN), ("mcp-method", method)];
        if !name.is_empty() {
            all.push(("mcp-name", &name));
        }
        all.extend_from_slice(headers);
        self.post(self.path, &all, body.to_string()).await
    }

    /// Calls a tool in the modern era.
    pub(crate) async fn modern_call(
        &self,
        id: impl Into<Value>,
        tool: &str,
        arguments: Value,
    ) -> Answer {
        self.modern(id, "tools/call", call(tool, arguments)).await
    }
}

/// Parameters with what each modern request says of its client.
pub(crate) fn modern_params(mut params: Value) -> Value {
    let meta = &mut params["_meta"];
    meta["io.modelcontextprotocol/protocolVersion"] = json!(MODERN);
    meta["io.modelcontextprotocol/clientInfo"] = json!({"name": "it", "version": "0"});
    meta["io.modelcontextprotocol/clientCapabilities"] = json!({"elicitation": {}});
    params
}

// === impl Session ===

impl Session {
    fn headers(&self) -> Vec<(&str, &str)> {
        let mut headers = vec![("mcp-protocol-version", &*self.version)];
        if !self.id.is_empty() {
            headers.push(("mcp-session-id", &*self.id));
        }
        headers
    }

    /// The same session, through another route.
    pub(crate) fn at(&self, path: &str) -> Self {
        Self {
            path: path.to_owned(),
            ..self.clone()
        }
    }

    /// Posts a message.
    pub(crate) async fn post(&self, message: &Value) -> Answer {
        self.target
            .post(&self.path, &self.headers(), message.to_string())
            .await
    }

    /// Sends a request.
    pub(crate) async fn ask(&self, id: impl Into<Value>, method: &str, params: Value) -> Answer {
        self.post(&request(&id.into(), method, &params)).await
    }

    /// Calls a tool.
    pub(crate) async fn call(&self, id: impl Into<Value>, tool: &str, arguments: Value) -> Answer {
        self.ask(id, "tools/call", call(tool, arguments)).await
    }

    /// Calls a tool with a progress token.
    pub(crate) async fn call_with_token(
        &self,
        id: impl Into<Value>,
        token: impl Into<Value>,
        tool: &str,
        arguments: Value,
    ) -> Answer {
        let mut params = call(tool, arguments);
        params["_meta"] = json!({"progressToken": token.into()});
        self.ask(id, "tools/call", params).await
    }

    /// Begins a call that says something again and again, for an hour and more.
    pub(crate) async fn endless(&self, id: impl Into<Value>) -> Answer {
        let arguments = json!({"steps": 100_000, "interval_ms": 50});
        self.call_with_token(id, "endless", "progress", arguments)
            .await
    }

    /// Tells something.
    pub(crate) async fn tell(&self, method: &str, params: Value) {
        let message = json!({"jsonrpc": "2.0", "method": method, "params": params});
        assert_eq!(self.post(&message).await.status, 202);
    }

    /// Opens the GET stream.
    pub(crate) async fn stream(&self) -> Answer {
        let mut headers = self.headers();
        headers.push(("accept", "text/event-stream"));
        self.target.request("GET", &self.path, &headers, "").await
    }

    /// Comes back to the stream of this event.
    pub(crate) async fn resume(&self, id: &str) -> Answer {
        let mut headers = self.headers();
        headers.push(("accept", "text/event-stream"));
        headers.push(("last-event-id", id));
        self.target.request("GET", &self.path, &headers, "").await
    }

    /// Ends it.
    pub(crate) async fn delete(&self) -> Answer {
        self.target
            .request("DELETE", &self.path, &self.headers(), "")
            .await
    }
}
