//! Where a config comes from: a file, the command line, or ziggurat itself.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::check::{Context, check};
use super::mistake::Mistakes;
use super::node::Node;
use super::{Config, ConfigErrors, Warning};

/// Where a config comes from, so that it can be read again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A YAML file.
    File(PathBuf),
    /// What the command line names.
    Quick(Quick),
    /// The built-in demo server; the path is that of this program.
    Demo(PathBuf),
}

/// An upstream that the command line names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Quick {
    /// Servers that are reached over HTTP.
    Urls(Vec<String>),
    /// A command with its arguments.
    Command(Vec<String>),
}

/// What the command line says about any config.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Where clients connect.
    pub listen: Option<SocketAddr>,
    /// Where probes and scrapers connect.
    pub admin: Option<SocketAddr>,
    /// Whether `listen` may be an address that other machines can reach.
    pub insecure_bind: bool,
}

// === impl Source ===

impl Source {
    /// Reads the config, now.
    pub fn read(&self, overrides: &Overrides) -> Result<(Config, Vec<Warning>), ConfigErrors> {
        match self {
            Self::File(path) => load(path, overrides),
            Self::Quick(quick) => command_line(&quick.endpoints()?, "mcp", overrides),
            Self::Demo(program) => command_line(&[demo(program)?], "demo", overrides),
        }
    }
}

// === impl Quick ===

impl Quick {
    fn endpoints(&self) -> Result<Vec<Value>, ConfigErrors> {
        let url = |url: &String| {
            match url.as_str() {
                // A bare word is no URL, and more likely the name of a program.
                word if !word.contains([':', '/', '.']) => {
                    let message = format!("`{word}` is not a URL");
                    let cure = format!(
                        "write `http://{word}`, or `ziggurat run -- {word}` if it is a command"
                    );
                    Err(ConfigErrors::single(COMMAND_LINE, message, &cure))
                }
                url => Ok(json!({ "url": url })),
            }
        };
        match self {
            Self::Urls(urls) => urls.iter().map(url).collect(),
            Self::Command(command) => Ok(vec![json!({ "command": command })]),
        }
    }
}

// === impl Config ===

impl Config {
    /// Reads and checks a file. Relative paths in it start from its folder.
    pub fn load(path: &Path) -> Result<(Self, Vec<Warning>), ConfigErrors> {
        load(path, &Overrides::default())
    }

    /// Reads and checks a text; `name` stands for the file in messages. Relative paths stay as they are.
    pub fn parse(text: &str, name: &str) -> Result<(Self, Vec<Warning>), ConfigErrors> {
        let context = Context {
            named: false,
            folder: None,
            environment: &variable,
            overrides: &Overrides::default(),
        };
        parse(text, name, &context)
    }

    /// The default tower at `/mcp` over the built-in demo server of the program at `exe`.
    pub fn demo(exe: &Path) -> Result<Self, ConfigErrors> {
        Source::Demo(exe.to_owned())
            .read(&Overrides::default())
            .map(|(config, _)| config)
    }

    /// The default tower at `/mcp` over one upstream.
    pub fn quick(targets: Quick) -> Result<(Self, Vec<Warning>), ConfigErrors> {
        Source::Quick(targets).read(&Overrides::default())
    }
}

/// What messages call a config that is in no file.
const COMMAND_LINE: &str = "command line";

/// Reads and checks a text.
pub(super) fn parse(
    text: &str,
    name: &str,
    context: &Context<'_>,
) -> Result<(Config, Vec<Warning>), ConfigErrors> {
    let mut mistakes = Mistakes::new(name);
    let node = Node::parse(text, Some(context.environment), &mut mistakes);
    let config = node.and_then(|node| check(&node, context, &mut mistakes));
    mistakes.finish(config)
}

/// Looks a variable up in the environment of this process.
pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The text of a file, or what keeps it from being read.
pub(super) fn text_of(path: &Path) -> Result<String, ConfigErrors> {
    std::fs::read_to_string(path).map_err(|error| {
        let cure = match error.kind() {
            std::io::ErrorKind::NotFound => "check the name; `ziggurat` without a file runs the demo, and `ziggurat run URL` needs none",
            std::io::ErrorKind::InvalidData => "save it as UTF-8",
            _ => "check the file and its permissions",
        };
        ConfigErrors::single(&path.display().to_string(), format!("the file cannot be read: {error}"), cure)
    })
}

fn load(path: &Path, overrides: &Overrides) -> Result<(Config, Vec<Warning>), ConfigErrors> {
    let text = text_of(path)?;
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let context = Context {
        named: false,
        folder: absolute.parent(),
        environment: &variable,
        overrides,
    };
    parse(&text, &path.display().to_string(), &context)
}

fn demo(program: &Path) -> Result<Value, ConfigErrors> {
    let Some(program) = program.to_str() else {
        let message =
            "the path of this program is not UTF-8, so the demo server cannot be started from it"
                .to_owned();
        return Err(ConfigErrors::single(
            COMMAND_LINE,
            message,
            "move the program to another folder",
        ));
    };
    Ok(json!({ "command": [program, "demo"] }))
}

fn command_line(
    endpoints: &[Value],
    name: &str,
    overrides: &Overrides,
) -> Result<(Config, Vec<Warning>), ConfigErrors> {
    let file = json!({
        "routes": [{ "match": { "path": "/mcp" }, "upstream": name }],
        "upstreams": { name: { "endpoints": endpoints } },
    });
    let context = Context {
        named: true,
        folder: None,
        environment: &variable,
        overrides,
    };
    let mut mistakes = Mistakes::new(COMMAND_LINE);
    let config = check(&Node::of(&file, ""), &context, &mut mistakes);
    mistakes.finish(config)
}
