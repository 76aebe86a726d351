//! Writes single metrics in the Prometheus text format, for values that are read only when somebody scrapes.

use std::fmt::{Display, Write};

/// What kind of metric a value is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Counter,
    Gauge,
}

/// Appends one metric without labels.
pub(super) fn metric(out: &mut String, name: &str, kind: Kind, help: &str, value: impl Display) {
    labelled(out, name, kind, help, "", value);
}

/// Appends one metric; `labels` is in its final form, `{a="b"}`.
pub(super) fn labelled(
    out: &mut String,
    name: &str,
    kind: Kind,
    help: &str,
    labels: &str,
    value: impl Display,
) {
    let kind = match kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
    };
    write!(
        out,
        "# HELP {name} {help}\n# TYPE {name} {kind}\n{name}{labels} {value}\n\n"
    )
    .expect("writing to a string does not fail");
}
