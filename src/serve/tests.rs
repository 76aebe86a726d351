//! The listener over real sockets. Time is paused where a clock is the subject.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod accept;
mod drain;
mod hostile;
mod limits;
mod live;
mod tls;

use super::testing::{Raw, Running, endless, whole};
use super::{Peer, ServeSettings, Served};
