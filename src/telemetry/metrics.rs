//! The Prometheus recorder: buckets, upkeep, and the text that a scrape gets.

use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::{
    BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};
use tokio::runtime::{Handle, RuntimeMetrics};
use tokio::task::AbortHandle;

use super::text::{Kind, labelled, metric};
use super::writer::LogDrops;
use super::{process, runtime};

/// What the recorder needs to know.
#[derive(Clone, Debug, Default)]
pub struct MetricsSettings {
    /// Histograms of things that usually take milliseconds; they get two buckets more at the bottom.
    pub fast: Vec<String>,
    /// Where lost log lines are counted.
    pub log_drops: Option<LogDrops>,
    /// Labels of `ziggurat_build_info` beside `version`, such as `revision`. Names must be plain words.
    pub build: Vec<(&'static str, String)>,
}

/// Makes the text that a scrape gets. When the last clone is dropped, the upkeep ends.
#[derive(Clone, Debug)]
pub struct MetricsHandle {
    inner: Arc<Inner>,
}

/// Why metrics cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InstallError {
    /// The process has a recorder already.
    #[error("metrics were started twice")]
    Twice,
    /// The recorder refused its settings.
    #[error("the metrics recorder cannot be built")]
    Build(#[source] BuildError),
}

#[derive(Debug)]
struct Inner {
    recorded: PrometheusHandle,
    runtime: RuntimeMetrics,
    log_drops: Option<LogDrops>,
    build: String,
    upkeep: AbortHandle,
}

/// Samples that nobody scrapes are folded into their histograms this often; without it they pile up.
const UPKEEP: Duration = Duration::from_secs(5);

const BUCKETS: [f64; 14] = [
    0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
];
const FAST: [f64; 2] = [0.001, 0.005];

/// Makes a Prometheus recorder the recorder of the process. Must be called on a tokio runtime.
pub fn install(settings: MetricsSettings) -> Result<MetricsHandle, InstallError> {
    let recorder = recorder(&settings.fast).map_err(InstallError::Build)?;
    let recorded = recorder.handle();
    metrics::set_global_recorder(recorder).map_err(|_| InstallError::Twice)?;
    Ok(MetricsHandle::new(recorded, settings))
}

fn recorder(fast: &[String]) -> Result<PrometheusRecorder, BuildError> {
    let mut builder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &BUCKETS)?;
    let fast_buckets = [&FAST[..], &BUCKETS[..]].concat();
    for name in fast {
        builder = builder.set_buckets_for_metric(Matcher::Full(name.clone()), &fast_buckets)?;
    }
    Ok(builder.build_recorder())
}

// === impl MetricsHandle ===

impl MetricsHandle {
    fn new(recorded: PrometheusHandle, settings: MetricsSettings) -> Self {
        let upkept = recorded.clone();
        let upkeep = tokio::spawn(async move {
            loop {
                tokio::time::sleep(UPKEEP).await;
                upkept.run_upkeep();
            }
        });
        Self {
            inner: Arc::new(Inner {
                recorded,
                runtime: Handle::current().metrics(),
                log_drops: settings.log_drops,
                build: build_labels(&settings.build),
                upkeep: upkeep.abort_handle(),
            }),
        }
    }

    /// All metrics, in the Prometheus text format.
    pub fn render(&self) -> String {
        let mut out = self.inner.recorded.render();
        labelled(
            &mut out,
            "ziggurat_build_info",
            Kind::Gauge,
            "Which build this is; always 1.",
            &self.inner.build,
            1,
        );
        if let Some(drops) = &self.inner.log_drops {
            metric(
                &mut out,
                "ziggurat_log_lines_dropped_total",
                Kind::Counter,
                "Log lines that were lost, since they could not be written.",
                drops.lines(),
            );
        }
        process::write(&mut out);
        runtime::write(&mut out, &self.inner.runtime);
        out
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.upkeep.abort();
    }
}

fn build_labels(more: &[(&'static str, String)]) -> String {
    let mut labels = format!("{{version=\"{}\"", env!("CARGO_PKG_VERSION"));
    for (name, value) in more {
        let value = value
            .replace('\\', r"\\")
            .replace('"', "\\\"")
            .replace('\n', r"\n");
        labels.push_str(&format!(",{name}=\"{value}\""));
    }
    labels.push('}');
    labels
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::super::writer::WriterThread;
    use super::*;

    fn started(settings: MetricsSettings, record: impl FnOnce()) -> MetricsHandle {
        let recorder = recorder(&settings.fast).unwrap();
        metrics::with_local_recorder(&recorder, record);
        MetricsHandle::new(recorder.handle(), settings)
    }

    #[tokio::test]
    async fn durations_have_buckets_and_fast_ones_two_more() {
        let settings = MetricsSettings {
            fast: vec!["quick_seconds".to_owned()],
            ..MetricsSettings::default()
        };
        let text = started(settings, || {
            metrics::histogram!("mcp_server_operation_duration_seconds").record(0.03);
            metrics::histogram!("quick_seconds").record(0.03);
        })
        .render();
        assert!(
            text.contains(r#"mcp_server_operation_duration_seconds_bucket{le="0.02"} 0"#),
            "{text}"
        );
        assert!(
            text.contains(r#"mcp_server_operation_duration_seconds_bucket{le="0.05"} 1"#),
            "{text}"
        );
        assert!(
            text.contains(r#"mcp_server_operation_duration_seconds_bucket{le="300"} 1"#),
            "{text}"
        );
        assert!(
            !text.contains(r#"mcp_server_operation_duration_seconds_bucket{le="0.001"}"#),
            "{text}"
        );
        assert!(
            text.contains(r#"quick_seconds_bucket{le="0.001"} 0"#),
            "{text}"
        );
        assert!(
            text.contains(r#"quick_seconds_bucket{le="0.005"} 0"#),
            "{text}"
        );
    }

    #[tokio::test]
    async fn a_scrape_has_the_build_the_process_and_the_runtime() {
        let settings = MetricsSettings {
            build: vec![("revision", "a\"b".to_owned())],
            ..MetricsSettings::default()
        };
        let text = started(settings, || {}).render();
        let build = format!(
            "ziggurat_build_info{{version=\"{}\",revision=\"a\\\"b\"}} 1\n",
            env!("CARGO_PKG_VERSION")
        );
        assert!(text.contains(&build), "{text}");
        assert!(text.contains("\ntokio_workers 1\n"), "{text}");
        #[cfg(target_os = "linux")]
        assert!(text.contains("# TYPE process_open_fds gauge\n"), "{text}");
        for line in text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
        {
            let (_, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
    }

    #[tokio::test]
    async fn lost_log_lines_are_counted() {
        let writer = WriterThread::start(std::io::sink(), |_| {}).unwrap();
        let settings = MetricsSettings {
            log_drops: Some(writer.drops()),
            ..MetricsSettings::default()
        };
        let text = started(settings, || {}).render();
        assert!(
            text.contains("\nziggurat_log_lines_dropped_total 0\n"),
            "{text}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn upkeep_runs_until_the_last_handle_is_gone() {
        let handle = started(MetricsSettings::default(), || {});
        let runtime = Handle::current().metrics();
        assert_eq!(runtime.num_alive_tasks(), 1);
        let clone = handle.clone();
        drop(handle);
        tokio::time::sleep(UPKEEP * 3).await;
        assert_eq!(runtime.num_alive_tasks(), 1);
        drop(clone);
        tokio::task::yield_now().await;
        assert_eq!(runtime.num_alive_tasks(), 0);
    }
}
