//! What the operator set and has not taken back: it stands above the config, and outlives each reload of it, but not the process.
//!
//! A reload builds new upstreams, or gives old ones their settings anew; [`Standing::enforce`] then puts in force again what the operator set, before a balancer
//! sees a new endpoint. What names an upstream or an endpoint that the config has no more stays, without effect, until it is taken back or the name
//! is there again: an endpoint that was drained for a reason must not come back by an edit of the file.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tokio::time::Instant;
use ziggurat_layers::{circuit::Forced, gate::Reason as Holds, pattern::Pattern};

use crate::{
    admin::{Change, OverrideView, Reason, Refusal, millis},
    config::Config,
    upstreams::{Core, Pool, Upstreams},
};

/// What the operator set.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    entries: BTreeMap<Subject, Entry>,
}

/// What something was set of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Subject {
    kind: Kind,
    upstream: String,
    /// The endpoint or the tool; empty where it is about the whole upstream.
    target: String,
}

/// What can be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// An endpoint takes no calls.
    Drained,
    /// The share of an endpoint.
    Weight,
    /// The breaker of an endpoint.
    Circuit,
    /// The breaker of a tool.
    ToolCircuit,
    /// An upstream takes no calls.
    Killed,
    /// A tool takes no calls.
    KilledTool,
}

/// What it was set to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Setting {
    /// It holds.
    On,
    /// A share of traffic.
    Weight(u32),
    /// A state of a breaker.
    Forced(Forced),
}

#[derive(Debug)]
struct Entry {
    setting: Setting,
    reason: Option<Reason>,
    by: String,
    since: Instant,
}

/// The most that may be set at a time.
const MOST: usize = 1000;

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Drained => "drained",
            Self::Weight => "weight",
            Self::Circuit => "circuit",
            Self::ToolCircuit => "tool_circuit",
            Self::Killed => "killed",
            Self::KilledTool => "killed_tool",
        }
    }

    /// How it is where the operator set nothing.
    fn unset(self) -> Value {
        match self {
            Self::Drained | Self::Killed | Self::KilledTool => json!(false),
            Self::Circuit | Self::ToolCircuit => json!("auto"),
            Self::Weight => json!("config"),
        }
    }
}

impl Setting {
    fn view(self) -> Value {
        match self {
            Self::On => json!(true),
            Self::Weight(weight) => json!(weight),
            Self::Forced(Forced::Open) => json!("open"),
            Self::Forced(Forced::Closed) => json!("closed"),
        }
    }
}

impl Subject {
    pub(crate) fn new(kind: Kind, upstream: &str, target: &str) -> Self {
        Self {
            kind,
            upstream: upstream.to_owned(),
            target: target.to_owned(),
        }
    }
}

impl Standing {
    /// Sets something.
    ///
    /// # Errors
    /// When the config has no such thing, or it cannot be set as things are; then nothing has changed.
    pub(crate) fn set(
        &mut self,
        subject: Subject,
        setting: Setting,
        (reason, by): (Option<Reason>, &str),
        upstreams: &Upstreams,
        config: &Config,
    ) -> Result<Change, Refusal> {
        if self.entries.len() >= MOST && !self.entries.contains_key(&subject) {
            let why = format!("{MOST} things are set already; take some of them back first");
            return Err(Refusal::Conflict(why));
        }
        let before = self.view_of(&subject);
        let entry = Entry {
            setting,
            reason,
            by: by.to_owned(),
            since: Instant::now(),
        };
        let old = self.entries.insert(subject.clone(), entry);
        if let Err(refusal) = self.put(&subject, upstreams, config) {
            match old {
                Some(old) => self.entries.insert(subject, old),
                None => self.entries.remove(&subject),
            };
            return Err(refusal);
        }
        Ok(Change {
            before,
            after: setting.view(),
        })
    }

    /// Takes something back; also what is not in force now.
    ///
    /// # Errors
    /// When it was not set, and the config has no such thing.
    pub(crate) fn take_back(
        &mut self,
        subject: &Subject,
        upstreams: &Upstreams,
        config: &Config,
    ) -> Result<Change, Refusal> {
        let before = self.view_of(subject);
        let known = self.entries.remove(subject).is_some();
        match self.put(subject, upstreams, config) {
            Err(refusal) if !known => return Err(refusal),
            Ok(()) | Err(_) => {}
        }
        Ok(Change {
            before,
            after: subject.kind.unset(),
        })
    }

    /// Puts all in force, after a reload.
    pub(crate) fn enforce(&self, upstreams: &Upstreams, config: &Config) {
        for subject in self.entries.keys() {
            if let Err(why) = self.put(subject, upstreams, config) {
                tracing::warn!(
                    kind = subject.kind.as_str(),
                    upstream = subject.upstream,
                    target = subject.target,
                    %why,
                    "what the operator set has no effect under this config"
                );
            }
        }
    }

    /// What is set, for the admin API.
    pub(crate) fn report(&self, upstreams: &Upstreams) -> Vec<OverrideView> {
        let entries = self.entries.iter();
        entries
            .map(|(subject, entry)| OverrideView {
                kind: subject.kind.as_str().to_owned(),
                upstream: subject.upstream.clone(),
                target: (!subject.target.is_empty()).then(|| subject.target.clone()),
                value: entry.setting.view(),
                in_force: is_in_force(subject, entry.setting, upstreams),
                reason: entry.reason.as_ref().map(ToString::to_string),
                by: entry.by.clone(),
                age_ms: millis(entry.since.elapsed()),
            })
            .collect()
    }

    /// The tools of an upstream that are switched off.
    pub(crate) fn killed_tools(&self, upstream: &str) -> Vec<&str> {
        let keys = self.entries.keys();
        keys.filter(|s| s.kind == Kind::KilledTool && s.upstream == upstream)
            .map(|s| &*s.target)
            .collect()
    }

    /// The weight that the operator gave an endpoint.
    pub(crate) fn weight(&self, upstream: &str, endpoint: &str) -> Option<u32> {
        let subject = Subject::new(Kind::Weight, upstream, endpoint);
        match self.entries.get(&subject)?.setting {
            Setting::Weight(weight) => Some(weight),
            Setting::On | Setting::Forced(_) => None,
        }
    }

    fn view_of(&self, subject: &Subject) -> Value {
        let entry = self.entries.get(subject);
        entry.map_or_else(|| subject.kind.unset(), |entry| entry.setting.view())
    }

    /// Makes the running upstreams as this subject stands here: set, or not.
    fn put(
        &self,
        subject: &Subject,
        upstreams: &Upstreams,
        config: &Config,
    ) -> Result<(), Refusal> {
        let Subject {
            kind,
            upstream,
            target,
        } = subject;
        let setting = self.entries.get(subject).map(|entry| entry.setting);
        let forced = match setting {
            Some(Setting::Forced(forced)) => Some(forced),
            _ => None,
        };
        let pool = pool(upstreams, upstream)?;
        match kind {
            Kind::Drained => {
                let gate = core(pool, upstream, target)?.endpoint.gate();
                match setting {
                    Some(_) => gate.shut(Holds::Operator, None),
                    None => gate.open(Holds::Operator),
                }
            }
            Kind::Weight => {
                let core = core(pool, upstream, target)?;
                let weight = match setting {
                    Some(Setting::Weight(weight)) => Some(weight),
                    _ => configured(config, upstream, target),
                };
                if let Some(weight) = weight {
                    core.endpoint.set_weight(weight);
                }
            }
            Kind::Circuit => {
                let there = core(pool, upstream, target)?.circuit.force(forced);
                breaker(there || setting.is_none())?;
            }
            Kind::ToolCircuit => {
                let there = pool.tools.force(target, forced);
                breaker(there || setting.is_none())?;
            }
            Kind::Killed => pool.switches.set_upstream(setting.is_some()),
            Kind::KilledTool => {
                let off = self.killed_tools(upstream).into_iter();
                pool.switches.set_tools(off.map(Pattern::new).collect());
            }
        }
        Ok(())
    }
}

fn is_in_force(subject: &Subject, setting: Setting, upstreams: &Upstreams) -> bool {
    let Ok(pool) = pool(upstreams, &subject.upstream) else {
        return false;
    };
    let core = core(pool, &subject.upstream, &subject.target).ok();
    let forced = |report: Option<Forced>| report.map(Setting::Forced) == Some(setting);
    match subject.kind {
        Kind::Drained => core.is_some_and(|core| core.endpoint.gate().is_shut_by(Holds::Operator)),
        Kind::Weight => core.is_some_and(|core| Setting::Weight(core.endpoint.weight()) == setting),
        Kind::Circuit => core
            .and_then(|core| core.circuit.look())
            .is_some_and(|report| forced(report.forced)),
        Kind::ToolCircuit => {
            let mut tools = pool.tools.look().into_iter();
            tools.any(|(tool, report)| *tool == *subject.target && forced(report.forced))
        }
        Kind::Killed => pool.switches.is_off(),
        Kind::KilledTool => true,
    }
}

fn pool<'a>(upstreams: &'a Upstreams, name: &str) -> Result<&'a Pool, Refusal> {
    let found = upstreams.get(name);
    found.ok_or_else(|| Refusal::Unknown(format!("there is no upstream `{name}`")))
}

fn core<'a>(pool: &'a Pool, upstream: &str, name: &str) -> Result<&'a Core, Refusal> {
    let found = pool.cores.iter().find(|c| &**c.endpoint.name() == name);
    found.ok_or_else(|| {
        Refusal::Unknown(format!(
            "the upstream `{upstream}` has no endpoint `{name}`"
        ))
    })
}

fn breaker(there: bool) -> Result<(), Refusal> {
    if there {
        Ok(())
    } else {
        let why = "the config has that breaker off, so there is none to force";
        Err(Refusal::Conflict(why.to_owned()))
    }
}

/// The weight that the config gives an endpoint.
fn configured(config: &Config, upstream: &str, endpoint: &str) -> Option<u32> {
    let upstream = config.upstreams.iter().find(|u| u.name == upstream)?;
    let replica = upstream.endpoints.iter().find(|r| r.name == endpoint)?;
    Some(replica.weight)
}
