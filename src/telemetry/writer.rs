//! A log writer that never blocks the thread that logs.
//!
//! A line is appended to a buffer under a short lock. One thread writes the buffer out in few calls: at once for a warning
//! or an error, else when [`READY`] bytes are there or [`DELAY`] after the first line. When the reader of stderr is stuck
//! the buffer fills up to [`BOUND`]; from there lines are dropped and counted, and the number is logged once it flows again.

use std::io::{self, ErrorKind, Write};
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// More than this is never buffered.
pub(super) const BOUND: usize = 1 << 20;
/// So much is written without waiting for more.
const READY: usize = 64 * 1024;
/// No line waits longer for its neighbours.
const DELAY: Duration = Duration::from_millis(100);
/// How long a process that ends waits for a stderr that does not move.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long to wait when stderr would block.
const RETRY: Duration = Duration::from_millis(10);

/// Counts the log lines that were lost.
#[derive(Clone, Debug)]
pub struct LogDrops {
    shared: Arc<Shared>,
}

/// Makes writers for the tracing subscriber.
#[derive(Clone, Debug)]
pub(super) struct LineWriter {
    shared: Arc<Shared>,
}

/// Takes one line.
pub(super) struct Line<'a> {
    shared: &'a Shared,
    urgent: bool,
}

/// The thread that writes. Dropping it writes out what is left, for at most [`PATIENCE`].
#[derive(Debug)]
pub(super) struct WriterThread {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    buffer: Mutex<Buffer>,
    /// The writer thread waits here.
    ready: Condvar,
    /// Who waits for the writer thread to end.
    done: Condvar,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct Buffer {
    bytes: Vec<u8>,
    urgent: bool,
    ending: bool,
    ended: bool,
}

// === impl LogDrops ===

impl LogDrops {
    /// How many lines were lost since the start.
    pub fn lines(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }
}

// === impl LineWriter ===

impl<'a> MakeWriter<'a> for LineWriter {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line {
            shared: &self.shared,
            urgent: false,
        }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Line<'a> {
        Line {
            shared: &self.shared,
            urgent: *meta.level() <= Level::WARN,
        }
    }
}

// === impl Line ===

impl Write for Line<'_> {
    /// Takes all of it or drops all of it, and never fails: there is nobody who could do better.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.shared.push(line, self.urgent);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

// === impl Shared ===

impl Shared {
    fn new() -> Self {
        Self {
            buffer: Mutex::default(),
            ready: Condvar::new(),
            done: Condvar::new(),
            dropped: AtomicU64::new(0),
        }
    }

    fn push(&self, line: &[u8], urgent: bool) {
        let mut buffer = self.buffer();
        let before = buffer.bytes.len();
        if buffer.ended || before + line.len() > BOUND {
            drop(buffer);
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        buffer.bytes.extend_from_slice(line);
        let full = before < READY && buffer.bytes.len() >= READY;
        let wake = before == 0 || full || (urgent && !buffer.urgent);
        buffer.urgent |= urgent;
        drop(buffer);
        if wake {
            self.ready.notify_one();
        }
    }

    /// Waits for lines that are due. `None` when the writer should end and nothing is left.
    fn due(&self, empty: &mut Vec<u8>) -> Option<()> {
        let buffer = self.buffer();
        let waited = self
            .ready
            .wait_while(buffer, |buffer| buffer.bytes.is_empty() && !buffer.ending);
        let buffer = waited.unwrap_or_else(PoisonError::into_inner);
        if buffer.bytes.is_empty() {
            return None;
        }
        let waited = self
            .ready
            .wait_timeout_while(buffer, DELAY, |buffer| !buffer.is_due());
        let (mut buffer, _) = waited.unwrap_or_else(PoisonError::into_inner);
        buffer.urgent = false;
        mem::swap(&mut buffer.bytes, empty);
        Some(())
    }

    /// Whether all of it could be written; what could not counts as dropped.
    fn write(&self, sink: &mut impl Write, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            match sink.write(bytes) {
                Ok(0) => break,
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.pause(),
                Err(_) => break,
            }
        }
        let lost = bytes.iter().filter(|byte| **byte == b'\n').count();
        self.dropped.fetch_add(lost as u64, Ordering::Relaxed);
        bytes.is_empty()
    }

    fn pause(&self) {
        drop(self.ready.wait_timeout(self.buffer(), RETRY));
    }

    fn buffer(&self) -> MutexGuard<'_, Buffer> {
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Buffer ===

impl Buffer {
    fn is_due(&self) -> bool {
        self.urgent || self.ending || self.bytes.len() >= READY
    }
}

// === impl WriterThread ===

impl WriterThread {
    /// Starts the thread. After lines were lost and the sink takes some again, `report` is called with their number.
    pub(super) fn start(
        sink: impl Write + Send + 'static,
        report: impl Fn(u64) + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared::new());
        let thread = shared.clone();
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || write_all(&thread, sink, report))?;
        Ok(Self { shared })
    }

    pub(super) fn lines(&self) -> LineWriter {
        LineWriter {
            shared: self.shared.clone(),
        }
    }

    pub(super) fn drops(&self) -> LogDrops {
        LogDrops {
            shared: self.shared.clone(),
        }
    }
}

impl Drop for WriterThread {
    fn drop(&mut self) {
        let mut buffer = self.shared.buffer();
        buffer.ending = true;
        self.shared.ready.notify_one();
        drop(
            self.shared
                .done
                .wait_timeout_while(buffer, PATIENCE, |buffer| !buffer.ended),
        );
    }
}

/// The thread's life.
fn write_all(shared: &Shared, mut sink: impl Write, report: impl Fn(u64)) {
    let mut bytes = Vec::new();
    let mut reported = 0;
    while shared.due(&mut bytes).is_some() {
        let written = shared.write(&mut sink, &bytes);
        bytes.clear();
        let lost = shared.dropped.load(Ordering::Relaxed);
        // Not while the sink fails, or each report would be the next line that is lost.
        if written && lost > reported {
            report(lost - reported);
            reported = lost;
        }
    }
    shared.buffer().ended = true;
    shared.done.notify_all();
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    use super::*;

    /// A sink that takes a write only when the test reads it.
    struct Slow(SyncSender<Vec<u8>>);

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0
                .send(bytes.to_vec())
                .map_err(|_| ErrorKind::BrokenPipe)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn slow() -> (WriterThread, Receiver<Vec<u8>>, Receiver<u64>) {
        let (sink, written) = sync_channel(0);
        let (report, reports) = sync_channel(100);
        let writer =
            WriterThread::start(Slow(sink), move |lines| report.send(lines).unwrap()).unwrap();
        (writer, written, reports)
    }

    #[test]
    fn lines_are_gathered_into_one_write() {
        let shared = Shared::new();
        for _ in 0..10 {
            shared.push(b"line\n", false);
        }
        let mut bytes = Vec::new();
        assert!(shared.due(&mut bytes).is_some());
        assert_eq!(bytes, b"line\n".repeat(10));
    }

    #[test]
    fn an_urgent_line_and_a_full_buffer_do_not_wait() {
        let shared = Shared::new();
        shared.push(b"one\n", false);
        assert!(!shared.buffer().is_due());
        shared.push(b"two\n", true);
        assert!(shared.buffer().is_due());
        shared.due(&mut Vec::new());
        assert!(!shared.buffer().is_due());
        shared.push(&[b'x'; READY], false);
        assert!(shared.buffer().is_due());
    }

    #[test]
    fn a_blocked_sink_costs_lines_and_reports_them() {
        let (writer, written, reports) = slow();
        let line = [b'x'; 1023]
            .iter()
            .chain(b"\n")
            .copied()
            .collect::<Vec<_>>();
        // The first goes to the thread, which blocks on it. Then the buffer fills, and nothing here waits.
        writer.shared.push(&line, true);
        while !writer.shared.buffer().bytes.is_empty() {
            thread::yield_now();
        }
        for _ in 0..BOUND / line.len() + 7 {
            writer.shared.push(&line, false);
        }
        assert_eq!(writer.drops().lines(), 7);

        assert_eq!(written.recv().unwrap().len(), line.len());
        assert_eq!(written.recv().unwrap().len(), BOUND);
        assert_eq!(reports.recv().unwrap(), 7);
    }

    #[test]
    fn dropping_the_thread_writes_out_what_is_left() {
        let (writer, written, _reports) = slow();
        let reader = thread::spawn(move || written.iter().flatten().collect::<Vec<_>>());
        writer.shared.push(b"last words\n", false);
        drop(writer);
        assert_eq!(reader.join().unwrap(), b"last words\n");
    }

    #[test]
    fn a_broken_sink_counts_its_lines() {
        let (sink, written) = sync_channel(0);
        drop(written);
        let writer = WriterThread::start(Slow(sink), |_| {}).unwrap();
        writer.shared.push(b"one\n", false);
        writer.shared.push(b"two\n", true);
        let drops = writer.drops();
        drop(writer);
        assert_eq!(drops.lines(), 2);
    }
}
