//! Event streams, cut into their events, and the data of an event (WHATWG HTML, 9.2.6).

use std::{collections::VecDeque, mem};

use bytes::{Bytes, BytesMut};

use crate::mcp::sse::{MARK, Scanner, field, lines};

/// Cuts an event stream into its events.
pub(super) struct Cutter {
    scanner: Scanner,
    /// The beginning of an event whose end has not come.
    pub(super) held: BytesMut,
    /// What has come whole, and has not been shown.
    pub(super) next: VecDeque<Part>,
    pub(super) torn: Torn,
}

#[derive(Debug)]
pub(super) enum Part {
    /// An event, its id, and whether a byte order mark stands before it.
    Event {
        bytes: Bytes,
        id: Option<Box<str>>,
        marked: bool,
    },
    /// What goes out as it is: line ends between events, or a part of an event.
    Other(Bytes),
}

/// What became of the beginning of the event that comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Torn {
    /// It is held.
    Not,
    /// It went out, being too long.
    GoneOn,
    /// It was left out, being too long; only the event's id will go out.
    LeftOut,
}

// === impl Cutter ===

impl Default for Cutter {
    fn default() -> Self {
        Self {
            scanner: Scanner::plain(),
            held: BytesMut::new(),
            next: VecDeque::new(),
            torn: Torn::Not,
        }
    }
}

impl Cutter {
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty() && self.next.is_empty()
    }

    /// Cuts off the whole events of what came; one that came in one piece is not copied.
    pub(super) fn take(&mut self, data: &Bytes) {
        let Self {
            scanner,
            held,
            next,
            torn,
        } = self;
        let mut from = 0;
        scanner.feed_with_ends(data, |event, end| {
            let mut bytes = data.slice(from..end);
            from = end;
            if !held.is_empty() {
                held.extend_from_slice(&bytes);
                bytes = mem::take(held).freeze();
            }
            next.push_back(match mem::replace(torn, Torn::Not) {
                Torn::Not => Part::Event {
                    bytes,
                    id: event.id,
                    marked: event.marked,
                },
                Torn::GoneOn => Part::Other(bytes),
                Torn::LeftOut => Part::Other(id_alone(event.id)),
            });
        });
        let rest = data.slice(from..);
        if rest.is_empty() || *torn == Torn::LeftOut {
            return;
        }
        if scanner.at_boundary() {
            next.push_back(Part::Other(rest));
        } else {
            held.extend_from_slice(&rest);
        }
    }

    /// What is left at the end is no whole event: nobody will read it, and it goes out as it is.
    pub(super) fn release(&mut self) {
        if !self.held.is_empty() {
            let rest = mem::take(&mut self.held).freeze();
            self.next.push_back(Part::Other(rest));
        }
    }
}

/// What is left of an event that is left out: its client comes back for what follows it.
pub(super) fn id_alone(id: Option<Box<str>>) -> Bytes {
    id.map_or_else(Bytes::new, |id| Bytes::from(format!("id: {id}\n\n")))
}

/// The mark of an event that is `marked`, and its lines.
fn unmarked(event: &[u8], marked: bool) -> (&[u8], &[u8]) {
    let marked = marked && event.starts_with(MARK);
    event.split_at(if marked { MARK.len() } else { 0 })
}

/// The data of a whole event that is a message: one of another type is read by no client as such.
pub(super) fn data_of(event: &Bytes, marked: bool) -> Option<Bytes> {
    let (mut first, mut joined) = (None, BytesMut::new());
    let (mut message, mut ended) = (true, false);
    for (_, line) in lines(unmarked(event, marked).1) {
        ended = line.is_empty();
        match (field(line), first) {
            ((b"event", kind), _) => message = matches!(kind, b"" | b"message"),
            ((b"data", value), None) => first = Some(value),
            ((b"data", value), Some(before)) => {
                if joined.is_empty() {
                    joined.extend_from_slice(before);
                }
                joined.extend_from_slice(b"\n");
                joined.extend_from_slice(value);
            }
            _ => {}
        }
    }
    // Without the empty line at its end it is none.
    let first = first.filter(|_| message && ended)?;
    if joined.is_empty() {
        return (!first.is_empty()).then(|| event.slice_ref(first));
    }
    (!joined.trim_ascii().is_empty()).then(|| joined.freeze())
}

/// The event with other data: its id, its other fields and its comments stay. Without data, only what a client must know of it stays.
pub(super) fn with_data(event: &[u8], data: Option<&[u8]>, marked: bool) -> Bytes {
    let (mark, fields) = unmarked(event, marked);
    let mut out = BytesMut::with_capacity(event.len() + data.map_or(0, <[u8]>::len) + 8);
    let mut put = false;
    let mut kept = false;
    out.extend_from_slice(mark);
    for (whole, line) in lines(fields) {
        let (name, _) = field(line);
        if name == b"data" {
            if let Some(data) = data.filter(|_| !mem::replace(&mut put, true)) {
                kept = true;
                for piece in data.split(|b| matches!(b, b'\n' | b'\r')) {
                    out.extend_from_slice(b"data: ");
                    out.extend_from_slice(piece);
                    out.extend_from_slice(b"\n");
                }
            }
        } else {
            kept |= !line.is_empty() && name != b"event";
            out.extend_from_slice(whole);
        }
    }
    if !kept {
        return Bytes::new();
    }
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(pieces: &[&[u8]]) -> (Vec<Bytes>, BytesMut) {
        let mut cutter = Cutter::default();
        for piece in pieces {
            cutter.take(&Bytes::copy_from_slice(piece));
        }
        let bytes = |part| match part {
            Part::Event { bytes, .. } | Part::Other(bytes) => bytes,
        };
        (cutter.next.into_iter().map(bytes).collect(), cutter.held)
    }

    #[test]
    fn events_are_cut_where_they_end_however_they_come() {
        let text = ": hello\n\nid: 1\ndata: {\"a\":\ndata: 1}\n\n\ndata: 2\n\nda";
        for end in ["\n", "\r\n", "\r"] {
            let text = text.replace('\n', end);
            for at in 0..=text.len() {
                let (one, two) = text.as_bytes().split_at(at);
                let (events, held) = cut(&[one, two]);
                let data: Vec<_> = events
                    .iter()
                    .filter_map(|event| data_of(event, false))
                    .collect();
                assert_eq!(data, ["{\"a\":\n1}", "2"], "{at} {end:?} {events:?}");
                let all = [events.concat(), held.to_vec()].concat();
                assert_eq!(all, text.as_bytes());
            }
        }
    }

    #[test]
    fn other_data_leaves_the_rest_of_an_event() {
        let event = b": note\r\nid: 7\r\nevent: message\r\ndata: {\r\ndata: }\r\nretry: 5\r\n\r\n";
        assert_eq!(
            with_data(event, Some(b"{\n1}"), false),
            &b": note\r\nid: 7\r\nevent: message\r\ndata: {\ndata: 1}\nretry: 5\r\n\r\n"[..]
        );
        assert_eq!(
            with_data(b"id: 7\nevent: message\ndata: x\n\n", None, false),
            &b"id: 7\nevent: message\n\n"[..]
        );
        assert_eq!(
            with_data(b"event: message\ndata: x\n\n", None, false),
            Bytes::new()
        );
    }

    #[test]
    fn what_no_client_reads_as_a_message_is_none() {
        for event in [
            "id: 1\ndata:\n\n",
            ": x\n\n",
            "event: endpoint\ndata: /x\n\n",
            "data: 1\n",
            "event\n\n",
        ] {
            assert_eq!(data_of(&Bytes::from(event), false), None, "{event:?}");
        }
        assert_eq!(
            data_of(&Bytes::from("event\ndata:1\n\n"), false),
            Some(Bytes::from("1"))
        );
        let marked = Bytes::from("\u{feff}data: 1\n\n");
        assert_eq!(data_of(&marked, true), Some(Bytes::from("1")));
        assert_eq!(data_of(&marked, false), None);
        assert_eq!(with_data(&marked, Some(b"2"), true), "\u{feff}data: 2\n\n");
    }

    proptest::proptest! {
        #[test]
        fn nothing_is_lost_whatever_comes(text in "(data: [a-z]{0,3}|id: a|event: message|:|\n|\r|\r\n|data|x: y){0,20}", at in 0usize..40) {
            let at = at.min(text.len());
            let (one, two) = text.as_bytes().split_at(at);
            let (events, held) = cut(&[one, two]);
            let all = [events.concat(), held.to_vec()].concat();
            proptest::prop_assert_eq!(all, text.as_bytes());
        }
    }
}
