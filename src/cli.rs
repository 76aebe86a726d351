//! The command line: what each command accepts, as checked values.
//!
//! [`Command::parse`] is for `main`. The commands that need nothing but text ([`offline`]) are functions that write to what they are given; `run` and
//! `demo` come back as settings, since whoever serves decides how.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::config::{Config, ConfigErrors, Overrides, Quick, Source, Warning};

pub mod admin;
pub mod offline;
mod table;

#[cfg(test)]
mod tests;

/// What the user asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Serve.
    Run(Run),
    /// Check a config file.
    Check {
        /// The file.
        file: PathBuf,
    },
    /// Print a config with every default filled in.
    Explain {
        /// Where the config comes from.
        source: Source,
    },
    /// Print the JSON Schema of the config file.
    Schema,
    /// Turn the file of an MCP client into a config.
    Import {
        /// The client's file.
        file: PathBuf,
    },
    /// Ask a running proxy something, or tell it to do something.
    Admin(admin::Admin),
    /// Be the built-in MCP server.
    Demo(Demo),
    /// Print a script that completes commands and options.
    Completions {
        /// The shell that it is for.
        shell: Shell,
    },
}

/// How to serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Where the config comes from; a reload reads it again.
    pub source: Source,
    /// What the command line says instead of the config.
    pub overrides: Overrides,
    /// What is logged.
    pub log: Log,
}

/// How to be the demo server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demo {
    /// Where to listen; without it the server speaks over stdin and stdout.
    pub http: Option<SocketAddr>,
    /// What is logged.
    pub log: Log,
}

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// A filter in the syntax of `tracing_subscriber::EnvFilter`, known to be valid.
    pub filter: String,
    /// How a line looks.
    pub format: LogFormat,
}

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object on each line.
    Json,
}

/// The file that is used when none is named and it is in the current folder.
pub const DEFAULT_FILE: &str = "ziggurat.yaml";

/// A reverse proxy for MCP servers.
///
/// Without a command it runs: with ziggurat.yaml of the current folder if there is one, else with a built-in demo server.
#[derive(Debug, Parser)]
#[command(
    name = "ziggurat",
    version,
    args_conflicts_with_subcommands = true,
    max_term_width = 100
)]
struct Line {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    serving: Serving,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Serve: what a config file says, or one server that is named here
    #[command(group = ArgGroup::new("target").args(["urls", "command", "config"]))]
    Run(RunLine),
    /// Check a config file; exit 0 if it could run, else 1 with every mistake
    Check {
        /// The config file
        #[arg(default_value = DEFAULT_FILE)]
        file: PathBuf,
    },
    /// Print a config with every default filled in, as YAML that `run` accepts, secrets masked
    Explain {
        /// The config file; without it, what `ziggurat` alone would run
        file: Option<PathBuf>,
    },
    /// Print the JSON Schema of the config file
    Schema,
    /// Turn an mcpServers JSON file, as MCP clients keep it, into a config
    Import {
        /// The client's file
        file: PathBuf,
    },
    /// See and steer a proxy that runs: its upstreams, sessions, children, breakers, kill switches
    Admin(admin::AdminLine),
    /// Be the built-in MCP demo server, over stdin and stdout
    Demo(DemoLine),
    /// Print a script that completes commands and options in a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

#[derive(Debug, Args)]
struct RunLine {
    /// The URL of an MCP server, such as http://127.0.0.1:3001/mcp
    #[arg(value_name = "URL")]
    urls: Vec<String>,
    /// A command that speaks MCP over stdin and stdout
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
    #[command(flatten)]
    serving: Serving,
}

#[derive(Debug, Args)]
struct Serving {
    /// The config file [default: ziggurat.yaml, if there is one]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where clients connect; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Where /livez, /readyz, /metrics and the admin API are served; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<SocketAddr>,
    /// Let --listen be an address that other machines can reach, although nobody is authenticated
    #[arg(long)]
    insecure_bind: bool,
    #[command(flatten)]
    log: LogLine,
}

#[derive(Debug, Args)]
struct DemoLine {
    /// Serve over HTTP on this address instead; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS")]
    http: Option<SocketAddr>,
    #[command(flatten)]
    log: LogLine,
}

#[derive(Debug, Args)]
struct LogLine {
    /// What is logged to stderr: a level, or a filter such as info,ziggurat=debug
    #[arg(long = "log", value_name = "FILTER", env = "ZIGGURAT_LOG", default_value = "info", value_parser = filter)]
    filter: String,
    /// How a line of the log looks
    #[arg(long = "log-format", value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    format: LogFormat,
}

// === impl Command ===

impl Command {
    /// Reads the command line of this process; a wrong one ends it with a message.
    pub fn parse() -> Self {
        Self::from_line(std::env::args_os()).unwrap_or_else(|error| error.exit())
    }

    /// Reads a command line, whose first word is the name of the program.
    pub fn from_line<I, T>(line: I) -> Result<Self, clap::Error>
    where
        I: IntoIterator<Item = T>,
        T: Into<std::ffi::OsString> + Clone,
    {
        let found = Path::new(DEFAULT_FILE).is_file();
        Self::read(line, found, std::env::current_exe().ok())
    }

    fn read<I, T>(
        line: I,
        default_file: bool,
        program: Option<PathBuf>,
    ) -> Result<Self, clap::Error>
    where
        I: IntoIterator<Item = T>,
        T: Into<std::ffi::OsString> + Clone,
    {
        let matches = Line::command().try_get_matches_from(line)?;
        let line = Line::from_arg_matches(&matches)?;
        // What a command without a file works on.
        let fallback = || {
            if default_file {
                Source::File(DEFAULT_FILE.into())
            } else {
                Source::Demo(program.unwrap_or_else(|| "ziggurat".into()))
            }
        };
        Ok(match line.verb {
            None => Self::Run(line.serving.run(None, fallback)),
            Some(Verb::Run(run)) => {
                Self::Run(run.serving.run(quick(run.urls, run.command), fallback))
            }
            Some(Verb::Check { file }) => Self::Check { file },
            Some(Verb::Explain { file }) => Self::Explain {
                source: file.map_or_else(fallback, Source::File),
            },
            Some(Verb::Schema) => Self::Schema,
            Some(Verb::Import { file }) => Self::Import { file },
            Some(Verb::Admin(line)) => Self::Admin(line.into()),
            Some(Verb::Demo(demo)) => Self::Demo(Demo {
                http: demo.http,
                log: demo.log.into(),
            }),
            Some(Verb::Completions { shell }) => Self::Completions { shell },
        })
    }
}

// === impl Run ===

impl Run {
    /// Reads the config that is to be served, now; a reload calls it again.
    pub fn config(&self) -> Result<(Config, Vec<Warning>), ConfigErrors> {
        self.source.read(&self.overrides)
    }
}

// === impl Serving ===

impl Serving {
    fn run(self, quick: Option<Quick>, fallback: impl FnOnce() -> Source) -> Run {
        let source = match (quick, self.config) {
            (Some(quick), _) => Source::Quick(quick),
            (None, Some(file)) => Source::File(file),
            (None, None) => fallback(),
        };
        let overrides = Overrides {
            listen: self.listen,
            admin: self.admin,
            insecure_bind: self.insecure_bind,
        };
        Run {
            source,
            overrides,
            log: self.log.into(),
        }
    }
}

impl From<LogLine> for Log {
    fn from(line: LogLine) -> Self {
        Self {
            filter: line.filter,
            format: line.format,
        }
    }
}

fn quick(urls: Vec<String>, command: Vec<String>) -> Option<Quick> {
    match (urls.is_empty(), command.is_empty()) {
        (false, _) => Some(Quick::Urls(urls)),
        (true, false) => Some(Quick::Command(command)),
        (true, true) => None,
    }
}

/// A filter is checked here, so that a slip in it is a mistake on the command line and not a silent log.
fn filter(text: &str) -> Result<String, String> {
    match tracing_subscriber::EnvFilter::try_new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!(
            "{error}; write a level (error, warn, info, debug, trace), or a filter such as info,ziggurat=debug"
        )),
    }
}
