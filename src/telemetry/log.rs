//! The tracing subscriber: which events are written, and how a line looks.

use std::io::{IsTerminal, stderr};

use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::Subscriber as Lines;

use super::writer::{LineWriter, LogDrops, WriterThread};

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people; with colours if stderr is a terminal.
    #[default]
    Text,
    /// One JSON object on each line.
    Json,
}

/// What is logged, and how.
#[derive(Clone, Debug)]
pub struct LogSettings {
    /// Levels by module, as in `info,ziggurat=debug`.
    pub filter: String,
    /// How a line looks.
    pub format: LogFormat,
}

/// Why logging cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The filter is not understood.
    #[error("`{filter}` is not a log filter; try `info`, or `info,ziggurat=debug`")]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong with it.
        source: ParseError,
    },
    /// The writer thread could not be started.
    #[error("the log writer could not be started")]
    Thread(#[source] std::io::Error),
    /// The process has a log already.
    #[error("logging was started twice")]
    Twice,
}

/// Writes out what is buffered when it is dropped; keep it until the process ends.
#[derive(Debug)]
#[must_use = "dropping it ends the log"]
pub struct LogGuard {
    writer: WriterThread,
}

/// Starts the log of the process, on stderr.
pub fn start_log(settings: &LogSettings) -> Result<LogGuard, LogError> {
    let filter = EnvFilter::builder()
        .parse(&settings.filter)
        .map_err(|source| LogError::Filter {
            filter: settings.filter.clone(),
            source,
        })?;
    let writer = WriterThread::start(stderr(), report_drops).map_err(LogError::Thread)?;
    let lines = subscriber(
        writer.lines(),
        filter,
        settings.format,
        stderr().is_terminal(),
    );
    tracing::subscriber::set_global_default(lines).map_err(|_| LogError::Twice)?;
    Ok(LogGuard { writer })
}

fn report_drops(lines: u64) {
    tracing::warn!(
        lines,
        "log lines were lost, since they could not be written fast enough"
    );
}

fn subscriber(
    writer: LineWriter,
    filter: EnvFilter,
    format: LogFormat,
    ansi: bool,
) -> Box<dyn Subscriber + Send + Sync> {
    let lines = Lines::builder().with_env_filter(filter).with_writer(writer);
    match format {
        LogFormat::Text => Box::new(lines.with_ansi(ansi).finish()),
        LogFormat::Json => Box::new(lines.json().flatten_event(true).with_ansi(false).finish()),
    }
}

// === impl LogSettings ===

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            filter: "info".to_owned(),
            format: LogFormat::Text,
        }
    }
}

// === impl LogGuard ===

impl LogGuard {
    /// How many lines were lost, for the metrics.
    pub fn drops(&self) -> LogDrops {
        self.writer.drops()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat) -> String {
        let sink = Sink::default();
        let writer = WriterThread::start(sink.clone(), |_| {}).unwrap();
        let filter = EnvFilter::builder().parse("info").unwrap();
        let lines = subscriber(writer.lines(), filter, format, false);
        tracing::subscriber::with_default(lines, || {
            tracing::debug!("not this");
            tracing::info!(answer = 42, "this");
        });
        drop(writer);
        let bytes = sink.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn text_lines_are_filtered_and_plain() {
        let text = logged(LogFormat::Text);
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains("this answer=42"), "{text}");
        assert!(!text.contains('\x1b'), "{text}");
    }

    #[test]
    fn json_lines_are_objects() {
        let text = logged(LogFormat::Json);
        let line: serde_json::Value = serde_json::from_str(text.trim_end()).unwrap();
        assert_eq!(line["answer"], 42);
        assert_eq!(line["message"], "this");
        assert_eq!(line["level"], "INFO");
    }

    #[test]
    fn a_bad_filter_is_named() {
        let settings = LogSettings {
            filter: "ziggurat=loud".to_owned(),
            ..LogSettings::default()
        };
        let error = start_log(&settings).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("`ziggurat=loud` is not a log filter"),
            "{error}"
        );
    }
}
