//! `ziggurat-bench-layers`: what each layer of the tower costs a call, over a leaf that does nothing.
//!
//! Each row is one layer, as the default tower has it, over the same leaf; what the leaf and the making of the request cost is taken off.
//! Allocations are counted; instructions are counted by valgrind, as the difference between two runs of the program on one row with
//! different numbers of calls, so that start and set-up fall out. Neither depends on how busy the machine is. A program of its own, since it
//! counts with an allocator of its own.

use std::{
    io::{self, Write},
    process::{Command, ExitCode, Stdio},
};

use clap::Parser;

mod rows;

use rows::{Row, Template, rows};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

#[derive(Parser)]
#[command(version, about = "Measure what each layer costs a call")]
struct Cli {
    /// Leave out the instructions, which need valgrind and some minutes
    #[arg(long)]
    quick: bool,
    /// Only make calls through this row, and say nothing: for a profiler
    #[arg(long, value_name = "ROW")]
    only: Option<String>,
    /// How many calls that is
    #[arg(long, default_value_t = 1000)]
    calls: u64,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match &cli.only {
        Some(name) => only(name, cli.calls),
        None => report(cli.quick),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _unseen = writeln!(io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What one call costs.
#[derive(Clone, Copy)]
struct Cost {
    allocations: f64,
    bytes: f64,
    instructions: Option<f64>,
}

fn report(quick: bool) -> Result<(), BoxError> {
    let rows = rows(None)?;
    let base = |template: Template| {
        let leaf = rows
            .iter()
            .find(|row| row.is_leaf() && row.template == template);
        leaf.map(|leaf| cost(leaf, quick))
            .ok_or("a template has no leaf")
    };
    let bases = [
        base(Template::Bare)??,
        base(Template::Slot)??,
        base(Template::Facts)??,
        base(Template::Legacy)??,
    ];
    let mut out = io::stdout();
    writeln!(out, "| layer | instructions | allocations | bytes |")?;
    writeln!(out, "| --- | --- | --- | --- |")?;
    for row in rows.iter().filter(|row| !row.is_leaf()) {
        let (cost, base) = (cost(row, quick)?, bases[row.template as usize]);
        let instructions = cost.instructions.zip(base.instructions);
        let instructions =
            instructions.map_or("-".to_owned(), |(all, leaf)| format!("{:.0}", all - leaf));
        let allocations = cost.allocations - base.allocations;
        let bytes = cost.bytes - base.bytes;
        let name = row.name;
        writeln!(
            out,
            "| {name} | {instructions} | {allocations:.1} | {bytes:.0} |"
        )?;
    }
    Ok(())
}

fn cost(row: &Row, quick: bool) -> Result<Cost, BoxError> {
    const CALLS: u64 = 1000;
    let runtime = runtime()?;
    // What is set up by the first calls stays out.
    runtime.block_on(row.run(CALLS))?;
    let mut done = Ok(());
    let seen = allocation_counter::measure(|| done = runtime.block_on(row.run(CALLS)));
    done?;
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    let each = |all: u64| all as f64 / CALLS as f64;
    Ok(Cost {
        allocations: each(seen.count_total),
        bytes: each(seen.bytes_total),
        instructions: (!quick).then(|| instructions(row)).transpose()?,
    })
}

/// The instructions of one call.
fn instructions(row: &Row) -> Result<f64, BoxError> {
    const FEW: u64 = 500;
    const MANY: u64 = 2500;
    let count = |calls: u64| -> Result<f64, BoxError> {
        let ran = Command::new("valgrind")
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
            .arg(std::env::current_exe()?)
            .args(["--only", row.name, "--calls", &calls.to_string()])
            .stdout(Stdio::null())
            .output()
            .map_err(|error| {
                format!("valgrind does not start ({error}); `--quick` does without")
            })?;
        let said = String::from_utf8_lossy(&ran.stderr);
        let collected = said
            .lines()
            .find_map(|line| line.split_once("Collected : "));
        let (_, count) = collected.ok_or_else(|| format!("valgrind says no count: {said}"))?;
        Ok(count.trim().parse()?)
    };
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    let calls = (MANY - FEW) as f64;
    Ok((count(MANY)? - count(FEW)?) / calls)
}

fn only(name: &str, calls: u64) -> Result<(), BoxError> {
    let rows = rows(Some(name))?;
    let row = rows.iter().find(|row| row.name == name);
    let row = row.ok_or_else(|| format!("there is no row {name}"))?;
    runtime()?.block_on(row.run(calls))
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
}
