//! Mistakes in a config: what is wrong, where, and what would be right.
//!
//! Messages name keys and quote values as they stand in the file; a value that came from the environment is quoted as the
//! reference that stands there, and the lines of the file are never shown, since a secret may stand beside the mistake.

use std::error::Error;
use std::fmt;

use super::node::Place;

/// All the mistakes of a config, with the warnings that came up on the way; its text is what `check` prints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    errors: Vec<Finding>,
    warnings: Vec<Warning>,
}

/// Something that works, but is likely not what was meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning(Finding);

/// One thing to say about one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    file: String,
    place: Place,
    message: String,
    cure: String,
}

/// Collects findings while a config is read.
#[derive(Debug)]
pub(super) struct Mistakes {
    file: String,
    errors: Vec<Finding>,
    warnings: Vec<Warning>,
}

// === impl ConfigErrors ===

impl ConfigErrors {
    /// A file, or a command line, that did not get as far as having lines.
    pub(super) fn single(file: &str, message: String, cure: &str) -> Self {
        let mut mistakes = Mistakes::new(file);
        mistakes.error(&Place::default(), message, cure);
        Self {
            errors: mistakes.errors,
            warnings: Vec::new(),
        }
    }

    /// How many mistakes there are.
    pub fn count(&self) -> usize {
        self.errors.len()
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let errors = self.errors.iter().map(|finding| (finding, "error"));
        let warnings = self.warnings.iter().map(|warning| (&warning.0, "warning"));
        let mut all: Vec<_> = errors.chain(warnings).collect();
        // The findings of the config itself first, then those of the files that it names.
        let own = all.first().map(|(finding, _)| finding.file.clone());
        all.sort_by_key(|(finding, _)| {
            let (other, file) = (own.as_ref() != Some(&finding.file), &finding.file);
            (other, file, finding.place.line, finding.place.column)
        });
        for (index, (finding, severity)) in all.into_iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            finding.write(f, severity)?;
        }
        Ok(())
    }
}

impl Error for ConfigErrors {}

// === impl Warning ===

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.write(f, "warning")
    }
}

// === impl Finding ===

impl Finding {
    fn write(&self, f: &mut fmt::Formatter<'_>, severity: &str) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.place.line > 0 {
            write!(f, ":{}:{}", self.place.line, self.place.column)?;
        }
        write!(f, ": {severity}: ")?;
        // Without a line there is no file, and a key path would mean nothing to the reader.
        if self.place.line > 0 && !self.place.path.is_empty() {
            write!(f, "{}: ", self.place.path)?;
        }
        f.write_str(&self.message)?;
        if !self.cure.is_empty() {
            write!(f, "\n    help: {}", self.cure)?;
        }
        Ok(())
    }
}

// === impl Mistakes ===

impl Mistakes {
    pub(super) fn new(file: &str) -> Self {
        Self {
            file: file.to_owned(),
            errors: Vec::new(),
            warnings: Vec::new(),
        }
    }

    pub(super) fn error(
        &mut self,
        place: &Place,
        message: impl Into<String>,
        cure: impl Into<String>,
    ) {
        let finding = self.finding(place, message.into(), cure.into());
        // An anchor that is used twice would report each of its mistakes twice.
        if !self
            .errors
            .iter()
            .any(|known| known.says_the_same(&finding))
        {
            self.errors.push(finding);
        }
    }

    pub(super) fn warning(
        &mut self,
        place: &Place,
        message: impl Into<String>,
        cure: impl Into<String>,
    ) {
        let warning = Warning(self.finding(place, message.into(), cure.into()));
        self.warnings.push(warning);
    }

    /// How many errors there are.
    pub(super) fn count(&self) -> usize {
        self.errors.len()
    }

    /// Takes in what was found in another file.
    pub(super) fn include(&mut self, other: Self) {
        self.errors.extend(other.errors);
        self.warnings.extend(other.warnings);
    }

    /// Whether something was wrong at a place or below it, so that what is missing there need not be said too.
    pub(super) fn has_below(&self, place: &Place) -> bool {
        self.errors
            .iter()
            .any(|error| error.file == self.file && error.place.path.starts_with(&place.path))
    }

    /// The value, if nothing was wrong on the way to it.
    pub(super) fn finish<T>(self, value: Option<T>) -> Result<(T, Vec<Warning>), ConfigErrors> {
        match value {
            Some(value) if self.errors.is_empty() => Ok((value, self.warnings)),
            _ => Err(ConfigErrors {
                errors: self.errors,
                warnings: self.warnings,
            }),
        }
    }

    fn finding(&self, place: &Place, message: String, cure: String) -> Finding {
        Finding {
            file: self.file.clone(),
            place: place.clone(),
            message,
            cure,
        }
    }
}

impl Finding {
    fn says_the_same(&self, other: &Self) -> bool {
        self.place.line > 0
            && self.file == other.file
            && (self.place.line, self.place.column) == (other.place.line, other.place.column)
            && self.message == other.message
    }
}
