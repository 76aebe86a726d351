//! How the fields of an event are written in the text format: as `tracing-subscriber` does it, faster.
//!
//! The access log is written with each call, and most of its fields are short strings, which `Debug` writes letter by letter. Here a string
//! that needs no escapes is copied, and numbers go out without a detour; all else, and everything in colour, is left to the library.

use std::fmt::{self, Debug};

use tracing::field::{Field, Visit};
use tracing_subscriber::field::{RecordFields, VisitOutput};
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{DefaultVisitor, Writer};

/// Writes fields as `name=value`, separated by spaces.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fields;

struct Visitor<'a> {
    writer: Writer<'a>,
    /// In black and white.
    plain: bool,
    is_empty: bool,
    result: fmt::Result,
}

impl<'a> FormatFields<'a> for Fields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'a>, fields: R) -> fmt::Result {
        let mut visitor = Visitor {
            plain: !writer.has_ansi_escapes(),
            writer,
            is_empty: true,
            result: Ok(()),
        };
        fields.record(&mut visitor);
        visitor.result
    }
}

// === impl Visitor ===

impl Visitor<'_> {
    /// A field that the library writes.
    fn by_default(&mut self, record: impl FnOnce(&mut DefaultVisitor<'_>)) {
        if self.result.is_ok() {
            let mut visitor = DefaultVisitor::new(self.writer.by_ref(), self.is_empty);
            record(&mut visitor);
            self.result = visitor.finish();
            self.is_empty = false;
        }
    }

    /// A field of this name, if it is one to write here.
    fn plainly(
        &mut self,
        field: &Field,
        value: impl FnOnce(&mut Writer<'_>) -> fmt::Result,
    ) -> bool {
        let name = field.name();
        // The library knows what is special about these.
        if !self.plain || name == "message" || name.contains(['.', '#']) {
            return false;
        }
        if self.result.is_ok() {
            self.result = self.name(name).and_then(|()| value(&mut self.writer));
        }
        true
    }

    fn name(&mut self, name: &str) -> fmt::Result {
        if !self.is_empty {
            self.writer.write_char(' ')?;
        }
        self.is_empty = false;
        self.writer.write_str(name)?;
        self.writer.write_char('=')
    }
}

/// `Debug` writes these as they are.
fn is_clean(text: &str) -> bool {
    let clean = |byte: u8| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\';
    text.bytes().all(clean)
}

impl Visit for Visitor<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        let quoted = |writer: &mut Writer<'_>| {
            writer.write_char('"')?;
            writer.write_str(value)?;
            writer.write_char('"')
        };
        if !(is_clean(value) && self.plainly(field, quoted)) {
            self.by_default(|visitor| visitor.record_str(field, value));
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        if !self.plainly(field, |writer| write!(writer, "{value}")) {
            self.by_default(|visitor| visitor.record_u64(field, value));
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        if !self.plainly(field, |writer| write!(writer, "{value}")) {
            self.by_default(|visitor| visitor.record_i64(field, value));
        }
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if !self.plainly(field, |writer| write!(writer, "{value:?}")) {
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

    proptest! {
        #[test]
        fn a_line_is_the_one_of_the_library(
            text: String, plain in "[ -~]{0,12}", n: u64, m: i64, f: f64, ansi: bool,
        ) {
            let log = || {
                let error = std::io::Error::other(text.clone());
                let error: &(dyn std::error::Error + 'static) = &error;
                tracing::info!(first = plain, n, text, m, f, none = None::<u64>, some = Some(&*plain), yes = true, "{text}");
                tracing::info!(shown = %text, error, other.n = n, r#type = plain, debugged = ?text);
                tracing::info!("{plain}");
            };
            prop_assert_eq!(written(Fields, ansi, log), written(DefaultFields::new(), ansi, log));
        }
    }
}
