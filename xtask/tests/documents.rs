// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The tables in `docs/` name tests: they have to exist, and the sums have to
//! be right. The guide quotes messages of programs, which have to exist, too.
//!
//! A test is named as `crate/path/of/the/file::name`, see [`ALIASES`].

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use vhost_guest_msg::{Gate, Row as Message, Verdict, BACKEND_ROWS, FRONTEND_ROWS};

/// How the tables call the places where tests are.
const ALIASES: [(&str, &str); 8] = [
    ("device", "vhost-guest-device/src"),
    ("driver", "vhost-guest-driver/src"),
    ("msg", "vhost-guest-msg/src"),
    ("msg-tests", "vhost-guest-msg/tests"),
    ("relay", "vhost-guest-relay/src"),
    ("traits", "vhost-guest-vmm-traits/src"),
    ("examples", "examples"),
    ("xtask", "xtask/src"),
];

fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().expect("a workspace").to_owned()
}

fn document(name: &str) -> String {
    let path = root().join("docs").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The names of tests in a text: code spans with a path and a `::` in them.
fn tests_in(text: &str) -> Vec<(&str, &str)> {
    let spans = text.split('`').skip(1).step_by(2);
    let names = spans.filter_map(|span| span.split_once("::"));
    names.filter(|(path, _)| path.contains('/')).collect()
}

/// The source file that a table means.
fn source(path: &str) -> Option<String> {
    let (alias, rest) = path.split_once('/')?;
    let (_, directory) = ALIASES.iter().find(|(name, _)| *name == alias)?;
    let place = root().join(directory).join(rest);
    let candidates = [place.with_extension("rs"), place.join("mod.rs")];
    candidates
        .iter()
        .find_map(|file| fs::read_to_string(file).ok())
}

/// Whether a source has a test of this name.
fn has_test(source: &str, name: &str) -> bool {
    let head = format!("fn {name}(");
    let lines: Vec<&str> = source.lines().map(str::trim_start).collect();
    let at = lines.iter().position(|line| line.starts_with(&head));
    at.is_some_and(|at| {
        let above = lines[..at].iter().rev();
        let mut attributes =
            above.take_while(|line| line.starts_with("#[") || line.starts_with("//"));
        attributes.any(|line| *line == "#[test]")
    })
}

/// A row of a table whose first cell is a letter with a number.
#[derive(Debug)]
struct Row<'a> {
    letter: char,
    number: usize,
    cells: Vec<&'a str>,
}

fn rows(text: &str) -> Vec<Row<'_>> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("| "));
    let tables = lines.map(|line| line.trim_end_matches(" |").split(" | ").collect());
    tables
        .filter_map(|cells: Vec<&str>| {
            let mut id = cells.first()?.chars();
            let letter = id.next().filter(char::is_ascii_uppercase)?;
            let number = id.as_str().parse().ok()?;
            Some(Row {
                letter,
                number,
                cells,
            })
        })
        .collect()
}

/// How many rows each letter has; they are numbered from 1 without a gap.
fn counts(rows: &[Row<'_>]) -> BTreeMap<char, usize> {
    let mut counts = BTreeMap::new();
    for row in rows {
        let count = counts.entry(row.letter).or_insert(0);
        *count += 1;
        assert_eq!(row.number, *count, "numbering of {}", row.letter);
    }
    counts
}

#[test]
fn every_test_that_is_named_exists() {
    let mut missing = Vec::new();
    let names = [
        ("conformance.md", 50),
        ("defects.md", 50),
        ("messages.md", 50),
        ("refusals.md", 50),
        ("system-calls.md", 20),
    ];
    for (name, least) in names {
        let text = document(name);
        let tests = tests_in(&text);
        assert!(tests.len() > least, "{name} names {} tests", tests.len());
        for (path, test) in tests {
            if !source(path).is_some_and(|source| has_test(&source, test)) {
                missing.push(format!("{name}: {path}::{test}"));
            }
        }
    }
    assert!(missing.is_empty(), "no such tests:\n{}", missing.join("\n"));
}

#[test]
fn every_statement_has_a_test_or_a_reason() {
    let text = document("conformance.md");
    let rows = rows(&text);
    let counts = counts(&rows);
    let mut verdicts: BTreeMap<(char, &str), usize> = BTreeMap::new();
    for row in &rows {
        let [id, _section, _statement, verdict, evidence] = row.cells[..] else {
            panic!("{row:?}");
        };
        let proved = !tests_in(evidence).is_empty();
        match verdict {
            "holds" => assert!(proved, "{id} has no test"),
            "deviates" | "does not apply" => assert!(evidence.len() > 20, "{id}: no reason"),
            other => panic!("{id}: {other}"),
        }
        *verdicts.entry((row.letter, verdict)).or_default() += 1;
    }
    // The summary: | letter: text | rows | hold | deviate | do not apply |
    for (letter, count) in counts {
        let of = |verdict| verdicts.get(&(letter, verdict)).copied().unwrap_or(0);
        let (hold, deviate) = (of("holds"), of("deviates"));
        let sums = format!(
            "| {count} | {hold} | {deviate} | {} |",
            of("does not apply")
        );
        let begins = format!("| {letter}: ");
        let line = text.lines().find(|line| line.starts_with(&begins));
        assert!(
            line.is_some_and(|line| line.ends_with(&sums)),
            "{letter} is {sums}, not {line:?}"
        );
    }
}

#[test]
fn every_defect_is_answered() {
    let text = document("defects.md");
    let rows = rows(&text);
    for row in &rows {
        let [id, _what, answer] = row.cells[..] else {
            panic!("{row:?}");
        };
        let reason = answer.starts_with("Cannot happen: ") || answer.starts_with("Not ours: ");
        assert!(reason || !tests_in(answer).is_empty(), "{id}: {answer}");
    }
    for (letter, count) in counts(&rows) {
        let begins = format!("| {letter}: ");
        let line = text.lines().find(|line| line.starts_with(&begins));
        let sums = format!("| {count} |");
        assert!(
            line.is_some_and(|line| line.ends_with(&sums)),
            "{letter} is {count}, not {line:?}"
        );
    }
}

/// Where the messages come from that the guide quotes: a row begins with one of
/// these names, and the message as a code span.
const SPEAKERS: [(&str, &str); 7] = [
    ("relay", "vhost-guest-relay/src"),
    ("driver", "vhost-guest-driver/src"),
    ("device", "vhost-guest-device/src"),
    ("device", "vhost-guest-msg/src"),
    ("examples", "examples"),
    ("linux", "linux"),
    ("bind", "linux/bind.sh"),
];
/// How long a placeholder of a message may be in a source.
const PLACEHOLDER: usize = 40;

/// All sources below a place, each as one text: a line that ends in a backslash
/// goes on with the first word of the next.
fn sources(place: &Path, texts: &mut Vec<String>) {
    let Ok(entries) = place.read_dir() else {
        let text = fs::read_to_string(place).expect("a source");
        let lines = text.split("\\\n");
        let joined: Vec<_> = lines.map(str::trim_start).collect();
        texts.push(joined.concat());
        return;
    };
    for entry in entries {
        let path = entry.expect("an entry").path();
        let source = ["rs", "c", "h"]
            .iter()
            .any(|end| path.extension().is_some_and(|e| e == *end));
        if source || path.is_dir() {
            sources(&path, texts);
        }
    }
}

/// Whether a source has a message: the pieces between the `…`, in this order,
/// with no more than a placeholder between them.
fn has_message(source: &str, message: &str) -> bool {
    let mut pieces = message.split('…').filter(|piece| !piece.trim().is_empty());
    let Some(first) = pieces.next() else {
        return false;
    };
    let pieces: Vec<_> = pieces.collect();
    source.match_indices(first).any(|(at, _)| {
        let mut rest = &source[at + first.len()..];
        pieces.iter().all(|piece| match rest.find(piece) {
            Some(gap) if gap <= PLACEHOLDER => {
                rest = &rest[gap + piece.len()..];
                true
            }
            _ => false,
        })
    })
}

/// What the guide quotes: who says it, and what.
fn quotes(text: &str) -> Vec<(&str, &str)> {
    let rows = text.lines().filter_map(|line| line.strip_prefix("| "));
    rows.filter_map(|row| {
        let (speaker, rest) = row.split_once(": `")?;
        let (message, _) = rest.split_once("` |")?;
        let known = SPEAKERS.iter().any(|(name, _)| *name == speaker);
        known.then_some((speaker, message))
    })
    .collect()
}

#[test]
fn every_message_that_the_guide_quotes_exists() {
    let text = document("backends.md");
    let quotes = quotes(&text);
    assert!(quotes.len() > 25, "{} quotes", quotes.len());
    let missing: Vec<_> = quotes
        .iter()
        .filter(|(who, message)| {
            let mut texts = Vec::new();
            for (_, place) in SPEAKERS.iter().filter(|(name, _)| name == who) {
                sources(&root().join(place), &mut texts);
            }
            !texts.iter().any(|source| has_message(source, message))
        })
        .collect();
    assert!(missing.is_empty(), "no such messages: {missing:#?}");
}

#[test]
fn a_message_is_found_with_its_parts_in_order() {
    let source = "#[error(\"no {0}; is {1} there?\")] #[error(\"busy\")]";
    assert!(has_message(source, "no …; is … there?"));
    assert!(has_message(source, "busy"));
    assert!(!has_message(source, "is … there? no …;"));
    assert!(!has_message(source, "no …; busy"));
    assert!(!has_message(source, "…"));
    let far = format!("no {}; is it", " ".repeat(PLACEHOLDER + 1));
    assert!(!has_message(&far, "no …; is it"));
    let row = "| relay: `no …` | a | b |\n| kernel: `oops` | a | b |\n";
    assert_eq!(quotes(row), [("relay", "no …")]);
}

/// How the table calls a message's gate.
fn gate(message: &Message) -> String {
    let name = match message.gate {
        Gate::Always => Some("always"),
        Gate::Offered(feature) | Gate::Virtio(feature) => {
            feature.iter_names().next().map(|(name, _)| name)
        }
        Gate::Protocol(feature) => feature.iter_names().next().map(|(name, _)| name),
    };
    name.expect("a gate with a name").to_owned()
}

/// How the table calls what is done with a message.
fn verdict(message: &Message) -> &'static str {
    match message.verdict {
        Verdict::Forward => "passed on",
        Verdict::Handle => "handled",
        Verdict::Refuse(_) => "refused",
    }
}

#[test]
fn every_message_is_tested_with_a_device() {
    let text = document("messages.md");
    let rows = rows(&text);
    for (letter, messages) in [('M', FRONTEND_ROWS), ('B', BACKEND_ROWS)] {
        let rows: Vec<_> = rows.iter().filter(|row| row.letter == letter).collect();
        assert_eq!(rows.len(), messages.len(), "messages in {letter}");
        for (row, message) in rows.iter().zip(messages) {
            assert_eq!(row.number, message.code as usize, "order of {letter}");
            let [_id, name, its_gate, its_verdict, what, tests] = row.cells[..] else {
                panic!("{row:?}");
            };
            let catalog = (message.name, &*gate(message), verdict(message));
            assert_eq!((name, its_gate, its_verdict), catalog);
            assert!(!what.is_empty(), "{name}: nothing is said");
            let tests = tests_in(tests);
            let whole_device = |(path, _): &(&str, &str)| path.starts_with("device/tests/");
            assert!(tests.iter().any(whole_device), "{name} has no test");
        }
    }
    // And what the driver makes of those that a frontend sends.
    let answers: Vec<_> = rows.iter().filter(|row| row.letter == 'D').collect();
    assert_eq!(answers.len(), FRONTEND_ROWS.len(), "messages in D");
    for (row, message) in answers.iter().zip(FRONTEND_ROWS) {
        let [_id, name, what, tests] = row.cells[..] else {
            panic!("{row:?}");
        };
        assert_eq!((row.number, name), (message.code as usize, message.name));
        assert!(!what.is_empty(), "{name}: nothing is said");
        let tests = tests_in(tests);
        let servers = |(path, _): &(&str, &str)| path.starts_with("driver/server/tests/");
        assert!(tests.iter().any(servers), "{name} has no test");
    }
    let sequences: Vec<_> = rows.iter().filter(|row| row.letter == 'S').collect();
    assert!(sequences.len() >= 10, "{} sequences", sequences.len());
    for row in sequences {
        let tests = tests_in(row.cells.last().copied().unwrap_or_default());
        assert!(!tests.is_empty(), "{row:?}");
    }
}

/// All tests of a source.
fn tests_of(source: &str) -> Vec<&str> {
    let mut names = Vec::new();
    for part in source.split("#[test]").skip(1) {
        let (_, after) = part.split_once("fn ").expect("a function");
        let (name, _) = after.split_once('(').expect("arguments");
        names.push(name);
    }
    names
}

/// The sources below a directory, by the names that tables call them.
fn named_sources(place: &Path, name: &str, sources: &mut Vec<(String, String)>) {
    for entry in place.read_dir().expect("a directory") {
        let path = entry.expect("an entry").path();
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        let name = format!("{name}/{}", stem.expect("a name"));
        if path.is_dir() {
            named_sources(&path, &name, sources);
        } else {
            let text = fs::read_to_string(&path).expect("a source");
            sources.push((name, text));
        }
    }
}

#[test]
fn every_frontend_is_played_and_every_play_is_listed() {
    let text = document("frontends.md");
    let rows = rows(&text);
    assert_eq!(counts(&rows).keys().collect::<Vec<_>>(), [&'F']);
    for row in &rows {
        let [id, frontend, what, tests] = row.cells[..] else {
            panic!("{row:?}");
        };
        assert!(!frontend.is_empty() && !what.is_empty(), "{id}");
        assert!(!tests_in(tests).is_empty(), "{id} has no test");
    }
    let named = tests_in(&text);
    for (path, test) in &named {
        let found = source(path).is_some_and(|source| has_test(&source, test));
        assert!(found, "no such test: {path}::{test}");
    }
    let mut sources = Vec::new();
    let place = "examples/tests/frontends";
    named_sources(&root().join(place), place, &mut sources);
    for (path, source) in &sources {
        for test in tests_of(source) {
            let listed = named.contains(&(path.as_str(), test));
            assert!(listed, "{path}::{test} is in no row");
        }
    }
}

#[test]
fn a_test_is_a_function_with_the_attribute() {
    let source = "#[test]\n#[ignore]\n/// Text.\nfn first() {}\n\nfn second() {}\n";
    assert!(has_test(source, "first"));
    assert!(!has_test(source, "second") && !has_test(source, "third"));
    assert_eq!(tests_of(source), ["first"]);
    assert_eq!(
        tests_in("`device/a::b`, `Type::c`, `x`"),
        [("device/a", "b")]
    );
}

/// A reader pastes them; that a shell can read them is the least.
#[test]
fn every_block_of_commands_is_a_script() {
    for name in ["../README.md", "../linux/README.md", "backends.md"] {
        let text = document(name);
        let blocks: Vec<_> = text.split("```sh\n").skip(1).collect();
        assert!(!blocks.is_empty(), "{name} has no commands");
        for block in blocks {
            let script = block.split("\n```").next().unwrap_or_default();
            assert!(
                !script.contains('…'),
                "{name} leaves something out of:\n{script}"
            );
            let check = Command::new("sh").args(["-n", "-c", script]).output();
            let check = check.expect("a shell");
            let said = String::from_utf8_lossy(&check.stderr);
            assert!(check.status.success(), "{name}: {said}\n{script}");
        }
    }
}
