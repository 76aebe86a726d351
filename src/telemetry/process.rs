//! What the system knows about the process: CPU, memory, descriptors, threads. Read from `/proc` when somebody scrapes;
//! where there is no `/proc`, there is nothing.

use std::fs;

use rustix::process::{Resource, getrlimit};

use super::text::{Kind, metric};

/// What `/proc` says.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Process {
    cpu_seconds: f64,
    start_seconds: f64,
    resident_bytes: u64,
    threads: u64,
    open_fds: u64,
}

/// Appends the process metrics, if there are any.
pub(super) fn write(out: &mut String) {
    let Some(process) = Process::read() else {
        return;
    };
    metric(
        out,
        "process_cpu_seconds_total",
        Kind::Counter,
        "CPU time used, user and system, in seconds.",
        process.cpu_seconds,
    );
    metric(
        out,
        "process_resident_memory_bytes",
        Kind::Gauge,
        "Memory that is resident, in bytes.",
        process.resident_bytes,
    );
    metric(
        out,
        "process_open_fds",
        Kind::Gauge,
        "Open file descriptors.",
        process.open_fds,
    );
    if let Some(limit) = getrlimit(Resource::Nofile).current {
        metric(
            out,
            "process_max_fds",
            Kind::Gauge,
            "File descriptors that may be open.",
            limit,
        );
    }
    metric(
        out,
        "process_start_time_seconds",
        Kind::Gauge,
        "When the process started, in seconds since 1970.",
        process.start_seconds,
    );
    metric(
        out,
        "process_threads",
        Kind::Gauge,
        "Threads of the process.",
        process.threads,
    );
}

// === impl Process ===

impl Process {
    fn read() -> Option<Self> {
        let ticks = rustix::param::clock_ticks_per_second();
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        let status = fs::read_to_string("/proc/self/status").ok()?;
        let system = fs::read_to_string("/proc/stat").ok()?;
        // One of them is the folder that is being read.
        let open_fds = fs::read_dir("/proc/self/fd")
            .ok()?
            .count()
            .saturating_sub(1);
        Self::parse(&stat, &status, &system, ticks, open_fds as u64)
    }

    fn parse(stat: &str, status: &str, system: &str, ticks: u64, open_fds: u64) -> Option<Self> {
        // The second field is the command in brackets, and may hold anything; count from the last bracket.
        let (_, stat) = stat.rsplit_once(") ")?;
        let field = |number: usize| {
            stat.split_ascii_whitespace()
                .nth(number - 3)?
                .parse::<u64>()
                .ok()
        };
        let seconds = |clock: u64| clock as f64 / ticks as f64;
        let booted = number_after(system, "btime")?;
        Some(Self {
            cpu_seconds: seconds(field(14)? + field(15)?),
            start_seconds: booted as f64 + seconds(field(22)?),
            resident_bytes: number_after(status, "VmRSS:")? * 1024,
            threads: number_after(status, "Threads:")?,
            open_fds,
        })
    }
}

fn number_after(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_read_field_by_field() {
        let stat = "7 (a) b)) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 5 0 1000 9999 88 0";
        let status = "Name:\ta\nVmRSS:\t    2048 kB\nThreads:\t5\n";
        let system = "cpu 1 2 3\nbtime 1700000000\n";
        let process = Process::parse(stat, status, system, 100, 9);
        assert_eq!(
            process,
            Some(Process {
                cpu_seconds: 3.0,
                start_seconds: 1_700_000_010.0,
                resident_bytes: 2048 * 1024,
                threads: 5,
                open_fds: 9,
            })
        );
        assert_eq!(Process::parse("", "", "", 100, 0), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_all_of_them() {
        let mut out = String::new();
        write(&mut out);
        for name in [
            "process_cpu_seconds_total",
            "process_resident_memory_bytes",
            "process_open_fds",
            "process_start_time_seconds",
            "process_threads",
        ] {
            assert!(
                out.contains(&format!("\n{name} ")),
                "{name} is missing in {out}"
            );
        }
    }
}
