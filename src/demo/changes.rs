//! What changes, and who hears of it: legacy sessions as they subscribed, modern streams as they listen.

use bytes::Bytes;
use serde_json::{Map, Value, json};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::call::Desk;
use super::resources;
use super::revision::SUBSCRIPTION_KEY;
use super::rpc::{self, Id, Params, RpcError};

/// How many changes a slow listener may lag behind before it misses the oldest.
const BACKLOG: usize = 256;
const MAX_WATCHED: usize = 64;

/// A change that someone may want to hear of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// The content of a resource.
    Resource(&'static str),
    /// The list of tools, prompts or resources.
    List(List),
}

/// A list of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum List {
    /// `tools/list`
    Tools,
    /// `prompts/list`
    Prompts,
    /// `resources/list`
    Resources,
}

/// Where changes are told.
#[derive(Debug)]
pub(crate) struct Changes(broadcast::Sender<Change>);

/// What a modern listener asked for, less what there is not.
#[derive(Debug, Default)]
pub(crate) struct Filter {
    lists: Vec<List>,
    resources: Vec<String>,
}

// === impl Changes ===

impl Changes {
    /// Nobody listens yet.
    pub(crate) fn new() -> Self {
        Self(broadcast::Sender::new(BACKLOG))
    }

    /// Tells all who listen now.
    pub(crate) fn tell(&self, change: Change) {
        // An error means that nobody listens.
        drop(self.0.send(change));
    }

    /// How many listen.
    #[cfg(test)]
    pub(crate) fn listeners(&self) -> usize {
        self.0.receiver_count()
    }

    /// Listens from now on.
    pub(crate) fn listen(&self) -> Hearing {
        Hearing(self.0.subscribe())
    }
}

/// One listener.
#[derive(Debug)]
pub(crate) struct Hearing(broadcast::Receiver<Change>);

// === impl Hearing ===

impl Hearing {
    /// The next change; waits for ever once nothing can change any more.
    pub(crate) async fn next(&mut self) -> Change {
        loop {
            match self.0.recv().await {
                Ok(change) => return change,
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => std::future::pending().await,
            }
        }
    }
}

// === impl Change ===

impl Change {
    /// The notification, tagged with the modern subscription that it is for.
    pub(crate) fn notification(self, subscription: Option<&Id>) -> Bytes {
        let mut params = match self {
            Self::Resource(uri) => json!({"uri": uri}),
            Self::List(_) => json!({}),
        };
        if let Some(id) = subscription {
            params["_meta"] = json!({SUBSCRIPTION_KEY: id.value()});
        }
        rpc::notification(self.method(), &params)
    }

    fn method(self) -> &'static str {
        match self {
            Self::Resource(_) => "notifications/resources/updated",
            Self::List(List::Tools) => "notifications/tools/list_changed",
            Self::List(List::Prompts) => "notifications/prompts/list_changed",
            Self::List(List::Resources) => "notifications/resources/list_changed",
        }
    }
}

// === impl List ===

impl List {
    const ALL: [(Self, &'static str); 3] = [
        (Self::Tools, "toolsListChanged"),
        (Self::Prompts, "promptsListChanged"),
        (Self::Resources, "resourcesListChanged"),
    ];
}

// === impl Filter ===

impl Filter {
    /// Reads the parameters of `subscriptions/listen`.
    pub(crate) fn read(params: &Params) -> Result<Self, RpcError> {
        let asked = params
            .get("notifications")
            .and_then(Value::as_object)
            .ok_or_else(|| RpcError::invalid_params("params.notifications is not an object"))?;
        let on = |key: &str| asked.get(key).and_then(Value::as_bool).unwrap_or(false);
        let lists = List::ALL.into_iter().filter(|(_, key)| on(key));
        let resources = asked.get("resourceSubscriptions").and_then(Value::as_array);
        let resources = resources.into_iter().flatten().filter_map(Value::as_str);
        Ok(Self {
            lists: lists.map(|(list, _)| list).collect(),
            resources: resources
                .filter(|uri| resources::exists(uri))
                .take(MAX_WATCHED)
                .map(str::to_owned)
                .collect(),
        })
    }

    fn wants(&self, change: Change) -> bool {
        match change {
            Change::Resource(uri) => self.resources.iter().any(|wanted| wanted == uri),
            Change::List(list) => self.lists.contains(&list),
        }
    }

    fn acknowledgement(&self, id: &Id) -> Bytes {
        let mut honoured = Map::new();
        for (list, key) in List::ALL {
            if self.lists.contains(&list) {
                honoured.insert(key.to_owned(), json!(true));
            }
        }
        if !self.resources.is_empty() {
            honoured.insert("resourceSubscriptions".to_owned(), json!(self.resources));
        }
        rpc::notification(
            "notifications/subscriptions/acknowledged",
            &json!({"_meta": {SUBSCRIPTION_KEY: id.value()}, "notifications": honoured}),
        )
    }

    /// Listens until the client goes away, or the server closes: then there is a result.
    pub(crate) async fn run(&self, desk: &Desk) -> Value {
        let mut hearing = desk.engine.changes().listen();
        desk.outlet.send(self.acknowledgement(&desk.id)).await;
        loop {
            tokio::select! {
                change = hearing.next() => {
                    if self.wants(change) {
                        desk.outlet.send(change.notification(Some(&desk.id))).await;
                    }
                }
                () = desk.engine.closing().cancelled() => {
                    return json!({"_meta": {SUBSCRIPTION_KEY: desk.id.value()}});
                }
            }
        }
    }
}
