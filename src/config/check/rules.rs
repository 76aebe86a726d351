//! Rules: what they do must be possible where they do it.

use std::path::PathBuf;
use std::time::Duration;

use http::HeaderName;
use serde_json::{Value, json};
use ziggurat_layers::intercept::{
    Decision, Direction, Edit, PatchOp, PauseSettings, Pointer,
    rules::{Action, Change, Respond, Rule, RuleSet, Template, When},
};
use ziggurat_layers::pattern::Pattern;

use super::Context;
use crate::config::mistake::Mistakes;
use crate::config::node::{Node, Place};
use crate::config::read::{At, Read};
use crate::config::rules::{
    Glob, Json, PatchWord, RawHeaders, RawIntercept, RawMock, RawModify, RawPatch, RawRule,
    RawRulesFile, RawWhen, RulesOrFile,
};
use crate::config::value::{Clock, SettableHeader};
use crate::config::{Intercept, Protocol};

/// The most rules of a route.
const MOST: usize = 500;
/// The longest file.
const LONGEST_FILE: u64 = 4 << 20;

/// Headers that say what a message is, or whose session it belongs to.
const MCP: &[&str] = &[
    "last-event-id",
    "mcp-method",
    "mcp-name",
    "mcp-protocol-version",
    "mcp-session-id",
];

/// What a route says that its rules go by.
#[derive(Clone, Copy)]
pub(super) struct Around {
    pub(super) protocol: Protocol,
    /// The longest silence of any call, also of tools that may take longer than others.
    pub(super) deadline: Option<Duration>,
}

pub(super) fn check(
    raw: RawIntercept,
    around: Around,
    context: &Context<'_>,
    mistakes: &mut Mistakes,
) -> Intercept {
    let (rules, file) = match raw.rules {
        RulesOrFile::Rules(rules) => (all(rules, around, mistakes), None),
        RulesOrFile::File(path) => {
            let written = path.value.clone();
            (from_file(path, around, context, mistakes), Some(written))
        }
    };
    Intercept {
        rules: RuleSet {
            rules,
            dry_run: raw.dry_run.0,
        },
        file,
        message_cap: raw.message_cap.0,
    }
}

/// Reads a file of rules; its mistakes are told with its own name and lines.
fn from_file(
    path: At<PathBuf>,
    around: Around,
    context: &Context<'_>,
    mistakes: &mut Mistakes,
) -> Vec<Rule> {
    let before = mistakes.count();
    let place = path.place.clone();
    let file = context.readable(path, mistakes);
    if mistakes.count() > before {
        return Vec::new();
    }
    let long = std::fs::metadata(&file).is_ok_and(|metadata| metadata.len() > LONGEST_FILE);
    let text = if long {
        None
    } else {
        std::fs::read_to_string(&file).ok()
    };
    let Some(text) = text else {
        let cure = "save the rules as UTF-8, in a file of at most 4 MiB";
        mistakes.error(&place, "the file is no text, or too long", cure);
        return Vec::new();
    };
    let mut own = Mistakes::new(&file.display().to_string());
    let node = Node::parse(&text, Some(context.environment), &mut own);
    let raw = node.and_then(|node| RawRulesFile::read(&node, &mut own));
    let rules = raw.map(|raw| all(raw.rules, around, &mut own));
    mistakes.include(own);
    rules.unwrap_or_default()
}

fn all(raw: Vec<At<RawRule>>, around: Around, mistakes: &mut Mistakes) -> Vec<Rule> {
    let mut rules: Vec<Rule> = Vec::with_capacity(raw.len());
    for At { value: raw, place } in raw {
        if rules.len() >= MOST {
            mistakes.error(&place, format!("there are more than {MOST} rules"), "");
            break;
        }
        if rules.iter().any(|rule| *rule.name == *raw.name.value.0) {
            let cure = "give it another one, so that logs and metrics tell the two apart";
            mistakes.error(&raw.name.place, "an earlier rule has this name", cure);
        }
        rules.extend(rule(raw, &place, around, mistakes));
    }
    rules
}

fn rule(raw: RawRule, place: &Place, around: Around, mistakes: &mut Mistakes) -> Option<Rule> {
    let protocol = around.protocol;
    let direction = raw.when.direction.value;
    let on = On {
        direction,
        protocol,
    };
    if protocol == Protocol::Http && direction == Direction::Server {
        let cure = "write `direction: response`, or `request`";
        mistakes.error(
            &raw.when.direction.place,
            "plain HTTP has no messages of a server",
            cure,
        );
    }
    let names = raw.when.tool.value.len() + raw.when.prompt.len() + raw.when.resource.len();
    if protocol == Protocol::Http && names > 0 {
        let cure = "remove it, or `protocol: http` of the route";
        mistakes.error(place, "plain HTTP has no tools, prompts or resources", cure);
    }
    warn_of_principals(&raw.when, mistakes);
    let mut actions = Vec::new();
    actions.extend(raw.r#continue.filter(|on| on.0).map(|_| Action::Continue));
    actions.extend(
        raw.modify
            .map(|raw| Action::Modify(modify(raw, place, on, mistakes))),
    );
    actions.extend(raw.block.map(|words| Action::Block(words.0)));
    if let Some(raw) = raw.mock {
        actions.extend(mock(raw, on, mistakes).map(Action::Mock));
    }
    let waits = Waits { direction, around };
    actions.extend(raw.delay.map(|time| {
        let longest = (Decision::LONGEST_DELAY, "write at most 1h");
        Action::Delay(waits.time(time, longest, mistakes))
    }));
    actions.extend(raw.pause.map(|raw| {
        let longest = (PauseSettings::LONGEST, "write at most 24h");
        Action::Pause(PauseSettings {
            limit: waits.time(raw.limit, longest, mistakes),
            then: raw.then,
        })
    }));
    if actions.len() != 1 && !mistakes.has_below(place) {
        let message = format!("a rule does one thing, and this one does {}", actions.len());
        let cure = "write one of `continue: true`, `modify`, `block`, `mock`, `delay` and `pause`";
        mistakes.error(place, message, cure);
    }
    Some(Rule {
        name: raw.name.value.0.into(),
        when: when(raw.when),
        action: actions.pop()?,
        on_error: raw.on_error,
    })
}

fn when(raw: RawWhen) -> When {
    let patterns = |globs: Vec<Glob>| globs.into_iter().map(|Glob(pattern)| pattern).collect();
    let headers = raw
        .header
        .map(|all| all.into_pairs(|Glob(pattern): Glob| -> Pattern { pattern }));
    When {
        direction: raw.direction.value,
        methods: patterns(raw.method),
        tools: patterns(raw.tool.value),
        prompts: patterns(raw.prompt),
        resources: patterns(raw.resource),
        paths: patterns(raw.path),
        headers: headers.unwrap_or_default(),
        principals: patterns(raw.principal.value),
        expression: raw.expression.map(|expression| expression.value),
    }
}

/// Nobody is authenticated, so there is no principal to go by.
const NOBODY: &str = "this version of ziggurat authenticates nobody";

fn warn_of_principals(when: &RawWhen, mistakes: &mut Mistakes) {
    if !when.principal.value.is_empty() {
        let message = format!("{NOBODY}, so this rule never applies");
        mistakes.warning(&when.principal.place, message, "remove `principal`");
    }
    if let Some(expression) = &when.expression
        && expression.value.names_principal()
    {
        let message = format!("{NOBODY}, so `principal` is always empty");
        let cure = "go by something else, such as a header";
        mistakes.warning(&expression.place, message, cure);
    }
}

/// What a rule has wait.
#[derive(Clone, Copy)]
struct Waits {
    direction: Direction,
    around: Around,
}

impl Waits {
    fn time(
        self,
        At { value, place }: At<Clock>,
        (longest, cure): (Duration, &str),
        mistakes: &mut Mistakes,
    ) -> Duration {
        let Clock(time) = value;
        if time > longest {
            mistakes.error(&place, "nobody waits for so long", cure);
        }
        // A request waits before any clock of its call runs.
        let runs_out = self
            .around
            .deadline
            .is_some_and(|deadline| time >= deadline);
        if runs_out && self.direction != Direction::Request {
            let message = "the call runs out of time while its server's message waits";
            let cure =
                "write less than the `deadline` of the route and of its tools, or make that longer";
            mistakes.warning(&place, message, cure);
        }
        time
    }
}

/// What a rule is about.
#[derive(Clone, Copy)]
struct On {
    direction: Direction,
    protocol: Protocol,
}

impl On {
    /// The members of a message that may be changed.
    fn members(self) -> &'static [&'static str] {
        match self.direction {
            Direction::Request | Direction::Server => &["params"],
            Direction::Response => &["result", "error"],
        }
    }

    fn pointer(self, pointer: &Pointer, place: &Place, mistakes: &mut Mistakes) {
        if self.protocol == Protocol::Http {
            let message = "on plain HTTP rules change headers only";
            return mistakes.error(
                place,
                message,
                "remove it, or `protocol: http` of the route",
            );
        }
        let members = self.members();
        if !pointer
            .first()
            .is_some_and(|first| members.contains(&first))
        {
            let message = format!("`{pointer}` is a part of the message that must stay as it is");
            let begin: Vec<_> = members
                .iter()
                .map(|member| format!("`/{member}`"))
                .collect();
            mistakes.error(
                place,
                message,
                format!("begin it with {}", begin.join(" or ")),
            );
        }
    }
}

fn modify(raw: RawModify, place: &Place, on: On, mistakes: &mut Mistakes) -> Change {
    let mut change = Change::default();
    for (
        At {
            value: pointer,
            place,
        },
        Json(value),
    ) in raw.set.map(|set| set.entries).unwrap_or_default()
    {
        on.pointer(&pointer, &place, mistakes);
        change
            .edits
            .push(Edit::Set(pointer, value.to_string().into()));
    }
    for At {
        value: pointer,
        place,
    } in raw.remove
    {
        on.pointer(&pointer, &place, mistakes);
        change.edits.push(Edit::Remove(pointer));
    }
    let ops = raw
        .patch
        .into_iter()
        .filter_map(|op| patch(op, on, mistakes));
    let ops: Vec<_> = ops.collect();
    if !ops.is_empty() {
        change.edits.push(Edit::Patch(ops));
    }
    if let Some(At { value: raw, place }) = raw.headers {
        if on.protocol == Protocol::Mcp && on.direction != Direction::Request {
            let message = "the headers of an MCP answer go out before its message is seen";
            mistakes.error(&place, message, "change headers of requests only");
        }
        headers(raw, &place, &mut change, mistakes);
    }
    let nothing = change == Change::default();
    if nothing && !mistakes.has_below(place) {
        mistakes.error(
            place,
            "`modify` changes nothing",
            "name something under `set`, `remove`, `patch` or `headers`",
        );
    }
    change
}

fn headers(raw: RawHeaders, place: &Place, change: &mut Change, mistakes: &mut Mistakes) {
    let set = raw
        .set
        .map(|set| set.into_pairs(|value| value.0))
        .unwrap_or_default();
    let name = |SettableHeader(name): SettableHeader| -> HeaderName { name };
    change.set_headers = set
        .into_iter()
        .map(|(key, value)| (name(key), value))
        .collect();
    change.remove_headers = raw.remove.into_iter().map(name).collect();
    let set = change.set_headers.iter().map(|(name, _)| name);
    for name in set.chain(&change.remove_headers) {
        if MCP.contains(&name.as_str()) {
            let message = format!("`{name}` says what the message is, and follows it by itself");
            mistakes.error(place, message, "remove it");
        }
    }
}

fn patch(raw: At<RawPatch>, on: On, mistakes: &mut Mistakes) -> Option<PatchOp> {
    let At { value: raw, place } = raw;
    let At {
        value: path,
        place: path_place,
    } = raw.path;
    on.pointer(&path, &path_place, mistakes);
    if let Some(from) = &raw.from {
        on.pointer(&from.value, &from.place, mistakes);
    }
    let op = raw.op;
    let value = raw.value.map(|Json(value)| value.to_string().into());
    let from = raw.from.map(|from| from.value);
    let wants_value = matches!(op, PatchWord::Add | PatchWord::Replace | PatchWord::Test);
    let wants_from = matches!(op, PatchWord::Move | PatchWord::Copy);
    for (key, wanted, given) in [
        ("value", wants_value, value.is_some()),
        ("from", wants_from, from.is_some()),
    ] {
        if wanted && !given {
            mistakes.error(&place, format!("the operation needs `{key}`"), "");
        } else if given && !wanted {
            mistakes.error(
                &place,
                format!("the operation has no use for `{key}`"),
                "remove it",
            );
        }
    }
    Some(match op {
        PatchWord::Add => PatchOp::Add(path, value?),
        PatchWord::Remove => PatchOp::Remove(path),
        PatchWord::Replace => PatchOp::Replace(path, value?),
        PatchWord::Move => PatchOp::Move(from?, path),
        PatchWord::Copy => PatchOp::Copy(from?, path),
        PatchWord::Test => PatchOp::Test(path, value?),
    })
}

fn mock(raw: At<RawMock>, on: On, mistakes: &mut Mistakes) -> Option<Respond> {
    let At { value: raw, place } = raw;
    let mut template = |value: Value| match Template::new(value) {
        Ok(template) => {
            if template.uses_principal() {
                let message = format!("{NOBODY}, so `{{{{principal}}}}` is always empty");
                mistakes.warning(&place, message, "remove it");
            }
            Some(template)
        }
        Err(error) => {
            let cure = "write `{{method}}`, `{{name}}`, `{{id}}`, `{{principal}}` or a pointer such as `{{/params/arguments/path}}`";
            mistakes.error(&place, format!("a text {error}"), cure);
            None
        }
    };
    let text = raw
        .text
        .map(|text| json!({ "content": [{ "type": "text", "text": text.0 }] }));
    let mut forms = Vec::new();
    for result in raw.result.map(|Json(value)| value).into_iter().chain(text) {
        forms.push(Respond::Result(template(result)?));
    }
    if let Some(error) = raw.error {
        forms.push(Respond::Error {
            code: error.code.0,
            message: template(error.message.0.into())?,
            data: match error.data {
                Some(Json(data)) => Some(template(data)?),
                None => None,
            },
        });
    }
    if let Some(http) = raw.http {
        let headers = http
            .headers
            .map(|headers| headers.into_pairs(|value| value.0));
        let headers = headers.unwrap_or_default().into_iter();
        forms.push(Respond::Http {
            status: http.status.0,
            headers: headers
                .map(|(SettableHeader(name), value)| (name, value))
                .collect(),
            body: template(http.body.0.into())?,
        });
    }
    let http = forms
        .iter()
        .any(|form| matches!(form, Respond::Http { .. }));
    let (message, cure) = if forms.len() != 1 {
        (
            "a mock is one answer",
            "write one of `result`, `text`, `error` and `http`",
        )
    } else if on.direction == Direction::Server {
        (
            "only a request can be answered",
            "write `direction: request` or `response`",
        )
    } else if http && on.protocol == Protocol::Mcp {
        (
            "an MCP request is answered by a message",
            "write `result`, `text` or `error`",
        )
    } else if !http && on.protocol == Protocol::Http {
        (
            "a plain HTTP request is answered by a response",
            "write `http`",
        )
    } else {
        return forms.pop();
    };
    mistakes.error(&place, message, cure);
    None
}
