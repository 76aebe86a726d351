//! The pages say what is so: each config in them runs, the reference of metrics is that of the code, and the alert rules know whose fault a failure is.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use ziggurat_layers::metrics::names::{ALL, Kind};

use crate::harness::{BIN, Start, Ziggurat, config, mcp::LEGACY};

/// Set, the reference of metrics is written instead of compared.
const WRITE: &str = "ZIGGURAT_WRITE_DOCS";

const BEGIN: &str = "| metric | kind | labels | what it says |\n| --- | --- | --- | --- |\n";

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn page(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap()
}

/// The fenced blocks of this language.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    page.split(&fence)
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap().to_owned())
        .collect()
}

fn row(name: &str, kind: &str, labels: &BTreeSet<&str>, help: &str) -> String {
    let labels: Vec<_> = labels.iter().map(|label| format!("`{label}`")).collect();
    format!("| `{name}` | {kind} | {} | {help} |\n", labels.join(", "))
}

/// The metrics of the layers, as their table has them.
fn of_layers() -> String {
    let mut table = BEGIN.to_owned();
    for metric in ALL {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let labels = metric.labels.iter().copied().collect();
        table += &row(metric.name, kind, &labels, metric.help);
    }
    table
}

/// Every other metric of a scrape.
fn of_program(scrape: &str) -> String {
    let mut found: BTreeMap<&str, (&str, &str, BTreeSet<&str>)> = BTreeMap::new();
    for line in scrape.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|l| l.split_once(' ')) {
            found.entry(name).or_default().1 = help;
        } else if let Some((name, kind)) =
            line.strip_prefix("# TYPE ").and_then(|l| l.split_once(' '))
        {
            found.entry(name).or_default().0 = kind;
        } else if let Some((name, labels)) = line.split_once('{') {
            let labels = labels
                .split("\",")
                .filter_map(|label| Some(label.split_once('=')?.0));
            found.entry(name).or_default().2.extend(labels);
        }
    }
    let mut table = BEGIN.to_owned();
    for (name, (kind, help, labels)) in found {
        // A histogram's series are under names that have no kind; only the layers have histograms.
        if !kind.is_empty() && ALL.iter().all(|metric| metric.name != name) {
            table += &row(name, kind, &labels, help);
        }
    }
    table
}

/// The page with this table below this heading.
fn with(page: &str, heading: &str, table: &str) -> String {
    let (before, rest) = page.split_once(heading).unwrap();
    let (text, rest) = rest.split_once(BEGIN).unwrap();
    let mut after = rest;
    while after.starts_with('|') {
        after = after.split_once('\n').unwrap().1;
    }
    format!("{before}{heading}{text}{table}{after}")
}

#[tokio::test]
async fn the_reference_of_metrics_is_that_of_the_code() {
    // Some are there only where names are looked up.
    let found = "url: \"http://localhost:1/mcp\", each_address: 10s";
    let z = Ziggurat::yaml(&config("", "", "", found)).await;
    let scrape = z.admin().get("/metrics").await.text().await;
    let is = page("docs/metrics.md");
    let should = with(&is, "\n## Of the layers\n", &of_layers());
    let should = with(&should, "\n## Of the program\n", &of_program(&scrape));
    if std::env::var_os(WRITE).is_some() {
        return std::fs::write(path("docs/metrics.md"), should).unwrap();
    }
    for (is, should) in is.lines().zip(should.lines()) {
        assert_eq!(is, should, "run this test with {WRITE}=1 to mend the page");
    }
    assert_eq!(
        is.lines().count(),
        should.lines().count(),
        "as above: {WRITE}=1"
    );
}

/// A folder with programs of these names, each of which is the demo server.
fn programs(names: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in names {
        let file = folder.path().join(name);
        std::fs::write(&file, format!("#!/bin/sh\nexec '{BIN}' demo\n")).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    folder
}

/// The paths of the routes that lead to a command.
async fn to_commands(z: &Ziggurat) -> Vec<String> {
    let report = z.report("upstreams").await;
    let upstreams = report.as_array().unwrap().iter();
    let is_command: BTreeSet<_> = upstreams
        .filter(|upstream| upstream["endpoints"][0]["kind"] == "stdio")
        .map(|upstream| upstream["name"].as_str().unwrap())
        .collect();
    // What it said of its routes was there before the token that the report wants.
    let said = z.log();
    let routes = said.lines().filter_map(|line| line.split_once("  ->  "));
    routes
        .filter(|(_, upstream)| is_command.contains(upstream))
        .map(|(url, _)| format!("/{}", url.splitn(4, '/').nth(3).unwrap()))
        .collect()
}

async fn runs(page_name: &str) {
    let page = page(page_name);
    let configs = blocks(&page, "yaml");
    assert!(!configs.is_empty(), "{page_name} has no config");
    let programs = programs(&["npx", "uvx", "tsx"]);
    let search = format!(
        "{}:{}",
        programs.path().display(),
        std::env::var("PATH").unwrap()
    );
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let ready = |args: &[&str], config: &str| {
        Start::args(args)
            .env("PATH", &search)
            .env("TOOLS_TOKEN", "a-token")
            .file("ziggurat.yaml", config)
            .file("cert.pem", &made.cert.pem())
            .file("key.pem", &made.signing_key.serialize_pem())
    };
    for config in configs {
        let output = ready(&["check", "ziggurat.yaml"], &config).ends().await;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(output.status.success(), "{page_name}: {said}\n{config}");
        assert!(!said.contains("warning"), "{page_name}: {said}\n{config}");
        let any_port = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
        let run = [&["run", "-c", "ziggurat.yaml"][..], &any_port].concat();
        let z = ready(&run, &config).up().await;
        if config.contains("tls:") {
            continue;
        }
        for path in to_commands(&z).await {
            let session = z.target().session_at(&path, LEGACY).await;
            assert_eq!(session.version, LEGACY, "{path} of\n{config}");
        }
    }
}

#[tokio::test]
async fn the_configs_of_the_readme_run() {
    runs("README.md").await;
}

#[test]
fn the_readme_names_what_the_guide_has() {
    let guide = page("docs/guide.md");
    let has: Vec<_> = guide
        .lines()
        .filter_map(|l| l.strip_prefix("## "))
        .collect();
    let anchor = |heading: &str| {
        let kept = |letter: &char| letter.is_alphanumeric() || " -_".contains(*letter);
        let lower = heading.to_lowercase();
        lower
            .chars()
            .filter(kept)
            .collect::<String>()
            .replace(' ', "-")
    };
    let should: Vec<_> = has
        .iter()
        .map(|heading| format!("[{heading}](docs/guide.md#{})", anchor(heading)))
        .collect();
    let readme = page("README.md");
    let links = readme.lines().filter_map(|line| line.strip_prefix("- "));
    let names: Vec<_> = links
        .filter(|line| line.contains("(docs/guide.md#"))
        .filter_map(|line| Some(line.split_once("):")?.0.to_owned() + ")"))
        .collect();
    assert_eq!(names, should);
}

#[tokio::test]
async fn the_configs_of_the_guide_run() {
    runs("docs/guide.md").await;
}

#[tokio::test]
async fn the_configs_for_those_who_come_from_elsewhere_run() {
    runs("docs/migrate.md").await;
}

/// The kinds of faults, as their table has them: those for which whoever sent the request is to blame, or the others.
fn kinds(of_clients: bool) -> BTreeSet<String> {
    let table = page("layers/src/rescue/table.rs");
    let rows = table.split("match fault {").nth(1).unwrap();
    let rows = rows.split("    fn by").next().unwrap();
    let rows = rows.split("Fault::").skip(1);
    let client = |row: &&str| row.contains("client(\"") || row.contains("Blame::Client");
    rows.filter(|row| client(row) == of_clients)
        .map(|row| row.split('"').nth(3).unwrap().to_owned())
        .collect()
}

#[test]
fn the_runbook_knows_what_to_do_about_each_kind_of_failure() {
    let runbook = page("docs/runbook.md");
    let (_, entry) = runbook
        .split_once("\n## ZigguratErrorBudgetFastBurn\n")
        .unwrap();
    let entry = entry.split("\n## ").next().unwrap();
    let kinds = kinds(false);
    assert!(kinds.len() > 20, "{kinds:?}");
    let missing: Vec<_> = kinds
        .iter()
        .filter(|kind| !entry.contains(&format!("`{kind}`")))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn the_rules_do_not_count_what_clients_get_wrong() {
    let kinds = kinds(true);
    assert!(kinds.len() > 15, "{kinds:?}");
    let rules = page("grafana/rules.yml");
    let counted = rules
        .split("error_type!~\"bad_host")
        .nth(1)
        .and_then(|rest| rest.split('"').next())
        .unwrap();
    let left_out: BTreeSet<String> = format!("bad_host{counted}")
        .split('|')
        .map(str::to_owned)
        .collect();
    assert_eq!(left_out, kinds);
}
