//! Writes YAML: a small tree of values, as text that reads back as the same values.

/// A value to be written.
#[derive(Clone, Debug)]
pub(super) enum Tree {
    /// A word that YAML leaves alone: a number, a duration, `off`.
    Bare(String),
    /// Any text.
    Text(String),
    List(Vec<Tree>),
    Map(Vec<Entry>),
}

/// A key with its value.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) value: Tree,
    /// Lines of comment above it.
    pub(super) notes: Vec<String>,
}

// === impl Tree ===

impl Tree {
    pub(super) fn bare(value: impl ToString) -> Self {
        Self::Bare(value.to_string())
    }

    pub(super) fn text(value: impl Into<String>) -> Self {
        Self::Text(value.into())
    }

    /// A map without comments.
    pub(super) fn map<K: Into<String>>(entries: impl IntoIterator<Item = (K, Self)>) -> Self {
        Self::Map(
            entries
                .into_iter()
                .map(|(key, value)| Entry {
                    key: key.into(),
                    value,
                    notes: Vec::new(),
                })
                .collect(),
        )
    }

    /// The document.
    pub(super) fn document(&self) -> String {
        let mut out = String::new();
        self.block(&mut out, 0);
        out.trim_start_matches('\n').to_owned() + "\n"
    }

    /// Writes what stands behind `key:` or `-`, without a line break at the end.
    fn block(&self, out: &mut String, indent: usize) {
        match self {
            Self::Map(entries) if !entries.is_empty() => {
                for entry in entries {
                    line(out, indent);
                    entry.write(out, indent);
                }
            }
            Self::List(items) if items.iter().any(|item| !item.is_scalar()) => {
                for item in items {
                    line(out, indent);
                    out.push('-');
                    item.behind_dash(out, indent + 2);
                }
            }
            Self::Bare(_) | Self::Text(_) | Self::List(_) | Self::Map(_) => {
                out.push(' ');
                self.inline(out);
            }
        }
    }

    /// The first key of a map stands on the line of the dash.
    fn behind_dash(&self, out: &mut String, indent: usize) {
        match self {
            Self::Map(entries) if !entries.is_empty() => {
                for (index, entry) in entries.iter().enumerate() {
                    if index == 0 {
                        out.push(' ')
                    } else {
                        line(out, indent)
                    }
                    entry.write(out, indent);
                }
            }
            Self::Bare(_) | Self::Text(_) | Self::List(_) | Self::Map(_) => self.block(out, indent),
        }
    }

    fn inline(&self, out: &mut String) {
        match self {
            Self::Bare(word) => out.push_str(word),
            Self::Text(text) => out.push_str(&quoted(text)),
            Self::List(items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        out.push_str(", ");
                    }
                    item.inline(out);
                }
                out.push(']');
            }
            // Only empty maps get here: the others are written in lines.
            Self::Map(_) => out.push_str("{}"),
        }
    }

    fn is_scalar(&self) -> bool {
        matches!(self, Self::Bare(_) | Self::Text(_))
    }
}

// === impl Entry ===

impl Entry {
    fn write(&self, out: &mut String, indent: usize) {
        for note in &self.notes {
            // A comment ends with its line, whatever the note holds.
            write_comment(out, note);
            line(out, indent);
        }
        out.push_str(&quoted(&self.key));
        out.push(':');
        self.value.block(out, indent + 2);
    }
}

/// A comment of one line; what would end the line or hide from a reader is written as a space.
pub(super) fn write_comment(out: &mut String, note: &str) {
    out.push_str("# ");
    out.extend(
        note.chars()
            .map(|letter| if letter.is_control() { ' ' } else { letter }),
    );
}

fn line(out: &mut String, indent: usize) {
    out.push('\n');
    out.extend(std::iter::repeat_n(' ', indent));
}

/// The text as it is, if YAML takes it for text anywhere; else in double quotes.
fn quoted(text: &str) -> String {
    let plain = text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '/')
        && text
            .chars()
            .all(|letter| letter.is_ascii_alphanumeric() || "-_./@+".contains(letter))
        && !["true", "false", "null", "yes", "no", "on", "off", "y", "n"]
            .contains(&text.to_ascii_lowercase().as_str());
    if plain {
        return text.to_owned();
    }
    let mut out = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            // What YAML would fold, refuse or lose.
            letter
                if letter.is_control()
                    || matches!(letter, '\u{2028}' | '\u{2029}' | '\u{feff}') =>
            {
                out.push_str(&format!("\\U{:08X}", u32::from(letter)));
            }
            letter => out.push(letter),
        }
    }
    out.push('"');
    out
}
