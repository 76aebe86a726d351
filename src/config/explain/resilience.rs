//! The way back for balancing, breakers, probes and retries.

use http::StatusCode;
use ziggurat_layers::balance::{BalanceSettings, HashKey, Policy};
use ziggurat_layers::circuit::{CircuitSettings, Window};
use ziggurat_layers::health::outlier::OutlierSettings;
use ziggurat_layers::resume::ResumeSettings;
use ziggurat_layers::retry::RetrySettings;
use ziggurat_layers::share::Share;

use super::{Section, Tree, duration, size};
use crate::config::{Choice, Health, ProbeKind};

pub(super) fn balance(section: &mut Section<'_>, settings: &BalanceSettings) {
    section.word("policy", Choice::of(&settings.policy));
    if let Policy::Hash(key) = &settings.policy {
        section.text(
            "key",
            &match key {
                HashKey::Session => "session".to_owned(),
                HashKey::Header(name) => format!("header:{name}"),
                HashKey::Pointer(pointer) => pointer.to_string(),
            },
        );
    }
    section.bare("forced", percent(settings.forced));
    section.clock("slow_start", settings.slow_start);
    section.bare("panic", percent(settings.panic));
    section.bare_or_off("queue", Some(settings.queue).filter(|queue| *queue > 0));
    section.clock("queue_time", settings.queue_time);
}

pub(super) fn circuit(section: &mut Section<'_>, key: &str, settings: Option<&CircuitSettings>) {
    let Some(settings) = settings else {
        return section.bare(key, "off");
    };
    section.section(key, |section| {
        section.bare_or_off("failure_rate", settings.failure_rate.map(percent));
        if let Some(slow) = settings.slow {
            section.clock("slow_call", slow.call);
            section.bare("slow_rate", percent(slow.rate));
        }
        section.bare(
            "window",
            match settings.window {
                Window::Time(time) => duration(time),
                Window::Calls(calls) => format!("{calls} calls"),
            },
        );
        section.bare("min_calls", settings.min_calls);
        section.bare_or_off("consecutive", settings.consecutive);
        section.clock("open", settings.open);
        section.clock("open_max", settings.open_max);
        section.bare("probes", settings.probes);
        section.bare("successes", settings.successes);
        section.bare("rpc_errors", settings.judge.rpc_errors);
        section.bare("tool_errors", settings.judge.tool_errors);
    });
}

pub(super) fn health(section: &mut Section<'_>, health: Option<&Health>) {
    let Some(health) = health else {
        return section.bare("health", "off");
    };
    section.section("health", |section| {
        section.word("probe", health.probe);
        if health.probe == ProbeKind::Http {
            section.section("http", |section| {
                section.text("path", health.http.path.as_str());
                let (first, last) = (health.http.expect.start(), health.http.expect.end());
                section.text("status", &format!("{first}-{last}"));
                if let Some(text) = &health.http.contains {
                    section.text("contains", text);
                }
            });
        }
        section.clock("interval", health.interval);
        section.bare("jitter", percent(health.jitter));
        section.clock("timeout", health.timeout);
        section.bare("fall", health.fall);
        section.bare("rise", health.rise);
        section.bare("wake", health.wake);
    });
}

pub(super) fn outlier(section: &mut Section<'_>, settings: Option<&OutlierSettings>) {
    let Some(settings) = settings else {
        return section.bare("outlier", "off");
    };
    section.section("outlier", |section| {
        section.bare_or_off("consecutive", settings.consecutive);
        section.bare_or_off("deviations", settings.rate.map(|rate| rate.factor.get()));
        if let Some(rate) = settings.rate {
            section.bare("min_calls", rate.min_calls);
            section.bare("min_endpoints", rate.min_endpoints);
            section.bare("floor", percent(rate.floor));
        }
        section.clock("interval", settings.interval);
        section.clock("base", settings.base);
        section.clock("max", settings.max);
        section.bare("max_ejected", percent(settings.max_ejected));
    });
}

pub(super) fn resume(section: &mut Section<'_>, settings: Option<&ResumeSettings>) {
    let Some(settings) = settings else {
        return section.bare("resume", "off");
    };
    section.section("resume", |section| {
        section.bare("tries", settings.tries);
        section.clock("limit", settings.limit);
        section.clock("standing", settings.standing);
        section.clock("first", settings.backoff.base);
        section.clock("max", settings.backoff.max);
    });
}

pub(super) fn retry(section: &mut Section<'_>, settings: Option<&RetrySettings>) {
    let Some(settings) = settings else {
        return section.bare("retry", "off");
    };
    section.section("retry", |section| {
        section.bare("attempts", settings.attempts);
        section.bare("budget", hundredths(settings.budget.share));
        section.bare("least", settings.budget.floor);
        section.section("backoff", |section| {
            section.clock("base", settings.backoff.base);
            section.clock("max", settings.backoff.max);
        });
        section.clock("retry_after", settings.retry_after);
        section.bare("body_cap", size(settings.body_cap as u64));
        section.list("safe_tools", &settings.safe_tools);
        let statuses = settings.statuses.iter().map(StatusCode::as_u16);
        section.items("statuses", statuses.map(Tree::bare).collect());
    });
}

fn percent(share: Share) -> String {
    hundredths(share.get())
}

/// As percent, without the noise of the binary fraction.
fn hundredths(share: f64) -> String {
    format!("{}%", (share * 1e8).round() / 1e6)
}
