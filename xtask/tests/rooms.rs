// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The rooms of the device crate know those below them only, in the order of
//! the table "What is where" in `DESIGN.md`.

#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().expect("a workspace").to_owned()
}

/// The rooms of the table, from the top down.
fn rooms(design: &str) -> Vec<&str> {
    let (_, section) = design
        .split_once("### What is where\n")
        .expect("the section");
    let section = section.split("\n### ").next().unwrap_or_default();
    let cells = section.lines().filter_map(|line| line.strip_prefix("| `"));
    let names = cells.filter_map(|cell| cell.split(['/', '.', '`']).next());
    names.collect()
}

/// The sources below a place that are no tests.
fn sources(place: &Path, found: &mut Vec<PathBuf>) {
    for entry in place.read_dir().expect("a directory") {
        let path = entry.expect("an entry").path();
        let name = path.file_stem().expect("a name").to_string_lossy();
        if name == "tests" || name == "testing" || name.ends_with("_tests") {
            continue;
        }
        match path.is_dir() {
            true => sources(&path, found),
            false => found.push(path),
        }
    }
}

/// The rooms that a source takes names from, but for its comments and its tests.
fn used(source: &str) -> Vec<&str> {
    let (code, _) = source.split_once("\nmod tests {").unwrap_or((source, ""));
    let lines = code.lines().map(str::trim);
    let lines = lines.filter(|line| !line.starts_with("//"));
    let uses = lines.flat_map(|line| line.split("crate::").skip(1));
    let names = uses.filter_map(|path| {
        path.split(|c: char| !c.is_alphanumeric() && c != '_')
            .next()
    });
    names.collect()
}

/// What is wrong with a source in a room.
fn wrong<'a>(room: &str, source: &'a str, rooms: &[&str]) -> Vec<&'a str> {
    let floor = |name: &str| rooms.iter().position(|room| *room == name);
    let mut names = used(source);
    names.retain(|name| floor(name).is_none() || floor(name) < floor(room));
    names
}

#[test]
fn each_room_of_the_device_knows_those_below_it_only() {
    let design = fs::read_to_string(root().join("DESIGN.md")).expect("the design");
    let rooms = rooms(&design);
    let place = root().join("vhost-guest-device/src");
    let mut paths = Vec::new();
    sources(&place, &mut paths);
    assert!(paths.len() > 50, "{} sources", paths.len());
    let mut found = Vec::new();
    for path in paths {
        let file = path.strip_prefix(&place).expect("below its crate");
        let name = file.to_string_lossy();
        if name == "lib.rs" {
            continue;
        }
        let room = name.split(['/', '.']).next().unwrap_or_default();
        assert!(rooms.contains(&room), "{name}: a room without a row");
        let source = fs::read_to_string(&path).expect("a source");
        let wrong = wrong(room, &source, &rooms);
        found.extend(wrong.iter().map(|used| format!("{name} uses {used}")));
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn names_from_above_and_from_nowhere_are_found() {
    let design = "### What is where\n\n| room | x |\n|---|---|\n| `top/` | x |\n| `low.rs` | x |\n\n### Next\n| `no/` |\n";
    let rooms = rooms(design);
    assert_eq!(rooms, ["top", "low"]);
    let source = "
// crate::top::in_a_comment
use crate::low::Fault;
pub(crate) use crate::top::Builder;
fn f() -> crate::elsewhere::T {}
mod tests {
    use crate::top::in_a_test;
}
";
    assert_eq!(wrong("low", source, &rooms), ["top", "elsewhere"]);
    assert_eq!(wrong("top", source, &rooms), ["elsewhere"]);
}
