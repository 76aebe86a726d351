//! Durations, sizes, counts and switches.

use std::num::NonZeroUsize;
use std::str::FromStr;
use std::time::Duration;

use schemars::{Schema, json_schema};

use super::{Clock, Count, Pause, Size, Switch};
use crate::config::read::{FromText, Wrong};

/// Longer clocks are a slip of the hand, and would overflow arithmetic with the time of day.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

const EXAMPLE_DURATIONS: &str = "write a duration such as `250ms`, `30s`, `5m` or `1h`";

impl FromText for Pause {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        if text == "0" {
            return Ok(Self(Duration::ZERO));
        }
        if !text.is_empty() && text.chars().all(|letter| letter.is_ascii_digit()) {
            let cure = format!("write `{text}s` if seconds are meant");
            return Err(Wrong::new("has no unit", cure));
        }
        let parsed = jiff::SignedDuration::from_str(text)
            .map_err(|_| Wrong::new("is not a duration", EXAMPLE_DURATIONS))?;
        let duration =
            Duration::try_from(parsed).map_err(|_| Wrong::new("is negative", EXAMPLE_DURATIONS))?;
        if duration > LONGEST {
            return Err(Wrong::new("is longer than a year", EXAMPLE_DURATIONS));
        }
        Ok(Self(duration))
    }

    fn describe() -> Schema {
        json_schema!({ "type": ["string", "integer"], "examples": ["250ms", "30s", "5m", "1h"] })
    }
}

impl FromText for Clock {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        match Pause::from_text(text)?.0 {
            Duration::ZERO => Err(Wrong::new("is no time at all", EXAMPLE_DURATIONS)),
            duration => Ok(Self(duration)),
        }
    }

    fn describe() -> Schema {
        json_schema!({ "type": "string", "examples": ["250ms", "30s", "5m", "1h"] })
    }
}

impl FromText for Size {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        let example = "write a size such as `64KiB` or `4MiB`";
        match bytesize::ByteSize::from_str(text) {
            Ok(size) if size.as_u64() > 0 => Ok(Self(size.as_u64())),
            Ok(_) => Err(Wrong::new("leaves room for nothing", example)),
            Err(_) => Err(Wrong::new("is not a size", example)),
        }
    }

    fn describe() -> Schema {
        json_schema!({ "type": ["string", "integer"], "examples": ["64KiB", "4MiB"] })
    }
}

impl FromText for Count {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        match text.parse::<usize>().map(NonZeroUsize::new) {
            Ok(Some(count)) => Ok(Self(count)),
            Ok(None) => Err(Wrong::new(
                "would let nothing through",
                "write a number from 1 up",
            )),
            Err(_) => Err(Wrong::new("is not a number", "write a number from 1 up")),
        }
    }

    fn describe() -> Schema {
        // A reference to the environment is text.
        json_schema!({ "type": ["integer", "string"], "minimum": 1 })
    }
}

impl FromText for Switch {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        match text {
            "true" | "on" => Ok(Self(true)),
            "false" | "off" => Ok(Self(false)),
            _ => Err(Wrong::new(
                "is neither `true` nor `false`",
                "write `true` or `false`",
            )),
        }
    }

    fn describe() -> Schema {
        json_schema!({ "type": ["boolean", "string"] })
    }
}
