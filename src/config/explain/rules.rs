//! The way back for rules. Those of a file are printed as its path.

use http::{HeaderName, HeaderValue};
use serde_json::Value;
use ziggurat_layers::intercept::{
    Edit, PatchOp,
    rules::{Action, Change, Respond, Rule, Template, When},
};

use super::{Section, Tree, size};
use crate::config::Intercept;
use crate::config::interpolate::escape;
use crate::config::node::join;
use crate::config::secret::{MASK, is_secret};

pub(super) fn intercept(section: &mut Section<'_>, intercept: Option<&Intercept>) {
    let Some(intercept) = intercept else {
        return section.bare("intercept", "off");
    };
    section.section("intercept", |section| {
        match &intercept.file {
            Some(file) => section.path("rules", file),
            None => {
                let path = join(&section.path, "rules");
                let rules = intercept.rules.rules.iter().enumerate();
                let rules = rules.map(|(index, rule)| {
                    let mut inner = Section::new(&format!("{path}[{index}]"), section.origins);
                    self::rule(&mut inner, rule);
                    inner.finish()
                });
                let rules = rules.collect();
                section.put("rules", Tree::List(rules));
            }
        }
        section.bare("dry_run", intercept.rules.dry_run);
        section.bare("message_cap", size(intercept.message_cap));
    });
}

fn rule(section: &mut Section<'_>, rule: &Rule) {
    section.text("name", &rule.name);
    section.section("when", |section| when(section, &rule.when));
    match &rule.action {
        Action::Continue => section.bare("continue", true),
        Action::Modify(change) => section.section("modify", |section| modify(section, change)),
        Action::Block(words) => section.text("block", words),
        Action::Mock(respond) => section.section("mock", |section| mock(section, respond)),
        Action::Delay(time) => section.clock("delay", *time),
        Action::Pause(settings) => section.section("pause", |section| {
            section.clock("limit", settings.limit);
            section.word("then", settings.then);
        }),
    }
    section.word("on_error", rule.on_error);
}

fn when(section: &mut Section<'_>, when: &When) {
    section.word("direction", when.direction);
    for (key, patterns) in [
        ("method", &when.methods),
        ("tool", &when.tools),
        ("prompt", &when.prompts),
        ("resource", &when.resources),
        ("path", &when.paths),
        ("principal", &when.principals),
    ] {
        if !patterns.is_empty() {
            section.list(key, patterns);
        }
    }
    if !when.headers.is_empty() {
        section.section("header", |section| {
            for (name, pattern) in &when.headers {
                let key = section.spelling(name);
                section.guarded(&key, pattern.as_ref());
            }
        });
    }
    if let Some(expression) = &when.expression {
        section.text("expression", expression.as_str());
    }
}

fn modify(section: &mut Section<'_>, change: &Change) {
    let set = change.edits.iter().filter_map(|edit| match edit {
        Edit::Set(pointer, value) => Some((pointer.to_string(), read(value))),
        Edit::Remove(_) | Edit::Patch(_) => None,
    });
    let set: Vec<_> = set.collect();
    if !set.is_empty() {
        section.section("set", |section| {
            for (pointer, value) in &set {
                section.json(pointer, last_name(pointer), value);
            }
        });
    }
    let removed = change.edits.iter().filter_map(|edit| match edit {
        Edit::Remove(pointer) => Some(pointer.to_string()),
        Edit::Set(..) | Edit::Patch(_) => None,
    });
    let removed: Vec<_> = removed.collect();
    if !removed.is_empty() {
        section.list("remove", &removed);
    }
    let ops = change.edits.iter().filter_map(|edit| match edit {
        Edit::Patch(ops) => Some(ops),
        Edit::Set(..) | Edit::Remove(_) => None,
    });
    let path = join(&section.path, "patch");
    let ops = ops.flatten().enumerate().map(|(index, op)| {
        let mut inner = Section::new(&format!("{path}[{index}]"), section.origins);
        patch(&mut inner, op);
        inner.finish()
    });
    let ops: Vec<_> = ops.collect();
    if !ops.is_empty() {
        section.put("patch", Tree::List(ops));
    }
    if !(change.set_headers.is_empty() && change.remove_headers.is_empty()) {
        section.section("headers", |section| {
            headers(section, "set", &change.set_headers);
            section.list("remove", &change.remove_headers);
        });
    }
}

fn headers(section: &mut Section<'_>, key: &str, headers: &[(HeaderName, HeaderValue)]) {
    section.section(key, |section| {
        for (name, value) in headers {
            let text = String::from_utf8_lossy(value.as_bytes());
            section.guarded(&section.spelling(name), &text);
        }
    });
}

fn patch(section: &mut Section<'_>, op: &PatchOp) {
    let (word, path, from, value) = match op {
        PatchOp::Add(path, value) => ("add", path, None, Some(value)),
        PatchOp::Remove(path) => ("remove", path, None, None),
        PatchOp::Replace(path, value) => ("replace", path, None, Some(value)),
        PatchOp::Move(from, path) => ("move", path, Some(from), None),
        PatchOp::Copy(from, path) => ("copy", path, Some(from), None),
        PatchOp::Test(path, value) => ("test", path, None, Some(value)),
    };
    section.bare("op", word);
    section.text("path", &path.to_string());
    if let Some(from) = from {
        section.text("from", &from.to_string());
    }
    if let Some(value) = value {
        section.json("value", last_name(&path.to_string()), &read(value));
    }
}

fn mock(section: &mut Section<'_>, respond: &Respond) {
    match respond {
        Respond::Result(result) => section.json("result", "result", result.value()),
        Respond::Error {
            code,
            message,
            data,
        } => section.section("error", |section| {
            section.bare("code", code);
            section.json("message", "message", message.value());
            if let Some(data) = data {
                section.json("data", "data", data.value());
            }
        }),
        Respond::Http {
            status,
            headers,
            body,
        } => section.section("http", |section| {
            section.bare("status", status.as_u16());
            self::headers(section, "headers", headers);
            section.json("body", "body", Template::value(body));
        }),
    }
}

/// A value that was written as JSON when it was checked.
fn read(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}

/// The last name in a pointer; places in a list have none.
fn last_name(pointer: &str) -> &str {
    let mut parts = pointer.rsplit('/');
    let is_place = |part: &str| {
        part.bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'-')
    };
    parts.find(|part| !is_place(part)).unwrap_or_default()
}

impl Section<'_> {
    /// Any value of JSON under a name that tells whether it is a secret; such are masked, and what came from the environment is written as it was.
    fn json(&mut self, key: &str, name: &str, value: &Value) {
        let path = join(&self.path, key);
        let tree = self.tree(&path, name, value);
        self.entries.push((key.to_owned(), tree));
    }

    fn tree(&self, path: &str, name: &str, value: &Value) -> Tree {
        if let Some(template) = self.template(path, name) {
            return template;
        }
        match value {
            Value::String(text) if is_secret(name, text) => Tree::text(MASK),
            Value::String(text) => Tree::text(escape(text)),
            Value::Array(all) => {
                let all = all.iter().enumerate();
                Tree::List(
                    all.map(|(at, value)| self.tree(&format!("{path}[{at}]"), name, value))
                        .collect(),
                )
            }
            Value::Object(all) => Tree::map(
                all.iter()
                    .map(|(key, value)| (key.clone(), self.tree(&join(path, key), key, value))),
            ),
            Value::Null | Value::Bool(_) | Value::Number(_) => Tree::bare(value),
        }
    }
}
