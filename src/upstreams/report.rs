//! What the admin API says of an endpoint.

use tokio::time::Instant;
use ziggurat_layers::{
    balance,
    circuit::{CircuitReport, Forced},
    gate::{Look, Reason},
    health::{HealthReport, outlier::OutlierReport},
    upstream::stdio::Report as StdioReport,
};

use super::{Core, CoreService};
use crate::admin::{CircuitView, EndpointView, HealthView, OutlierView, ProbeView, millis};

impl Core {
    /// How it stands.
    pub(super) fn report(&self) -> EndpointView {
        let balance::EndpointView {
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
        let stdio = match &self.service {
            CoreService::Http(_) => None,
            CoreService::Stdio(stdio) => Some(stdio.report()),
        };
        EndpointView {
            name: name.to_string(),
            kind: if stdio.is_some() { "stdio" } else { "http" }.to_owned(),
            usable: self.is_usable(),
            state: state.to_owned(),
            held_for_ms: until.map(|at| millis(at.saturating_duration_since(Instant::now()))),
            drained: self.endpoint.gate().is_shut_by(Reason::Operator),
            weight,
            priority,
            calls,
            open_streams: streams,
            head_ms: time.map(millis),
            failures,
            cost,
            circuit: self.circuit.look().as_ref().map(circuit),
            health: self.health.look().as_ref().map(health),
            outlier: self.outlier.look().as_ref().map(outlier),
            children: stdio.as_ref().map(StdioReport::pids),
            states: stdio.as_ref().map(|report| {
                let states = report.states.iter();
                states
                    .map(|(state, count)| ((*state).to_owned(), *count as u64))
                    .collect()
            }),
            sessions: stdio.as_ref().map(|report| report.sessions as u64),
            pending: stdio.as_ref().map(|report| report.pending as u64),
            started: stdio.as_ref().map(|report| report.started),
            backoff_ms: stdio.and_then(|report| report.backoff).map(millis),
        }
    }
}

/// How a breaker stands.
pub(super) fn circuit(report: &CircuitReport) -> CircuitView {
    CircuitView {
        state: report.state.as_str().to_owned(),
        forced: report.forced.map(|forced| {
            match forced {
                Forced::Open => "open",
                Forced::Closed => "closed",
            }
            .to_owned()
        }),
        calls: report.calls,
        failures: report.failures,
        slow: report.slow,
        openings: report.openings,
        retry_after_ms: report.retry_after.map(millis),
    }
}

fn health(report: &HealthReport) -> HealthView {
    HealthView {
        state: report.state.as_str().to_owned(),
        asleep: report.asleep,
        last: report.last.map(|last| ProbeView {
            ago_ms: millis(last.ago),
            took_ms: millis(last.took),
            result: last.result.as_str().to_owned(),
        }),
        error: report.error.as_deref().map(str::to_owned),
        successes: report.successes,
        failures: report.failures,
    }
}

fn outlier(report: &OutlierReport) -> OutlierView {
    OutlierView {
        ejected_for_ms: report.ejected.map(millis),
        ejections: report.ejections,
        calls: report.calls,
        failures: report.failures,
        consecutive: report.consecutive,
    }
}
