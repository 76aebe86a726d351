//! The commands that read a file, print, and are done.
//!
//! Each writes its answer to `out`, and returns the exit code: 0, or 1 if what it was given is not right. What went wrong is part of the answer of
//! `check`; the other commands write it to `err`, since their output is meant for a file.

use std::io::{self, Write};
use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;

use super::Line;
use crate::config::{self, Config, ConfigErrors, Overrides, Source};

/// Checks a config file, and prints every mistake and warning.
pub fn check(file: &Path, out: &mut dyn Write) -> io::Result<u8> {
    match Config::load(file) {
        Ok((config, warnings)) => {
            for warning in warnings {
                writeln!(out, "{warning}")?;
            }
            let (routes, upstreams) = (
                counted(config.routes.len(), "route"),
                counted(config.upstreams.len(), "upstream"),
            );
            writeln!(out, "{}: ok, {routes}, {upstreams}", file.display())?;
            Ok(0)
        }
        Err(errors) => {
            writeln!(out, "{errors}")?;
            writeln!(
                out,
                "{}: {}",
                file.display(),
                counted(errors.count(), "mistake")
            )?;
            Ok(1)
        }
    }
}

/// Prints a config with every default filled in.
pub fn explain(source: &Source, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<u8> {
    match source.read(&Overrides::default()) {
        Ok((config, warnings)) => {
            for warning in warnings {
                writeln!(err, "{warning}")?;
            }
            out.write_all(config.to_yaml().as_bytes())?;
            Ok(0)
        }
        Err(errors) => refuse(&errors, err),
    }
}

/// Prints the JSON Schema of the config file.
pub fn schema(out: &mut dyn Write) -> io::Result<u8> {
    writeln!(out, "{:#}", Config::schema())?;
    Ok(0)
}

/// Prints the config that an MCP client's file amounts to.
pub fn import(file: &Path, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<u8> {
    match config::import(file) {
        Ok(text) => {
            out.write_all(text.as_bytes())?;
            Ok(0)
        }
        Err(errors) => refuse(&errors, err),
    }
}

/// Prints a script that completes commands and options.
pub fn completions(shell: Shell, out: &mut dyn Write) -> io::Result<u8> {
    // The generator panics when it cannot write, so it writes to memory.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Line::command(), "ziggurat", &mut script);
    out.write_all(&script)?;
    Ok(0)
}

fn refuse(errors: &ConfigErrors, err: &mut dyn Write) -> io::Result<u8> {
    writeln!(err, "{errors}")?;
    Ok(1)
}

fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}
