//! The journal that all replicas of a trial write: what was begun to be executed, and where, in the order in which that was.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::BoxError;

/// The file, while it is written.
pub(crate) struct Journal {
    dir: TempDir,
}

/// A place in the journal; what stands before it had begun when the place was noted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Mark(u64);

/// What stands in it.
pub(crate) struct Entries {
    entries: Vec<Entry>,
}

pub(crate) struct Entry {
    pub(crate) replica: String,
    /// The id of the call, as its [`Record`](crate::client::Record) has it.
    pub(crate) id: u64,
    at: Mark,
}

// === impl Journal ===

impl Journal {
    pub(crate) fn new() -> Result<Self, BoxError> {
        let journal = Self {
            dir: tempfile::tempdir()?,
        };
        std::fs::write(journal.path(), "")?;
        Ok(journal)
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("journal")
    }

    pub(crate) fn mark(&self) -> Result<Mark, BoxError> {
        Ok(Mark(std::fs::metadata(self.path())?.len()))
    }

    pub(crate) fn read(&self) -> Result<Entries, BoxError> {
        Entries::read(&self.path())
    }
}

// === impl Entries ===

impl Entries {
    fn read(file: &Path) -> Result<Self, BoxError> {
        let text = std::fs::read_to_string(file)?;
        let mut at = 0;
        let mut entries = Vec::new();
        for line in text.split_inclusive('\n') {
            let entry = Entry::read(line, Mark(at));
            entries
                .push(entry.ok_or_else(|| format!("the journal has a line that says {line:?}"))?);
            at += line.len() as u64;
        }
        Ok(Self { entries })
    }

    pub(crate) fn before(&self, mark: Mark) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |entry| entry.at < mark)
    }

    pub(crate) fn between(&self, from: Mark, to: Mark) -> impl Iterator<Item = &Entry> {
        self.before(to).filter(move |entry| from <= entry.at)
    }

    /// How often each call was executed.
    pub(crate) fn counts(&self) -> HashMap<u64, usize> {
        let mut counts = HashMap::new();
        for entry in &self.entries {
            *counts.entry(entry.id).or_default() += 1;
        }
        counts
    }
}

// === impl Entry ===

impl Entry {
    fn read(line: &str, at: Mark) -> Option<Self> {
        let mut words = line.strip_suffix('\n')?.split(' ');
        let (replica, _method, id) = (words.next()?, words.next()?, words.next()?);
        Some(Self {
            replica: replica.to_owned(),
            id: id.trim_matches('"').parse().ok()?,
            at,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journal_is_read_as_replicas_write_it() {
        let journal = Journal::new().expect("a file");
        std::fs::write(journal.path(), "a tools/list 7\n").expect("written");
        let mark = journal.mark().expect("a length");
        let more = "a tools/list 7\nb tools/call \"8\"\nb tools/call \"8\"\n";
        std::fs::write(journal.path(), more).expect("written");
        let entries = journal.read().expect("entries");
        assert_eq!(entries.counts(), HashMap::from([(7, 1), (8, 2)]));
        let before: Vec<u64> = entries.before(mark).map(|entry| entry.id).collect();
        assert_eq!(before, [7]);
        let end = journal.mark().expect("a length");
        assert!(entries.between(mark, end).all(|entry| entry.replica == "b"));
    }
}
