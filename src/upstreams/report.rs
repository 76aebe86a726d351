//! What the admin API says of an endpoint.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tokio::time::Instant;
use ziggurat_layers::{
    balance::EndpointView,
    circuit::{CircuitReport, Forced},
    gate::Look,
    health::{HealthReport, outlier::OutlierReport},
};

use super::{Core, CoreService};
use crate::admin::millis;

impl Core {
    /// How it stands.
    pub(super) fn report(&self) -> Value {
        let EndpointView {
            name,
            weight,
            priority,
            look,
            calls,
            streams,
            time,
            failures,
            cost,
        } = self.endpoint.view();
        let (state, until) = match look {
            Look::Open => ("open", None),
            Look::Busy => ("busy", None),
            Look::Held { reason, until } => (reason.as_str(), until),
        };
        let until = until.map(|at| millis(at.saturating_duration_since(Instant::now())));
        let mut report = json!({
            "name": &*name,
            "usable": self.is_usable(),
            "state": state,
            "held_for_ms": until,
            "weight": weight,
            "priority": priority,
            "calls": calls,
            "open_streams": streams,
            "head_ms": time.map(millis),
            "failures": failures,
            "cost": cost,
            "circuit": self.circuit.look().as_ref().map(circuit),
            "health": self.health.look().as_ref().map(health),
            "outlier": self.outlier.look().as_ref().map(outlier),
        });
        let kind = match &self.service {
            CoreService::Http(_) => json!({ "kind": "http" }),
            CoreService::Stdio(stdio) => {
                let report = stdio.report();
                json!({
                    "kind": "stdio",
                    "children": report.children,
                    "states": report.states.into_iter().collect::<BTreeMap<_, _>>(),
                    "sessions": report.sessions,
                    "pending": report.pending,
                    "backoff_ms": report.backoff.map(millis),
                })
            }
        };
        if let (Value::Object(report), Value::Object(kind)) = (&mut report, kind) {
            report.extend(kind);
        }
        report
    }
}

/// How a breaker stands.
pub(super) fn circuit(report: &CircuitReport) -> Value {
    json!({
        "state": report.state.as_str(),
        "forced": report.forced.map(|forced| match forced {
            Forced::Open => "open",
            Forced::Closed => "closed",
        }),
        "calls": report.calls,
        "failures": report.failures,
        "slow": report.slow,
        "openings": report.openings,
        "retry_after_ms": report.retry_after.map(millis),
    })
}

fn health(report: &HealthReport) -> Value {
    json!({
        "state": report.state.as_str(),
        "asleep": report.asleep,
        "last": report.last.map(|last| json!({
            "ago_ms": millis(last.ago),
            "took_ms": millis(last.took),
            "result": last.result.as_str(),
        })),
        "error": report.error.as_deref(),
        "successes": report.successes,
        "failures": report.failures,
    })
}

fn outlier(report: &OutlierReport) -> Value {
    json!({
        "ejected_for_ms": report.ejected.map(millis),
        "ejections": report.ejections,
        "calls": report.calls,
        "failures": report.failures,
        "consecutive": report.consecutive,
    })
}
