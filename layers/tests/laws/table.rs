//! The table is complete: what is a layer in the sources stands in it, and so does what the crate's front page lists.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use super::rows::rows;

/// The services of layers: `circuit::Circuit`, of a file `circuit.rs` or one in `circuit/`.
fn services_in_sources() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for file in sources(&root()) {
        let text = fs::read_to_string(&file).expect("a source");
        let inside = file
            .strip_prefix(root())
            .expect("inside")
            .with_extension("");
        let mut parts = inside.components();
        let module = parts.next().expect("a name").as_os_str().to_string_lossy();
        let is_test = inside.components().any(|part| part.as_os_str() == "tests");
        // Upstreams have nothing below them.
        if is_test || module == "upstream" {
            continue;
        }
        let text = text.split("\n#[cfg(test)]").next().unwrap_or_default();
        for (at, _) in text.match_indices("\nimpl") {
            let head = text[at..].split('{').next().unwrap_or_default();
            let Some((of, name)) = head.split_once(" for ") else {
                continue;
            };
            if of.contains("Service<") && !of.contains("Layer<") {
                let name = name.split(['<', '\n']).next().unwrap_or_default();
                found.insert(format!("{module}::{name}"));
            }
        }
    }
    found
}

fn services_in_table() -> BTreeSet<String> {
    let names = rows().into_iter().map(|row| {
        let path: Vec<_> = row.service.split("::").collect();
        format!("{}::{}", path[1], path[path.len() - 1])
    });
    names.collect()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let files = paths.flat_map(|path| {
        if path.is_dir() {
            sources(&path)
        } else {
            vec![path]
        }
    });
    files
        .filter(|f| f.extension().is_some_and(|e| e == "rs"))
        .collect()
}

#[test]
fn every_service_of_the_sources_is_held_to_the_laws() {
    let (table, sources) = (services_in_table(), services_in_sources());
    let missing: Vec<_> = sources.difference(&table).collect();
    assert!(missing.is_empty(), "not in the table: {missing:?}");
    let unread: Vec<_> = table.difference(&sources).collect();
    assert!(unread.is_empty(), "not found in the sources: {unread:?}");
}

#[test]
fn every_layer_of_the_front_page_is_held_to_the_laws() {
    let front = fs::read_to_string(root().join("lib.rs")).expect("the front page");
    let lines = front.lines().filter(|line| line.starts_with("//! | "));
    let listed = lines.filter_map(|line| {
        let name = line.split("[`").nth(1)?.split('`').next()?;
        name.split("::").next()
    });
    let listed: BTreeSet<_> = listed.filter(|module| *module != "upstream").collect();
    let table = services_in_table();
    let held: BTreeSet<_> = table.iter().filter_map(|s| s.split("::").next()).collect();
    let missing: Vec<_> = listed.difference(&held).collect();
    assert!(listed.len() > 10 && missing.is_empty(), "{missing:?}");
    // And all that are held are listed, but for two: the gate is for other balancers, and chaos for tests.
    let unlisted: Vec<_> = held.difference(&listed).copied().collect();
    assert_eq!(unlisted, ["chaos", "gate"]);
}
