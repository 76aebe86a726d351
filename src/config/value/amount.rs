//! Durations, sizes, counts and switches.

use std::num::{NonZeroU16, NonZeroUsize};
use std::str::FromStr;
use std::time::Duration;

use schemars::{Schema, json_schema};

use ziggurat_layers::circuit::Window;
use ziggurat_layers::rate_limit::Rate;
use ziggurat_layers::share::Share;

use super::{Amount, Clock, Count, Part, Pause, Prefix, Rank, Size, Switch};
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

impl FromText for Part {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        let example = "write a part of the whole such as `20%`";
        let number = match text.strip_suffix('%') {
            Some(percent) => percent.trim_end().parse::<f64>().map(|p| p / 100.0),
            None => text.parse(),
        };
        let number = number.map_err(|_| Wrong::new("is not a part of the whole", example))?;
        match Share::new(number) {
            Some(share) => Ok(Self(share)),
            None => Err(Wrong::new("is not between 0% and 100%", example)),
        }
    }

    fn describe() -> Schema {
        json_schema!({ "type": ["string", "number"], "examples": ["20%", 0.2] })
    }
}

impl FromText for Amount {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        let example = "write a number such as `1` or `0.5`";
        match text.parse::<f64>() {
            Ok(number) if (0.0..=1e9).contains(&number) => Ok(Self(number)),
            Ok(_) => Err(Wrong::new("is out of range", example)),
            Err(_) => Err(Wrong::new("is not a number", example)),
        }
    }

    fn describe() -> Schema {
        json_schema!({ "type": ["number", "string"], "minimum": 0 })
    }
}

impl FromText for Rank {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        text.parse()
            .map(Self)
            .map_err(|_| Wrong::new("is not a number", "write 0 for the first, 1 for the next"))
    }

    fn describe() -> Schema {
        json_schema!({ "type": ["integer", "string"], "minimum": 0 })
    }
}

impl FromText for Rate {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        let example = "write a rate such as `50/s`, `100/m` or `10/h`";
        if text.starts_with('0') {
            return Err(Wrong::new("would let nothing through", example));
        }
        text.parse()
            .map_err(|_| Wrong::new("is not a rate", example))
    }

    fn describe() -> Schema {
        json_schema!({ "type": "string", "examples": ["50/s", "100/m", "10/h"] })
    }
}

impl FromText for Prefix {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        let bits = text.parse().ok().filter(|bits| (1..=128).contains(bits));
        let wrong = || Wrong::new("is not a number of bits", "write a number from 1 to 128");
        bits.map(Self).ok_or_else(wrong)
    }

    fn describe() -> Schema {
        json_schema!({ "type": ["integer", "string"], "minimum": 1, "maximum": 128 })
    }
}

/// A duration, or a number of calls.
impl FromText for Window {
    fn from_text(text: &str) -> Result<Self, Wrong> {
        let example = "write a duration such as `30s`, or a number of calls such as `100 calls`";
        let Some(calls) = text.strip_suffix("calls") else {
            return match Clock::from_text(text) {
                Ok(Clock(time)) => Ok(Self::Time(time)),
                Err(wrong) => Err(Wrong::new(wrong.message, example)),
            };
        };
        match calls.trim_end().parse().map(NonZeroU16::new) {
            Ok(Some(calls)) => Ok(Self::Calls(calls)),
            Ok(None) => Err(Wrong::new("looks back at nothing", example)),
            Err(_) => Err(Wrong::new("is not a number of calls up to 65535", example)),
        }
    }

    fn describe() -> Schema {
        json_schema!({ "type": "string", "examples": ["30s", "100 calls"] })
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
