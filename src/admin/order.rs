//! What the operator may order: the bodies of the actions, checked as they are read.
//!
//! An order names things of the config and nothing else; none carries a URL, a command or a path. The comments here are the descriptions in the OpenAPI document,
//! and in the help of `ziggurat admin`.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, de::Error};
use serde_json::Number;

/// What the operator wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// An endpoint takes no calls.
    DrainEndpoint(DrainEndpoint),
    /// It takes calls again.
    UndrainEndpoint(EndpointOnly),
    /// Its share of traffic.
    SetWeight(SetWeight),
    /// The state of its breaker.
    ForceCircuit(ForceCircuit),
    /// The state of a tool's breaker.
    ForceToolCircuit(ForceToolCircuit),
    /// An upstream takes no calls.
    KillUpstream(KillUpstream),
    /// It takes calls again.
    ReviveUpstream(UpstreamOnly),
    /// A tool takes no calls.
    KillTool(KillTool),
    /// It takes calls again.
    ReviveTool(ToolOnly),
    /// A session ends.
    EndSession(EndSession),
    /// A child stops; the next call starts another.
    RestartChild(RestartChild),
    /// What is logged.
    SetLog(SetLog),
    /// What becomes of a paused exchange.
    Decide(Decide),
    /// The whole proxy drains, and ends.
    Drain(Drain),
}

/// A name in the config, or of a tool: 1 to 128 characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Name(String);

/// A few words on why: up to 200 characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reason(String);

/// A share of traffic: 1 to 1000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Weight(u32);

/// The id of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Pid(i32);

/// The number of a paused exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Ticket(i64);

/// A message as JSON text: up to 12000 characters. It is not shown: it may carry what nobody should see.
#[derive(Clone, PartialEq, Eq)]
pub struct Message(String);

/// What becomes of a paused exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    /// It goes on.
    Resume,
    /// It is refused.
    Block,
}

/// What a breaker is forced to; `auto` takes that back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CircuitState {
    /// Refuse all calls.
    Open,
    /// Let all calls pass.
    Closed,
    /// By its own judgement.
    Auto,
}

/// How much is logged; `default` is what the process was started with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As at the start.
    Default,
    /// Nothing.
    Off,
    /// Errors.
    Error,
    /// And warnings.
    Warn,
    /// And what an operator wants to know.
    Info,
    /// And what a developer wants to know.
    Debug,
    /// Everything.
    Trace,
}

macro_rules! bodies {
    ($($(#[doc = $about:literal])* $name:ident { $($(#[doc = $doc:literal])* $field:ident: $type:ty,)* })*) => {
        $($(#[doc = $about])*
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        pub struct $name { $($(#[doc = $doc])* pub $field: $type,)* })*
    };
}

bodies! {
    /// An endpoint that is to take no calls.
    DrainEndpoint {
        /// The name of the upstream.
        upstream: Name,
        /// The name of its endpoint.
        endpoint: Name,
        /// Why, in a few words.
        reason: Option<Reason>,
    }
    /// An endpoint.
    EndpointOnly {
        /// The name of the upstream.
        upstream: Name,
        /// The name of its endpoint.
        endpoint: Name,
    }
    /// The share of traffic of an endpoint.
    SetWeight {
        /// The name of the upstream.
        upstream: Name,
        /// The name of its endpoint.
        endpoint: Name,
        /// The share, from 1 to 1000; left out, it is what the config says.
        weight: Option<Weight>,
        /// Why, in a few words.
        reason: Option<Reason>,
    }
    /// The state of an endpoint's breaker.
    ForceCircuit {
        /// The name of the upstream.
        upstream: Name,
        /// The name of its endpoint.
        endpoint: Name,
        /// The state.
        state: CircuitState,
        /// Why, in a few words.
        reason: Option<Reason>,
    }
    /// The state of a tool's breaker.
    ForceToolCircuit {
        /// The name of the upstream.
        upstream: Name,
        /// The tool.
        tool: Name,
        /// The state.
        state: CircuitState,
        /// Why, in a few words.
        reason: Option<Reason>,
    }
    /// An upstream that is to take no calls.
    KillUpstream {
        /// The name of the upstream.
        upstream: Name,
        /// Why, in a few words.
        reason: Option<Reason>,
    }
    /// An upstream.
    UpstreamOnly {
        /// The name of the upstream.
        upstream: Name,
    }
    /// A tool that is to take no calls.
    KillTool {
        /// The name of the upstream.
        upstream: Name,
        /// The tool; `*` stands for any text.
        tool: Name,
        /// Why, in a few words.
        reason: Option<Reason>,
    }
    /// A tool.
    ToolOnly {
        /// The name of the upstream.
        upstream: Name,
        /// The tool, as it was switched off.
        tool: Name,
    }
    /// A session that is to end.
    EndSession {
        /// Its id, as `sessions` shows it.
        id: Name,
        /// Its route, where several have a session of this id.
        route: Option<Name>,
    }
    /// A child that is to stop.
    RestartChild {
        /// The id of the process, as `children` shows it.
        pid: Pid,
    }
    /// What is to be logged.
    SetLog {
        /// How much.
        level: Level,
        /// The module that it is for, such as `ziggurat_layers::circuit`; left out, it is for all, and what was set for modules is taken back.
        module: Option<Module>,
    }
    /// A paused exchange about which is decided.
    Decide {
        /// Its number, as `paused` shows it.
        id: Ticket,
        /// What becomes of it.
        decision: Decision,
        /// With `resume`: the message with which it goes on, as JSON text; left out, its own.
        message: Option<Message>,
        /// Why, in a few words; with `block`, the client is told so.
        reason: Option<Reason>,
    }
    /// The whole proxy.
    Drain {
        /// Why, in a few words.
        reason: Option<Reason>,
    }
}

/// The path of a module: letters, digits, `_` and `::`, up to 100.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Module(String);

// === impl Name, Reason, Module, Weight, Pid ===

macro_rules! text {
    ($name:ident, $least:literal to $most:literal, $check:expr, $pattern:expr) => {
        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = Cow::<'de, str>::deserialize(deserializer)?;
                let check: fn(char) -> bool = $check;
                if !($least..=$most).contains(&text.chars().count()) {
                    let message = concat!("a text has ", $least, " to ", $most, " characters here");
                    return Err(D::Error::custom(message));
                }
                if !text.chars().all(check) {
                    return Err(D::Error::custom("the text has a character that cannot be here"));
                }
                Ok(Self(text.into_owned()))
            }
        }

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "minLength": $least, "maxLength": $most, "pattern": $pattern })
            }
        }
    };
}

text!(Name, 1 to 128, |c| !c.is_control(), r"^[^\u0000-\u001f\u007f-\u009f]*$");
text!(Reason, 0 to 200, |c| !c.is_control(), r"^[^\u0000-\u001f\u007f-\u009f]*$");
text!(Module, 1 to 100, |c| c.is_ascii_alphanumeric() || c == '_' || c == ':', "^[A-Za-z0-9_:]+$");

macro_rules! number {
    ($name:ident: $type:ty, $least:literal to $most:literal) => {
        impl $name {
            /// The number.
            pub fn get(self) -> $type {
                self.0
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                match <$type>::try_from(whole(deserializer)?) {
                    Ok(number @ $least..=$most) => Ok(Self(number)),
                    _ => {
                        let message = concat!("a number is ", $least, " to ", $most, " here");
                        Err(D::Error::custom(message))
                    }
                }
            }
        }

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "integer", "minimum": $least, "maximum": $most })
            }
        }
    };
}

number!(Weight: u32, 1 to 1000);
number!(Pid: i32, 1 to 2_147_483_647);
number!(Ticket: i64, 1 to 2_147_483_647);
text!(Message, 1 to 12000, |_| true, "^");

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({} bytes)", self.0.len())
    }
}

/// For the audit.
impl Serialize for Message {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{self:?}"))
    }
}

/// A whole number, which JSON may also write as `7.0`.
fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    let number = Number::deserialize(deserializer)?;
    let written_out = || {
        let number = number.as_f64().filter(|n| n.fract() == 0.0)?;
        format!("{number:.0}").parse().ok()
    };
    number
        .as_i64()
        .or_else(written_out)
        .ok_or_else(|| D::Error::custom("a whole number is wanted here"))
}

// === impl CircuitState, Level ===

impl Level {
    /// The word of a log filter; none for the default.
    pub fn word(self) -> Option<&'static str> {
        match self {
            Self::Default => None,
            Self::Off => Some("off"),
            Self::Error => Some("error"),
            Self::Warn => Some("warn"),
            Self::Info => Some("info"),
            Self::Debug => Some("debug"),
            Self::Trace => Some("trace"),
        }
    }
}
