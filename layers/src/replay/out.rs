//! What goes out to a reader, piece by piece.

use std::collections::VecDeque;

use bytes::Bytes;
use http_body::Frame;

/// Something that goes out.
#[derive(Debug)]
pub(super) struct Out {
    pub(super) frame: Frame<Bytes>,
    /// It begins an event, or is all there is.
    pub(super) begins: bool,
    /// With it this event is out.
    pub(super) ends: Option<u64>,
}

/// Puts the pieces of one event there, or of a part of it; with the last one the event `ends`, if it does.
pub(super) fn put(
    out: &mut VecDeque<Out>,
    pieces: impl IntoIterator<Item = Bytes>,
    begins: bool,
    ends: Option<u64>,
) {
    let mut begins = begins;
    let before = out.len();
    for piece in pieces {
        out.push_back(Out {
            frame: Frame::data(piece),
            begins: std::mem::take(&mut begins),
            ends: None,
        });
    }
    if out.len() > before
        && let Some(last) = out.back_mut()
    {
        last.ends = ends;
    }
}
