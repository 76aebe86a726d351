//! When a line was written: as `tracing-subscriber` says it, faster.
//!
//! All lines of a second begin alike, so each thread keeps what the library wrote for the last one, and puts the microseconds behind it.

use std::cell::RefCell;
use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime as Library};

/// Writes the time of day as `2026-11-23T16:25:06.123456Z`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Time;

/// A second, as far as its lines begin alike: `2026-11-23T16:25:06.`
#[derive(Default)]
struct Second {
    number: u64,
    text: String,
}

thread_local! {
    static SECOND: RefCell<Second> = RefCell::default();
}

impl FormatTime for Time {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let Ok(now) = now else {
            return Library.format_time(writer);
        };
        SECOND.with_borrow_mut(|second| {
            if second.number != now.as_secs() || second.text.is_empty() {
                *second = Second::now()?;
            }
            if second.number != now.as_secs() {
                // The clock moved on between two looks.
                return Library.format_time(writer);
            }
            second.write(now.subsec_micros(), writer)
        })
    }
}

// === impl Second ===

impl Second {
    /// This second, or none if it is over while the library writes it.
    fn now() -> Result<Self, fmt::Error> {
        let number = || {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            now.map(|now| now.as_secs()).unwrap_or_default()
        };
        let before = number();
        let mut text = String::new();
        Library.format_time(&mut Writer::new(&mut text))?;
        let end = text.rfind('.').map(|dot| dot + 1);
        if number() != before || end.is_none() {
            return Ok(Self::default());
        }
        text.truncate(end.unwrap_or_default());
        Ok(Self {
            number: before,
            text,
        })
    }

    fn write(&self, micros: u32, writer: &mut Writer<'_>) -> fmt::Result {
        let mut digits = *b"000000Z";
        let mut rest = micros;
        for digit in digits[..6].iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        writer.write_str(&self.text)?;
        writer.write_str(str::from_utf8(&digits).map_err(|_| fmt::Error)?)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn written(time: impl FormatTime) -> String {
        let mut text = String::new();
        time.format_time(&mut Writer::new(&mut text)).unwrap();
        text
    }

    #[test]
    fn a_time_lies_between_two_of_the_library() {
        for _ in 0..1000 {
            let (before, time, after) = (written(Library), written(Time), written(Library));
            assert!(before <= time && time <= after, "{before} {time} {after}");
            assert_eq!(time.len(), before.len());
        }
    }

    #[test]
    fn microseconds_have_six_digits() {
        let second = Second {
            number: 1,
            text: "1970-01-01T00:00:01.".to_owned(),
        };
        for (micros, end) in [
            (0, "01.000000Z"),
            (7, "01.000007Z"),
            (999_999, "01.999999Z"),
        ] {
            let mut text = String::new();
            second.write(micros, &mut Writer::new(&mut text)).unwrap();
            assert!(text.ends_with(end), "{text}");
        }
    }
}
