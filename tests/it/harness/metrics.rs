//! What /metrics says.

use std::collections::{BTreeMap, BTreeSet};

/// All samples of one scrape.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    gauges: BTreeSet<String>,
    samples: Vec<(String, String, f64)>,
}

/// Gauges that say how the process does, not what it holds.
const NOT_HELD: &[&str] = &[
    "process_",
    "tokio_workers",
    "tokio_global_queue_depth",
    "ziggurat_stdio_resident_memory_bytes",
    "ziggurat_build_info",
    "ziggurat_config_last_reload_ok",
    "ziggurat_endpoint_load",
    "ziggurat_retry_budget_ratio",
    // What clients may come back for outlives their calls for a while.
    "ziggurat_replay_buffer_bytes",
];

impl Metrics {
    pub(crate) fn read(text: &str) -> Self {
        let mut gauges = BTreeSet::new();
        let mut samples = Vec::new();
        for line in text.lines() {
            if let Some(kind) = line.strip_prefix("# TYPE ") {
                if let Some(name) = kind.strip_suffix(" gauge") {
                    gauges.insert(name.to_owned());
                }
                continue;
            }
            if line.starts_with('#') {
                continue;
            }
            let Some((series, value)) = line.rsplit_once(' ') else {
                continue;
            };
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let value = value.parse().unwrap();
            samples.push((
                name.to_owned(),
                labels.trim_end_matches('}').to_owned(),
                value,
            ));
        }
        Self { gauges, samples }
    }

    /// The sum over the series of this name whose labels contain each of `labels` (`name="value"`).
    pub(crate) fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        self.samples
            .iter()
            .filter(|(n, l, _)| n == name && labels.iter().all(|label| l.contains(label)))
            .map(|(_, _, value)| value)
            .sum()
    }

    /// The label sets of a name, for messages.
    pub(crate) fn series(&self, name: &str) -> Vec<&(String, String, f64)> {
        self.samples
            .iter()
            .filter(|(n, ..)| n.starts_with(name))
            .collect()
    }

    /// Every gauge that counts something that is held; those at zero are left out.
    pub(crate) fn gauges(&self) -> BTreeMap<String, f64> {
        self.samples
            .iter()
            .filter(|(name, _, value)| {
                self.gauges.contains(name)
                    && *value != 0.0
                    && !NOT_HELD.iter().any(|not| name.starts_with(not))
            })
            .map(|(name, labels, value)| (format!("{name}{{{labels}}}"), *value))
            .collect()
    }
}
