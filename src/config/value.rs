//! The kinds of single values that a file may hold.
//!
//! Each is a type of its own, so that a value is right by its type once it has been read: `amount` reads durations, sizes and counts, `name` the names of
//! things, `wire` what belongs to HTTP and sockets, `choice` the words of which one is chosen.

use std::num::NonZeroUsize;
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};
use ziggurat_layers::share::Share;

pub(super) use self::choice::Worded;

mod amount;
mod choice;
mod name;
mod wire;

/// A duration above zero.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock(pub(super) Duration);

/// A duration, or none at all.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pause(pub(super) Duration);

/// A number of bytes above zero.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size(pub(super) u64);

/// A number above zero.
#[derive(Clone, Copy, Debug)]
pub(super) struct Count(pub(super) NonZeroUsize);

/// A part of the whole.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part(pub(super) Share);

/// A number that may be zero or broken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Amount(pub(super) f64);

/// A place in an order, from 0.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rank(pub(super) u32);

/// The status of an HTTP response that is an error.
#[derive(Clone, Copy, Debug)]
pub(super) struct ErrorStatus(pub(super) StatusCode);

/// A token of the admin API.
#[derive(Clone)]
pub(super) struct AdminToken(pub(super) String);

/// A key for session ids.
#[derive(Clone)]
pub(super) struct SealKey(pub(super) String);

/// Statuses of HTTP responses, from one to another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Statuses(pub(super) u16, pub(super) u16);

/// `true` or `false`, `on` or `off`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Switch(pub(super) bool);

/// A host name or address, without a scheme and without a port; in lower case.
#[derive(Clone, Debug)]
pub(super) struct HostName(pub(super) String);

/// A name that metrics and logs can carry.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Label(pub(super) String);

/// The path of a route.
#[derive(Clone, Debug)]
pub(super) struct RoutePath(pub(super) String);

/// A name of tools or methods, in which `*` stands for any text.
#[derive(Clone, Debug)]
pub(super) struct NamePattern(pub(super) String);

/// How many of the first bits of an IPv6 address count.
#[derive(Clone, Copy, Debug)]
pub(super) struct Prefix(pub(super) u8);

/// Any text, which may be a secret.
#[derive(Clone, Debug)]
pub(super) struct Word(pub(super) String);

/// The name of an environment variable.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct VariableName(pub(super) String);

/// A header that the operator may set on a request to an upstream.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct SettableHeader(pub(super) HeaderName);

/// The value of a header, which may be a secret.
#[derive(Clone, Debug)]
pub(super) struct HeaderText(pub(super) HeaderValue);

/// The URL of an upstream.
#[derive(Clone, Debug)]
pub(super) struct Url(pub(super) http::Uri);

impl std::fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AdminToken")
    }
}

impl std::fmt::Debug for SealKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SealKey")
    }
}
