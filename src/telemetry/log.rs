//! The tracing subscriber: which events are written, and how a line looks.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::io::{IsTerminal, stderr};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::Subscriber as Lines;

use super::fields::Fields;
use super::time::Time;
use super::writer::{LineWriter, LogDrops, WriterThread};

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people; with colours if stderr is a terminal, and `NO_COLOR` is not set.
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

/// Changes what is logged while the process runs. Clones change the same log.
#[derive(Clone)]
pub struct LogControl {
    shared: Arc<Shared>,
}

struct Shared {
    /// The filter of the start.
    start: String,
    now: Mutex<Levels>,
    apply: Apply,
}

/// What was set since the start.
#[derive(Default)]
struct Levels {
    all: Option<&'static str>,
    modules: BTreeMap<String, &'static str>,
}

type Apply = Box<dyn Fn(EnvFilter) + Send + Sync>;

/// The most modules that have a level of their own.
const MODULES: usize = 32;

/// Writes out what is buffered when it is dropped; keep it until the process ends.
#[derive(Debug)]
#[must_use = "dropping it ends the log"]
pub struct LogGuard {
    writer: WriterThread,
    control: LogControl,
}

/// Starts the log of the process, on stderr.
pub fn start_log(settings: &LogSettings) -> Result<LogGuard, LogError> {
    let filter = parse(&settings.filter)?;
    let writer = WriterThread::start(stderr(), report_drops).map_err(LogError::Thread)?;
    let no_color = std::env::var_os("NO_COLOR");
    let ansi = has_colours(stderr().is_terminal(), no_color.as_deref());
    let (lines, apply) = subscriber(writer.lines(), filter, settings.format, ansi);
    tracing::subscriber::set_global_default(lines).map_err(|_| LogError::Twice)?;
    let control = LogControl::new(settings.filter.clone(), apply);
    Ok(LogGuard { writer, control })
}

/// Only for people to look at, and if they have not said otherwise: <https://no-color.org>.
fn has_colours(terminal: bool, no_color: Option<&OsStr>) -> bool {
    terminal && no_color.is_none_or(OsStr::is_empty)
}

/// What the operator did is on record, whatever the filter says.
fn parse(filter: &str) -> Result<EnvFilter, LogError> {
    let parsed = EnvFilter::builder().parse(filter);
    let parsed = parsed.map_err(|source| LogError::Filter {
        filter: filter.to_owned(),
        source,
    })?;
    Ok(match "audit=info".parse() {
        Ok(audit) => parsed.add_directive(audit),
        Err(_) => parsed,
    })
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
) -> (Box<dyn Subscriber + Send + Sync>, Apply) {
    let lines = Lines::builder().with_env_filter(filter).with_writer(writer);
    match format {
        LogFormat::Text => {
            let lines = lines.with_ansi(ansi).with_timer(Time).fmt_fields(Fields);
            let lines = lines.with_filter_reloading();
            let handle = lines.reload_handle();
            // It fails only when the subscriber is gone, and then nothing is logged.
            let apply = move |filter| drop(handle.reload(filter));
            (Box::new(lines.finish()), Box::new(apply))
        }
        LogFormat::Json => {
            let lines = lines.json().flatten_event(true).with_ansi(false);
            let lines = lines.with_timer(Time);
            let lines = lines.with_filter_reloading();
            let handle = lines.reload_handle();
            let apply = move |filter| drop(handle.reload(filter));
            (Box::new(lines.finish()), Box::new(apply))
        }
    }
}

// === impl LogControl ===

impl LogControl {
    fn new(start: String, apply: Apply) -> Self {
        Self {
            shared: Arc::new(Shared {
                start,
                now: Mutex::default(),
                apply,
            }),
        }
    }

    /// The filter of the start.
    pub fn default_filter(&self) -> &str {
        &self.shared.start
    }

    /// The filter in force.
    pub fn filter(&self) -> String {
        self.write(&self.levels())
    }

    /// Sets the level of a module, or of everything, which takes back what was set for modules; without a level, the one of the start.
    ///
    /// # Errors
    /// When there are too many modules, or the name of the module makes no filter. Then nothing has changed.
    pub fn set(&self, level: Option<&'static str>, module: Option<&str>) -> Result<(), String> {
        let mut now = self.levels();
        let mut new = Levels {
            all: now.all,
            modules: now.modules.clone(),
        };
        match (module, level) {
            (None, level) => {
                new = Levels {
                    all: level,
                    ..Levels::default()
                };
            }
            (Some(module), None) => {
                new.modules.remove(module);
            }
            (Some(module), Some(level)) => {
                if new.modules.len() >= MODULES && !new.modules.contains_key(module) {
                    return Err(format!(
                        "{MODULES} modules have a level of their own already"
                    ));
                }
                new.modules.insert(module.to_owned(), level);
            }
        }
        let filter = parse(&self.write(&new)).map_err(|error| error.to_string())?;
        (self.shared.apply)(filter);
        *now = new;
        Ok(())
    }

    fn write(&self, levels: &Levels) -> String {
        let mut text = levels.all.unwrap_or(&self.shared.start).to_owned();
        for (module, level) in &levels.modules {
            text += &format!(",{module}={level}");
        }
        text
    }

    fn levels(&self) -> std::sync::MutexGuard<'_, Levels> {
        let levels = self.shared.now.lock();
        levels.unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for LogControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LogControl").field(&self.filter()).finish()
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

    /// What changes the log while it runs.
    pub fn control(&self) -> LogControl {
        self.control.clone()
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

    /// What is written of what this logs, in black and white.
    fn written(start: &str, format: LogFormat, log: impl FnOnce(&LogControl)) -> String {
        shown(start, format, false, log)
    }

    fn shown(start: &str, format: LogFormat, ansi: bool, log: impl FnOnce(&LogControl)) -> String {
        let sink = Sink::default();
        let writer = WriterThread::start(sink.clone(), |_| {}).unwrap();
        let (lines, apply) = subscriber(writer.lines(), parse(start).unwrap(), format, ansi);
        let control = LogControl::new(start.to_owned(), apply);
        tracing::subscriber::with_default(lines, || log(&control));
        drop(writer);
        let bytes = sink.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn only_a_terminal_has_colours_and_no_color_takes_them_away() {
        assert!(has_colours(true, None));
        assert!(has_colours(true, Some("".as_ref())));
        assert!(!has_colours(true, Some("1".as_ref())));
        assert!(!has_colours(false, None));
    }

    fn logged(format: LogFormat) -> String {
        written("info", format, |_| {
            tracing::debug!("not this");
            tracing::info!(answer = 42, "this");
        })
    }

    #[test]
    fn the_level_changes_and_goes_back_for_all_or_for_a_module() {
        let say = |what: &str| tracing::debug!(target: "some::module", what);
        for format in [LogFormat::Text, LogFormat::Json] {
            let text = written("info", format, |control| {
                say("one");
                control.set(Some("debug"), None).unwrap();
                assert_eq!(control.filter(), "debug");
                say("two");
                control.set(None, None).unwrap();
                assert_eq!(control.filter(), "info");
                say("three");
                control.set(Some("trace"), Some("some::module")).unwrap();
                assert_eq!(control.filter(), "info,some::module=trace");
                say("four");
                tracing::debug!("five");
                control.set(None, Some("some::module")).unwrap();
                say("six");
            });
            let said = ["one", "two", "three", "four", "five", "six"];
            let found: Vec<_> = said
                .into_iter()
                .filter(|word| text.contains(word))
                .collect();
            assert_eq!(found, ["two", "four"], "{text}");
        }
    }

    #[test]
    fn a_module_that_is_none_and_one_too_many_change_nothing() {
        written("info", LogFormat::Text, |control| {
            assert!(control.set(Some("debug"), Some("a=b=c")).is_err());
            for module in 0..MODULES {
                control
                    .set(Some("debug"), Some(&format!("m{module}")))
                    .unwrap();
            }
            let before = control.filter();
            assert!(control.set(Some("debug"), Some("one_more")).is_err());
            control.set(Some("trace"), Some("m0")).unwrap();
            control.set(Some("debug"), Some("m0")).unwrap();
            assert_eq!(control.filter(), before);
        });
    }

    #[test]
    fn the_audit_is_written_whatever_the_level() {
        for start in ["off", "error", "audit=off"] {
            let text = written(start, LogFormat::Text, |control| {
                tracing::info!(target: "audit", "first");
                control.set(Some("off"), None).unwrap();
                tracing::info!(target: "audit", "second");
                tracing::error!("not this");
            });
            assert!(text.contains("first") && text.contains("second"), "{text}");
            assert_eq!(text.lines().count(), 2, "{text}");
        }
    }

    #[test]
    fn text_lines_are_filtered_and_plain() {
        let text = logged(LogFormat::Text);
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains("this answer=42"), "{text}");
        assert!(!text.contains('\x1b'), "{text}");
    }

    #[test]
    fn on_a_terminal_text_lines_have_colours() {
        let log = |_: &LogControl| tracing::info!(answer = 42, "this");
        let text = shown("info", LogFormat::Text, true, log);
        assert!(text.contains("\x1b[32m INFO"), "{text:?}");
        assert!(!shown("info", LogFormat::Json, true, log).contains('\x1b'));
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
