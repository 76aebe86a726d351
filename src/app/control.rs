//! The running proxy as the admin API sees it.

use std::collections::BTreeMap;

use serde_json::json;
use ziggurat_layers::{
    circuit::Forced,
    intercept::{AtLimit, Block, NotDecided, Resolution},
};

use super::App;
use crate::{
    admin::{
        BuildView, Change, ChildView, CircuitState, ConfigView, Decide, Decision, LimitView,
        LogView, Order, OverrideView, PausedView, Proxy, Reason, Refusal, SessionsView,
        StreamsView, UpstreamView, millis,
    },
    config::Source,
    standing::{Kind, Setting, Subject},
};

impl Proxy for App {
    fn ready(&self) -> Result<(), String> {
        if self.stop.is_cancelled() {
            return Err("draining".to_owned());
        }
        if self.current().upstreams.any_usable() {
            Ok(())
        } else {
            Err("no upstream can take a call".to_owned())
        }
    }

    fn metrics(&self) -> String {
        self.current().upstreams.publish();
        self.kept.rates.publish();
        self.metrics.render()
    }

    fn build(&self) -> BuildView {
        BuildView {
            name: env!("CARGO_PKG_NAME").to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            profile: if cfg!(debug_assertions) {
                "debug"
            } else {
                "release"
            }
            .to_owned(),
            pid: std::process::id(),
            uptime_ms: millis(self.started.elapsed()),
        }
    }

    fn upstreams(&self) -> Vec<UpstreamView> {
        let current = self.current();
        current.upstreams.report(&current.standing)
    }

    fn sessions(&self) -> SessionsView {
        SessionsView {
            clients: self.kept.sessions.report(),
            stdio: self.current().upstreams.sessions(),
        }
    }

    fn streams(&self) -> Vec<StreamsView> {
        self.current().upstreams.streams()
    }

    fn children(&self) -> Vec<ChildView> {
        self.current().upstreams.children()
    }

    fn limits(&self) -> Vec<LimitView> {
        self.kept.rates.report()
    }

    fn paused(&self) -> Vec<PausedView> {
        let waiting = self.kept.paused.all().into_iter();
        waiting
            .map(|(exchange, message)| PausedView {
                id: exchange.id,
                route: exchange.route,
                rule: exchange.by,
                request_id: exchange.request_id,
                direction: exchange.direction.as_str().to_owned(),
                method: exchange.method,
                name: exchange.name,
                waited_ms: millis(exchange.waited),
                left_ms: millis(exchange.left),
                then: match exchange.then {
                    AtLimit::Resume => "resume".to_owned(),
                    AtLimit::Block => "block".to_owned(),
                },
                message,
            })
            .collect()
    }

    fn config(&self) -> ConfigView {
        let current = self.current();
        let config = &current.written;
        let origins: BTreeMap<String, String> = config
            .origins
            .all()
            .map(|(path, origin)| (path.to_owned(), origin.to_owned()))
            .collect();
        ConfigView {
            source: match &self.run.source {
                Source::File(path) => path.display().to_string(),
                Source::Quick(_) => "command line".to_owned(),
                Source::Demo(_) => "built in".to_owned(),
            },
            yaml: config.to_yaml(),
            origins,
        }
    }

    fn overrides(&self) -> Vec<OverrideView> {
        let current = self.current();
        current.standing.report(&current.upstreams)
    }

    fn log(&self) -> LogView {
        LogView {
            filter: self.log.filter(),
            default: self.log.default_filter().to_owned(),
        }
    }

    fn act(&self, order: Order, by: &str) -> Result<Change, Refusal> {
        let on = Some(Setting::On);
        let (subject, setting, reason) = match order {
            Order::DrainEndpoint(o) => (of(Kind::Drained, &o.upstream, &o.endpoint), on, o.reason),
            Order::UndrainEndpoint(o) => (of(Kind::Drained, &o.upstream, &o.endpoint), None, None),
            Order::SetWeight(o) => {
                let weight = o.weight.map(|weight| Setting::Weight(weight.get()));
                (of(Kind::Weight, &o.upstream, &o.endpoint), weight, o.reason)
            }
            Order::ForceCircuit(o) => {
                let subject = of(Kind::Circuit, &o.upstream, &o.endpoint);
                (subject, forced(o.state), o.reason)
            }
            Order::ForceToolCircuit(o) => {
                let subject = of(Kind::ToolCircuit, &o.upstream, &o.tool);
                (subject, forced(o.state), o.reason)
            }
            Order::KillUpstream(o) => (of(Kind::Killed, &o.upstream, &""), on, o.reason),
            Order::ReviveUpstream(o) => (of(Kind::Killed, &o.upstream, &""), None, None),
            Order::KillTool(o) => (of(Kind::KilledTool, &o.upstream, &o.tool), on, o.reason),
            Order::ReviveTool(o) => (of(Kind::KilledTool, &o.upstream, &o.tool), None, None),
            Order::EndSession(o) => {
                let route = o.route.as_ref().map(|route| route.as_str());
                return self.kept.sessions.end(o.id.as_str(), route);
            }
            Order::Decide(o) => return self.decide(&o),
            Order::RestartChild(o) => return self.current().upstreams.stop_child(o.pid.get()),
            Order::SetLog(o) => {
                let before = json!(self.log.filter());
                let module = o.module.as_ref().map(|module| module.as_str());
                let done = self.log.set(o.level.word(), module);
                done.map_err(Refusal::Conflict)?;
                let after = json!(self.log.filter());
                return Ok(Change { before, after });
            }
            Order::Drain(_) => {
                let before = json!(self.stop.is_cancelled());
                self.stop.cancel();
                let after = json!(true);
                return Ok(Change { before, after });
            }
        };
        let mut current = self.current();
        let super::Current {
            standing,
            upstreams,
            config,
            ..
        } = &mut *current;
        match setting {
            Some(setting) => standing.set(subject, setting, (reason, by), upstreams, config),
            None => standing.take_back(&subject, upstreams, config),
        }
    }
}

impl App {
    /// Decides about a paused exchange.
    fn decide(&self, order: &Decide) -> Result<Change, Refusal> {
        let words = order.reason.as_ref().map(Reason::as_str);
        let (resolution, after) = match (order.decision, &order.message) {
            (Decision::Resume, None) => (Resolution::Resume, "resumed"),
            (Decision::Resume, Some(message)) => {
                let message = message.as_str().to_owned();
                (
                    Resolution::ResumeWith(message),
                    "resumed with another message",
                )
            }
            (Decision::Block, None) => {
                let message = words.unwrap_or("refused by the operator").to_owned();
                (Resolution::Block(Block { message }), "blocked")
            }
            (Decision::Block, Some(_)) => {
                let why = "what is blocked goes on with no message";
                return Err(Refusal::Conflict(why.to_owned()));
            }
        };
        let number = u64::try_from(order.id.get()).unwrap_or_default();
        let decided = self.kept.paused.decide(number, resolution);
        decided.map_err(|error| match error {
            NotDecided::Gone => Refusal::Unknown(error.to_string()),
            NotDecided::Unfit(_) | NotDecided::Masked => Refusal::Conflict(error.to_string()),
        })?;
        Ok(Change {
            before: json!("paused"),
            after: json!(after),
        })
    }
}

fn of(kind: Kind, upstream: &impl ToString, target: &impl ToString) -> Subject {
    Subject::new(kind, &upstream.to_string(), &target.to_string())
}

fn forced(state: CircuitState) -> Option<Setting> {
    match state {
        CircuitState::Open => Some(Setting::Forced(Forced::Open)),
        CircuitState::Closed => Some(Setting::Forced(Forced::Closed)),
        CircuitState::Auto => None,
    }
}
