//! The words behind `ziggurat admin`: a command for each operation that is not public, with what its body takes.

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgMatches, Command, FromArgMatches, Subcommand};
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use crate::admin::operations::{Operation, operations};

/// An operation, and what it is told.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) operation: &'static str,
    pub(super) body: Option<Value>,
}

/// A member of an operation's body, as its schema has it.
#[derive(Debug)]
pub(super) struct Member {
    name: String,
    about: String,
    pub(super) required: bool,
    pub(super) number: bool,
    pub(super) words: Vec<String>,
}

/// The operations that are commands.
pub(super) fn commands() -> impl Iterator<Item = Operation> {
    operations().into_iter().filter(|op| !op.public)
}

/// The name of a command: `openapi` for `openapi.json`.
pub(super) fn word(operation: &Operation) -> &'static str {
    let name = operation.name;
    name.split('.').next().unwrap_or(name)
}

fn with_commands(command: Command) -> Command {
    commands().fold(command, |command, operation| {
        let about = operation.about.trim_end_matches('.');
        let sub = Command::new(word(&operation)).about(about);
        command.subcommand(sub.args(Member::of(&operation).iter().map(Member::arg)))
    })
}

// === impl Ask ===

impl Subcommand for Ask {
    fn augment_subcommands(command: Command) -> Command {
        // Made only when somebody says `admin`: every other command starts without it.
        command
            .subcommand_required(true)
            .arg_required_else_help(true)
            .defer(with_commands)
    }

    fn augment_subcommands_for_update(command: Command) -> Command {
        Self::augment_subcommands(command)
    }

    fn has_subcommand(name: &str) -> bool {
        commands().any(|operation| word(&operation) == name)
    }
}

impl FromArgMatches for Ask {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let missing = || clap::Error::new(clap::error::ErrorKind::MissingSubcommand);
        let (name, matches) = matches.subcommand().ok_or_else(missing)?;
        let operation = commands()
            .find(|operation| word(operation) == name)
            .ok_or_else(missing)?;
        let body = operation.body.is_some().then(|| {
            let members = Member::of(&operation).into_iter();
            let said =
                members.filter_map(|member| Some((member.name.clone(), member.said(matches)?)));
            Value::Object(said.collect())
        });
        Ok(Self {
            operation: operation.name,
            body,
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

// === impl Member ===

impl Member {
    /// Those that must be said first, in their order.
    pub(super) fn of(operation: &Operation) -> Vec<Self> {
        let Some(body) = operation.body else {
            return Vec::new();
        };
        let settings = SchemaSettings::draft2020_12().with(|s| s.inline_subschemas = true);
        let schema = body(&mut settings.into_generator()).to_value();
        let required: Vec<&str> = schema["required"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let none = Map::new();
        let members = schema["properties"].as_object().unwrap_or(&none);
        let mut found: Vec<Self> = members
            .iter()
            .map(|(name, schema)| Self::new(name, schema, required.contains(&name.as_str())))
            .collect();
        found.sort_by_key(|member| {
            let at = required.iter().position(|name| *name == member.name);
            at.unwrap_or(usize::MAX)
        });
        found
    }

    fn new(name: &str, schema: &Value, required: bool) -> Self {
        let is = |kind: &str| match &schema["type"] {
            Value::Array(kinds) => kinds.iter().any(|k| k == kind),
            one => one == kind,
        };
        let listed = schema["enum"].as_array().into_iter().flatten();
        let described = schema["oneOf"].as_array().into_iter().flatten();
        let words = listed.chain(described.map(|one| &one["const"]));
        let about = schema["description"].as_str().unwrap_or_default();
        Self {
            name: name.to_owned(),
            about: about.trim_end_matches('.').to_owned(),
            required,
            number: is("integer"),
            words: words.filter_map(Value::as_str).map(str::to_owned).collect(),
        }
    }

    fn arg(&self) -> Arg {
        let arg = Arg::new(self.name.clone())
            .help(self.about.clone())
            .value_name(self.name.to_uppercase())
            .required(self.required);
        let arg = if self.required {
            arg
        } else {
            arg.long(self.name.clone())
        };
        if self.number {
            arg.value_parser(clap::value_parser!(i64))
        } else if self.words.is_empty() {
            arg.value_parser(clap::value_parser!(String))
        } else {
            arg.value_parser(PossibleValuesParser::new(&self.words))
        }
    }

    fn said(&self, matches: &ArgMatches) -> Option<Value> {
        if self.number {
            matches
                .get_one::<i64>(&self.name)
                .map(|number| (*number).into())
        } else {
            let said = matches.get_one::<String>(&self.name);
            said.map(|text| text.as_str().into())
        }
    }
}
