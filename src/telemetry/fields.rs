//! How the fields of an event are written in the text format: as `tracing-subscriber` does it, faster.
//!
//! The access log is written with each call, and most of its fields are short strings, which `Debug` writes letter by letter. Here a string
//! that needs no escapes is copied, and numbers go out without a detour; all else, and everything in colour, is left to the library.

use std::cell::Cell;
use std::fmt::{self, Debug};

use tracing::field::{Field, Visit};
use tracing_subscriber::field::{RecordFields, VisitOutput};
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{DefaultVisitor, Writer};

/// Writes fields as `name=value`, separated by spaces.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fields;

/// Gathers the fields in a string of its own, since each word to a [`Writer`] goes a long way.
struct Visitor {
    text: String,
    is_empty: bool,
    result: fmt::Result,
}

thread_local! {
    /// The string of the last event, for the next one. An event in the midst of another finds none, and makes its own.
    static TEXT: Cell<String> = const { Cell::new(String::new()) };
}

/// A longer string is not kept.
const KEPT: usize = 4 * 1024;
/// Below this each number of thousandths has a float of its own.
const EXACT: f64 = 1e12;

impl<'a> FormatFields<'a> for Fields {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'a>, fields: R) -> fmt::Result {
        if writer.has_ansi_escapes() || !writer.sanitizes_ansi_escapes() {
            let mut visitor = DefaultVisitor::new(writer, true);
            fields.record(&mut visitor);
            return visitor.finish();
        }
        let mut visitor = Visitor {
            text: TEXT.take(),
            is_empty: true,
            result: Ok(()),
        };
        fields.record(&mut visitor);
        let Visitor { mut text, .. } = visitor;
        let result = visitor.result.and_then(|()| writer.write_str(&text));
        text.clear();
        if text.capacity() <= KEPT {
            TEXT.set(text);
        }
        result
    }
}

// === impl Visitor ===

impl Visitor {
    /// A field that the library writes.
    fn by_default(&mut self, record: impl FnOnce(&mut DefaultVisitor<'_>)) {
        if self.result.is_ok() {
            let writer = Writer::new(&mut self.text);
            let mut visitor = DefaultVisitor::new(writer, self.is_empty);
            record(&mut visitor);
            self.result = visitor.finish();
            self.is_empty = false;
        }
    }

    /// The place for the value of a field of this name, if it is one to write here.
    fn plainly(&mut self, field: &Field) -> Option<&mut String> {
        let name = field.name();
        // The library knows what is special about these.
        let plain = name != "message" && !name.bytes().any(|byte| matches!(byte, b'.' | b'#'));
        if !plain || self.result.is_err() {
            return None;
        }
        if !self.is_empty {
            self.text.push(' ');
        }
        self.is_empty = false;
        self.text.push_str(name);
        self.text.push('=');
        Some(&mut self.text)
    }
}

/// `Debug` writes these as they are.
fn is_clean(text: &str) -> bool {
    let clean = |byte: u8| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\';
    // All of them, without a way out between: so the compiler takes many at once.
    text.bytes().fold(true, |all, byte| all & clean(byte))
}

/// The number of thousandths that a float is, if it is one.
fn thousandths(value: f64) -> Option<u64> {
    let thousandths = (value * 1000.0).round();
    let whole = value.is_sign_positive() && thousandths < EXACT && thousandths / 1000.0 == value;
    // In range, and a whole number.
    whole.then_some(thousandths as u64)
}

/// Writes thousandths as `Debug` writes the float.
fn write_thousandths(text: &mut String, thousandths: u64) {
    text.push_str(itoa::Buffer::new().format(thousandths / 1000));
    let rest = thousandths % 1000;
    let digits = [rest / 100, rest / 10 % 10, rest % 10];
    let shown = digits.iter().rposition(|digit| *digit > 0).unwrap_or(0);
    text.push('.');
    for digit in &digits[..=shown] {
        text.push(char::from(b'0' + (digit % 10) as u8));
    }
}

impl Visit for Visitor {
    fn record_str(&mut self, field: &Field, value: &str) {
        if is_clean(value)
            && let Some(text) = self.plainly(field)
        {
            text.push('"');
            text.push_str(value);
            text.push('"');
        } else {
            self.by_default(|visitor| visitor.record_str(field, value));
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        if let Some(text) = self.plainly(field) {
            text.push_str(itoa::Buffer::new().format(value));
        } else {
            self.by_default(|visitor| visitor.record_u64(field, value));
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        if let Some(text) = self.plainly(field) {
            text.push_str(itoa::Buffer::new().format(value));
        } else {
            self.by_default(|visitor| visitor.record_i64(field, value));
        }
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if let Some(thousandths) = thousandths(value)
            && let Some(text) = self.plainly(field)
        {
            write_thousandths(text, thousandths);
        } else {
            self.by_default(|visitor| visitor.record_f64(field, value));
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.by_default(|visitor| visitor.record_error(field, value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.by_default(|visitor| visitor.record_debug(field, value));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex, PoisonError};

    use proptest::prelude::*;
    use tracing::Subscriber;
    use tracing_subscriber::fmt::MakeWriter;
    use tracing_subscriber::fmt::format::DefaultFields;

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let mut sink = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            std::io::Write::write(&mut *sink, bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Sink {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    fn written<F>(fields: F, ansi: bool, log: impl FnOnce()) -> String
    where
        F: for<'a> FormatFields<'a> + Send + Sync + 'static,
    {
        let sink = Sink::default();
        let lines = tracing_subscriber::fmt().without_time().with_ansi(ansi);
        let lines = lines.fmt_fields(fields).with_writer(sink.clone()).finish();
        let lines: Box<dyn Subscriber + Send + Sync> = Box::new(lines);
        tracing::subscriber::with_default(lines, log);
        let bytes = sink
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    #[test]
    fn thousandths_are_written_as_floats_are() {
        for thousandths in (0..3000).chain([10_100, 999_999, 1_000_000, EXACT as u64 - 1]) {
            let value = thousandths as f64 / 1000.0;
            assert_eq!(super::thousandths(value), Some(thousandths));
            let mut text = String::new();
            write_thousandths(&mut text, thousandths);
            assert_eq!(text, format!("{value:?}"));
        }
        for value in [
            0.0005,
            -0.0,
            -1.0,
            EXACT,
            f64::NAN,
            f64::INFINITY,
            0.1 + 0.2,
        ] {
            assert_eq!(super::thousandths(value), None, "{value}");
        }
    }

    proptest! {
        #[test]
        fn a_line_is_the_one_of_the_library(
            text: String, plain in "[ -~]{0,12}", n: u64, m: i64, f: f64, ms in prop_oneof![0..3000_u64, 0..1_000_000_000_000_u64, 0..u64::MAX >> 12], ansi: bool,
        ) {
            let ms = ms as f64 / 1000.0;
            let log = || {
                let error = std::io::Error::other(text.clone());
                let error: &(dyn std::error::Error + 'static) = &error;
                tracing::info!(first = plain, n, text, m, f, ms, none = None::<u64>, some = Some(&*plain), yes = true, "{text}");
                tracing::info!(shown = %text, error, other.n = n, r#type = plain, debugged = ?text);
                tracing::info!("{plain}");
            };
            prop_assert_eq!(written(Fields, ansi, log), written(DefaultFields::new(), ansi, log));
        }
    }
}
