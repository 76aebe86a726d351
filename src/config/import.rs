//! Turns the `mcpServers` file of a desktop MCP client into a config: one route and one upstream for each server.
//!
//! Values stay as they are, secrets too, since nobody but their owner knows where else they are kept; a comment says so. References to variables in the
//! spellings that these clients have (`${env:NAME}`, `${input:name}`) become ours. What cannot be taken over is named in a comment, never dropped in silence.

use std::path::Path;

use super::ConfigErrors;
use super::interpolate::{escape, is_name};
use super::mistake::Mistakes;
use super::node::{Node, Place, Shape};
use super::secret::is_secret;
use super::source::text_of;
use super::yaml::{Entry, Tree, write_comment};

/// Reads a client's file and returns the text of a config.
pub fn import(path: &Path) -> Result<String, ConfigErrors> {
    translate(&text_of(path)?, &path.display().to_string())
}

/// A server of the client's file, as far as a config can say it.
struct Server {
    name: String,
    endpoint: Vec<(&'static str, Tree)>,
    notes: Vec<String>,
}

/// The keys that are taken over, or that say what the others say already.
const TAKEN: &[&str] = &[
    "args",
    "command",
    "cwd",
    "disabled",
    "env",
    "headers",
    "httpUrl",
    "serverUrl",
    "transport",
    "type",
    "url",
];

/// The text of a config with the servers of the given file.
pub(super) fn translate(text: &str, name: &str) -> Result<String, ConfigErrors> {
    let mut mistakes = Mistakes::new(name);
    // Variables are left as they stand: they are looked up when the config is used.
    let node = Node::parse(&without_comments(text), None, &mut mistakes);
    let text = node.and_then(|node| {
        let servers = find_servers(&node, &mut mistakes)?;
        let mut left_out = Vec::new();
        let mut taken: Vec<Server> = Vec::new();
        for (name, node) in servers {
            match server(name, node) {
                Ok(mut server) => {
                    server.name = free_name(&server.name, &taken);
                    taken.push(server);
                }
                Err(why) => left_out.push(format!("{name}: left out, {why}")),
            }
        }
        if taken.is_empty() {
            let message = format!(
                "there is no server here that could be taken over{}",
                joined(&left_out)
            );
            mistakes.error(
                &Place::default(),
                message,
                "add one with a `command` or a `url`",
            );
            return None;
        }
        Some(config(name, taken, &left_out))
    });
    mistakes.finish(text).map(|(text, _)| text)
}

fn joined(reasons: &[String]) -> String {
    if reasons.is_empty() {
        String::new()
    } else {
        format!(" ({})", reasons.join("; "))
    }
}

/// Clients keep their servers under one of these keys.
fn find_servers<'a>(node: &'a Node, mistakes: &mut Mistakes) -> Option<Vec<(&'a str, &'a Node)>> {
    let nested = node.get("mcp").and_then(|mcp| mcp.get("servers"));
    let found = node
        .get("mcpServers")
        .or_else(|| node.get("servers"))
        .or(nested);
    match found.map(|found| &found.shape) {
        Some(Shape::Map(entries)) => Some(
            entries
                .iter()
                .map(|(key, node)| (key.name.as_str(), node))
                .collect(),
        ),
        Some(Shape::Empty | Shape::Text(_) | Shape::List(_)) | None => {
            let cure = "give the file in which an MCP client keeps its servers, a JSON object with `mcpServers` in it";
            mistakes.error(
                &node.place,
                "there is no map `mcpServers` (or `servers`) here",
                cure,
            );
            None
        }
    }
}

/// One server, or why it is left out.
fn server(name: &str, node: &Node) -> Result<Server, String> {
    let Shape::Map(entries) = &node.shape else {
        return Err("it is not an object".to_owned());
    };
    let text = |key: &str| {
        node.get(key)
            .and_then(Node::text)
            .map(|text| text.value.as_str())
    };
    if text("disabled") == Some("true") {
        return Err("it is disabled in that file".to_owned());
    }
    if text("type").or(text("transport")) == Some("sse") {
        return Err(
            "it uses the HTTP+SSE transport of 2024-11-05, which ziggurat does not speak"
                .to_owned(),
        );
    }
    let mut notes = Vec::new();
    let url = text("url").or(text("httpUrl")).or(text("serverUrl"));
    let mut endpoint = match (text("command"), url) {
        (Some(command), None) => {
            let arguments = node.get("args").map(words).transpose()?.unwrap_or_default();
            let command = std::iter::once(command.to_owned()).chain(arguments);
            vec![(
                "command",
                Tree::List(
                    command
                        .map(|word| Tree::text(reference(&word, &mut notes)))
                        .collect(),
                ),
            )]
        }
        (None, Some(url)) => vec![("url", Tree::text(reference(url, &mut notes)))],
        (Some(_), Some(_)) => return Err("it has both a `command` and a `url`".to_owned()),
        (None, None) => return Err("it has neither a `command` nor a `url`".to_owned()),
    };
    let own = if url.is_some() { "headers" } else { "env" };
    if let Some(Shape::Map(values)) = node.get(own).map(|values| &values.shape) {
        let mut pairs = Vec::new();
        for (key, value) in values {
            let Some(value) = value.text() else {
                return Err(format!("`{own}.{}` is not a single value", key.name));
            };
            if is_secret(&key.name, &value.value) && !value.value.contains("${") {
                notes.push(format!(
                    "{} is written out here; `${{NAME}}` would read it from the environment",
                    key.name
                ));
            }
            pairs.push((
                key.name.clone(),
                Tree::text(reference(&value.value, &mut notes)),
            ));
        }
        if !pairs.is_empty() {
            endpoint.push((own, Tree::map(pairs)));
        }
    }
    if let Some(cwd) = text("cwd").filter(|_| url.is_none()) {
        endpoint.push(("cwd", Tree::text(reference(cwd, &mut notes))));
    }
    let other = if url.is_some() {
        ["env", "cwd", "args"].as_slice()
    } else {
        ["headers"].as_slice()
    };
    let lost: Vec<&str> = entries
        .iter()
        .map(|(key, _)| key.name.as_str())
        .filter(|key| !TAKEN.contains(key) || other.contains(key))
        .collect();
    if !lost.is_empty() {
        notes.push(format!("not taken over: {}", lost.join(", ")));
    }
    Ok(Server {
        name: slug(name),
        endpoint,
        notes,
    })
}

fn words(node: &Node) -> Result<Vec<String>, String> {
    let wrong = || "its `args` are not a list of words".to_owned();
    let Shape::List(items) = &node.shape else {
        return Err(wrong());
    };
    items
        .iter()
        .map(|item| item.text().map(|text| text.value.clone()).ok_or_else(wrong))
        .collect()
}

/// A name that a path, a metric and a log can carry.
fn slug(name: &str) -> String {
    let mut slug = String::new();
    for letter in name.chars() {
        if letter.is_ascii_alphanumeric() {
            slug.push(letter.to_ascii_lowercase());
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
    }
    let slug = &slug[..slug.len().min(64)];
    match slug.trim_end_matches('-') {
        "" => "server".to_owned(),
        slug => slug.to_owned(),
    }
}

fn free_name(name: &str, taken: &[Server]) -> String {
    let is_free = |name: &str| taken.iter().all(|server| server.name != name);
    if is_free(name) {
        return name.to_owned();
    }
    let numbered = (2..).map(|number| format!("{name}-{number}"));
    numbered
        .into_iter()
        .find(|name| is_free(name))
        .unwrap_or_default()
}

/// A value with the references of MCP clients turned into ours; any other `${` means itself.
fn reference(value: &str, notes: &mut Vec<String>) -> String {
    let mut out = String::new();
    let mut rest = value;
    while let Some((before, after)) = rest.split_once("${") {
        out.push_str(&escape(before));
        match after
            .split_once('}')
            .and_then(|(inside, after)| Some((variable(inside)?, after)))
        {
            Some((ours, after)) => {
                out.push_str(&format!("${{{ours}}}"));
                rest = after;
            }
            None => {
                let unknown = after.split('}').next().unwrap_or_default();
                notes.push(format!(
                    "${{{unknown}}} means something to that client only: write what it stood for"
                ));
                out.push_str("$${");
                rest = after;
            }
        }
    }
    out + rest
}

/// What stands between our braces for what stands between theirs.
fn variable(inside: &str) -> Option<String> {
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, format!(":-{default}")),
        None => (inside, String::new()),
    };
    // What the client itself knows about its window, and nobody else does.
    const CLIENT: &[&str] = &[
        "cwd",
        "file",
        "pathSeparator",
        "workspaceFolder",
        "workspaceFolderBasename",
    ];
    if name == "userHome" {
        return Some("HOME".to_owned());
    }
    if is_name(name) && !default.contains("${") && !CLIENT.contains(&name) {
        return Some(format!("{name}{default}"));
    }
    if let Some(name) = inside.strip_prefix("env:") {
        return is_name(name).then(|| name.to_owned());
    }
    let name = inside.strip_prefix("input:")?;
    let name: String = name
        .chars()
        .map(|letter| {
            if letter.is_ascii_alphanumeric() {
                letter.to_ascii_uppercase()
            } else {
                '_'
            }
        })
        .collect();
    is_name(&name).then_some(name)
}

fn config(source: &str, servers: Vec<Server>, left_out: &[String]) -> String {
    let mut out = String::new();
    write_comment(
        &mut out,
        &format!("made from {source} by `ziggurat import`"),
    );
    out.push('\n');
    for note in left_out {
        write_comment(&mut out, note);
        out.push('\n');
    }
    let routes = servers.iter().map(|server| {
        let path = Tree::map([("path", Tree::text(format!("/{}", server.name)))]);
        Tree::map([
            ("match", path),
            ("upstream", Tree::text(server.name.clone())),
        ])
    });
    let routes = Tree::List(routes.collect());
    let upstreams = servers.into_iter().map(|server| {
        let endpoints = Tree::List(vec![Tree::map(server.endpoint)]);
        Entry {
            key: server.name,
            value: Tree::map([("endpoints", endpoints)]),
            notes: server.notes,
        }
    });
    let upstreams = Tree::Map(upstreams.collect());
    out + &Tree::map([("routes", routes), ("upstreams", upstreams)]).document()
}

/// JSON without the comments that editors allow in it; every other character stays at its place.
fn without_comments(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut letters = text.chars().peekable();
    let mut in_string = false;
    while let Some(letter) = letters.next() {
        match (letter, letters.peek()) {
            ('\\', Some(_)) if in_string => {
                out.push(letter);
                out.extend(letters.next());
            }
            ('"', _) => {
                in_string = !in_string;
                out.push(letter);
            }
            ('/', Some('/')) if !in_string => {
                while letters.next_if(|letter| *letter != '\n').is_some() {}
            }
            ('/', Some('*')) if !in_string => {
                letters.next();
                out.push_str("  ");
                let mut last = ' ';
                for letter in letters.by_ref() {
                    out.push(if letter == '\n' { '\n' } else { ' ' });
                    if (last, letter) == ('*', '/') {
                        break;
                    }
                    last = letter;
                }
            }
            _ => out.push(letter),
        }
    }
    out
}
