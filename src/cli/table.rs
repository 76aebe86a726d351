//! An answer of the admin API for people: columns, or a line for each member.

use std::io::{self, Write};

use serde_json::Value;

use crate::admin::operations::Show;

/// Writes an answer.
pub(super) fn show(show: Show, answer: &Value, out: &mut dyn Write) -> io::Result<()> {
    match show {
        Show::Fields => fields(answer, out),
        Show::Text("") => writeln!(out, "{}", json(answer)),
        Show::Text(member) => match &answer[member] {
            Value::String(text) => write!(out, "{}", harmless(text, true)),
            other => write!(out, "{}", cell(other)),
        },
        Show::Table { rows, columns } => table(rows, columns, answer, out),
    }
}

/// An answer as it is, which moves no cursor either.
pub(super) fn json(answer: &Value) -> String {
    escaped(&format!("{answer:#}"))
}

fn fields(answer: &Value, out: &mut dyn Write) -> io::Result<()> {
    let Some(members) = answer.as_object() else {
        return writeln!(out, "{}", cell(answer));
    };
    let width = members.keys().map(String::len).max().unwrap_or_default();
    for (name, value) in members {
        writeln!(out, "{name:width$}  {}", cell(value))?;
    }
    Ok(())
}

fn table(
    rows: &[&str],
    columns: &[(&str, &str)],
    answer: &Value,
    out: &mut dyn Write,
) -> io::Result<()> {
    let mut lines = vec![
        columns
            .iter()
            .map(|(title, _)| (*title).to_owned())
            .collect(),
    ];
    let outer = list(answer, rows.first().copied().unwrap_or_default());
    for item in outer {
        match rows.get(1) {
            None => lines.push(line(columns, item, item)),
            Some(nested) => {
                let inner = list(item, nested);
                lines.extend(inner.iter().map(|inner| line(columns, item, inner)));
            }
        }
    }
    let wide = |at: usize| move |line: &Vec<String>| line[at].chars().count();
    let widths: Vec<usize> = (0..columns.len())
        .map(|at| lines.iter().map(wide(at)).max().unwrap_or_default())
        .collect();
    for line in lines {
        let cells = line.iter().zip(&widths);
        let text: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        writeln!(out, "{}", text.join("  ").trim_end())?;
    }
    Ok(())
}

fn list<'a>(value: &'a Value, member: &str) -> &'a [Value] {
    let list = if member.is_empty() {
        value
    } else {
        &value[member]
    };
    list.as_array().map_or(&[], Vec::as_slice)
}

fn line(columns: &[(&str, &str)], outer: &Value, inner: &Value) -> Vec<String> {
    let cell = |(_, place): &(&str, &str)| match place.strip_prefix('^') {
        Some(place) => cell(at(outer, place)),
        None => cell(at(inner, place)),
    };
    columns.iter().map(cell).collect()
}

fn at<'a>(value: &'a Value, place: &str) -> &'a Value {
    place.split('/').fold(value, |value, name| &value[name])
}

/// A value in one cell.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => harmless(text, false),
        other => escaped(&other.to_string()),
    }
}

/// Names come from files, servers and clients: nothing in them moves the cursor of a terminal, or begins a line that would pass for one of the table's.
fn harmless(text: &str, lines: bool) -> String {
    let shown = |letter: char| match letter {
        '\n' if lines => Some('\n'),
        // Separators that some terminals take as ends of lines.
        '\n' | '\u{2028}' | '\u{2029}' => Some(' '),
        letter if letter.is_control() => None,
        letter => Some(letter),
    };
    text.chars().filter_map(shown).collect()
}

/// JSON in which also those controls are escaped that it lets through.
fn escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for letter in json.chars() {
        match letter {
            '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' => {
                text += &format!("\\u{:04x}", u32::from(letter));
            }
            letter => text.push(letter),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use serde_json::json;

    use super::*;

    fn shown(how: Show, answer: &Value) -> String {
        let mut out = Vec::new();
        show(how, answer, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn rows_stand_under_their_titles() {
        let how = Show::Table {
            rows: &["", "endpoints"],
            columns: &[
                ("UPSTREAM", "^name"),
                ("NAME", "name"),
                ("BREAKER", "circuit/state"),
            ],
        };
        let answer = json!([
            { "name": "tools", "endpoints": [
                { "name": "a-long-name", "circuit": { "state": "open" } },
                { "name": "b\u{1b}[2J", "circuit": null },
            ] },
            { "name": "none", "endpoints": [] },
        ]);
        assert_eq!(
            shown(how, &answer),
            "UPSTREAM  NAME         BREAKER\ntools     a-long-name  open\ntools     b[2J         -\n"
        );
    }

    #[test]
    fn a_name_makes_no_line_of_its_own_and_moves_no_cursor() {
        let forged = "a\nb  \u{9b}31mopen\u{2028}c\u{7f}";
        let how = Show::Table {
            rows: &[""],
            columns: &[("TOOL", "tool"), ("KEY", "key")],
        };
        let answer = json!([{ "tool": forged, "key": { "tool": forged } }]);
        let text = shown(how, &answer);
        assert_eq!(text.lines().count(), 2, "{text:?}");
        let one = "a b  31mopen c";
        assert_eq!(
            text.lines().last(),
            Some(&*format!(
                "{one}  {{\"tool\":\"a\\nb  \\u009b31mopen\\u2028c\\u007f\"}}"
            ))
        );
        let whole = shown(Show::Text(""), &answer);
        assert!(
            !whole.contains(['\u{9b}', '\u{2028}', '\u{7f}']),
            "{whole:?}"
        );
        assert_eq!(serde_json::from_str::<Value>(&whole).unwrap(), answer);
        assert_eq!(
            shown(Show::Fields, &json!({ "after": forged })),
            format!("after  {one}\n")
        );
    }

    #[test]
    fn members_stand_one_below_the_other() {
        assert_eq!(
            shown(Show::Fields, &json!({ "before": false, "after": "x" })),
            "after   x\nbefore  false\n"
        );
        assert_eq!(
            shown(Show::Text("yaml"), &json!({ "yaml": "a: 1\nb: 2\n" })),
            "a: 1\nb: 2\n"
        );
    }
}
