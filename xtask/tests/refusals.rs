// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `docs/refusals.md` and the code have the same refusals: a new one without a
//! row fails, and so does a row whose refusal is gone.
//!
//! A row is `| refusal | file | reason | test |`; the file is a path below its
//! crate's `src`.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A part of a crate, and where in it a refusal's text can stand.
struct Part {
    /// The crate, which is the heading of its table too.
    name: &'static str,
    /// Files, or directories with files, below the crate's `src`.
    places: &'static [&'static str],
    /// Error enums that a peer can cause.
    enums: &'static [&'static str],
    /// What a string literal stands behind that is a refusal.
    literals: &'static [Literal],
}

/// What introduces a string literal, and, for a field's name, what is wrong with
/// the field.
type Literal = (&'static str, Option<&'static str>);

const MESSAGE: &[Literal] = &[
    ("Invalid::new(", Some("")),
    ("check_not_zero(", Some("Zero")),
    ("check_range(", Some("Overflow")),
    ("check_last(", Some("Overflow")),
    ("part(", Some("Unmapped")),
];

const DEVICE: &[Literal] = &[
    ("Fault::frontend(", None),
    ("Fault::guest(", None),
    ("Refusal::request(", None),
    ("let reason = ", None),
    ("FdError::Kind(", None),
];

const RELAY: &[Literal] = &[
    ("fault(plain.code(), ", None),
    ("None => Some(", None),
    ("is_open(context) => Some(", None),
    ("Taken::Refused(code, ", None),
    // The messages of errors that are longer than a line.
    ("#[error(\n", None),
];
const DRIVER: &[Literal] = &[("Err(", None), ("ok_or(", None), ("Reason = ", None)];

/// What is covered. A crate, or a part of one, is a line.
const PARTS: &[Part] = &[
    part(
        "vhost-guest-msg",
        &["."],
        &["Reason", "FrameReason", "ReplyError"],
        MESSAGE,
    ),
    part(
        "vhost-guest-device",
        &[
            "memory.rs",
            "memory",
            "fd",
            "connection",
            "device",
            "guest/registers",
            "guest/virtio",
        ],
        &[
            "MemoryError",
            "FdError",
            "PumpError",
            "InflightError",
            "GuestFault",
        ],
        DEVICE,
    ),
    part("vhost-guest-relay", &["."], &[], RELAY),
    part(
        "vhost-guest-driver",
        &["server", "vring/fault.rs"],
        &["RingFault"],
        DRIVER,
    ),
];

const fn part(
    name: &'static str,
    places: &'static [&'static str],
    enums: &'static [&'static str],
    literals: &'static [Literal],
) -> Part {
    Part {
        name,
        places,
        enums,
        literals,
    }
}

/// A refusal: its text, and the file that it is in.
type Refusal = (String, String);

fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().expect("a workspace").to_owned()
}

/// The sources below a place that are no tests.
fn sources(place: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = place.read_dir() else {
        found.push(place.to_owned());
        return;
    };
    for entry in entries {
        let path = entry.expect("an entry").path();
        let name = path.file_stem().expect("a name").to_string_lossy();
        let is_test = name == "tests" || name.ends_with("_tests") || name == "testing";
        let is_source = path.is_dir() || path.extension().is_some_and(|end| end == "rs");
        if is_source && !is_test {
            sources(&path, found);
        }
    }
}

/// A source without its tests and comments, and with its long strings joined.
fn code(source: &str) -> String {
    let (code, _) = source.split_once("\nmod tests {").unwrap_or((source, ""));
    let lines = code.lines().map(str::trim);
    let lines = lines.filter(|line| !line.starts_with("//"));
    let text = lines.collect::<Vec<_>>().join("\n");
    text.replace("\\\n", "")
}

/// The string literal that `text` begins with, but for white space and
/// `format_args!(`; and what follows it.
fn literal(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start();
    let text = text.strip_prefix("format_args!(").unwrap_or(text);
    text.trim_start().strip_prefix('"')?.split_once('"')
}

/// The texts that stand behind an introduction.
fn literals<'a>(code: &'a str, (before, problem): Literal) -> impl Iterator<Item = String> + 'a {
    code.match_indices(before).filter_map(move |(at, _)| {
        let (text, rest) = literal(&code[at + before.len()..])?;
        let Some(problem) = problem else {
            return Some(text.to_owned());
        };
        // Named here, or in a variable before.
        let named = |text: &'a str, from| {
            let (_, rest) = text[from..].split_once("Problem::")?;
            rest.split(|c: char| !c.is_alphanumeric()).next()
        };
        let problem = if !problem.is_empty() {
            problem
        } else if rest
            .trim_start_matches([',', ' ', '\n'])
            .starts_with("Problem::")
        {
            named(rest, 0)?
        } else {
            named(code, code[..at].rfind("Problem::")?)?
        };
        Some(format!("{text}: {problem}"))
    })
}

/// The messages of an error enum's variants.
fn messages(code: &str, name: &str) -> Vec<String> {
    let head = format!("enum {name} {{");
    let Some((_, body)) = code.split_once(&head) else {
        return Vec::new();
    };
    // Braces come in pairs, in messages too.
    let mut open = 1;
    let end = body.find(|c| {
        open += i32::from(c == '{') - i32::from(c == '}');
        open == 0
    });
    literals(&body[..end.unwrap_or(body.len())], ("#[error(", None)).collect()
}

/// The refusals in the code of a part, and that each enum was there.
fn in_code(part: &Part) -> BTreeSet<Refusal> {
    let source = root().join(part.name).join("src");
    let mut paths = Vec::new();
    for place in part.places {
        sources(&source.join(place), &mut paths);
    }
    let mut refusals = BTreeSet::new();
    let mut enums: BTreeSet<_> = part.enums.iter().copied().collect();
    for path in paths {
        let code = code(&fs::read_to_string(&path).expect("a source"));
        let mut found: Vec<_> = part
            .literals
            .iter()
            .flat_map(|introduction| literals(&code, *introduction))
            .collect();
        for name in part.enums {
            let messages = messages(&code, name);
            if !messages.is_empty() {
                enums.remove(name);
            }
            found.extend(messages);
        }
        let file = path.strip_prefix(&source).expect("below its crate");
        let file = file.to_string_lossy().trim_start_matches("./").to_owned();
        refusals.extend(found.into_iter().map(|text| (text, file.clone())));
    }
    assert!(enums.is_empty(), "{}: no enums {enums:?}", part.name);
    refusals
}

/// The refusals in the tables of a crate, and that each row is whole.
fn in_tables(document: &str, name: &str) -> BTreeSet<Refusal> {
    let head = format!("\n## {name}");
    let sections = document.split(&head).skip(1);
    let sections = sections.map(|section| section.split("\n## ").next().unwrap_or_default());
    let rows = sections.flat_map(str::lines);
    let rows = rows.filter_map(|line| line.strip_prefix("| `"));
    rows.map(|row| {
        let cells: Vec<_> = row.trim_end_matches(" |").split(" | ").collect();
        let [refusal, file, reason, test] = cells[..] else {
            panic!("{row}");
        };
        assert!(reason.len() > 10, "no reason: {row}");
        assert!(test.contains("::"), "no test: {row}");
        let refusal = refusal.trim_end_matches('`').to_owned();
        (refusal, file.trim_matches('`').to_owned())
    })
    .collect()
}

#[test]
fn the_table_has_the_refusals_of_the_code() {
    let document = fs::read_to_string(root().join("docs/refusals.md")).expect("the table");
    let names: BTreeSet<_> = PARTS.iter().map(|part| part.name).collect();
    for name in names {
        let parts = PARTS.iter().filter(|part| part.name == name);
        let code: BTreeSet<_> = parts.flat_map(in_code).collect();
        let tables = in_tables(&document, name);
        let without_row: Vec<_> = code.difference(&tables).collect();
        assert!(
            without_row.is_empty(),
            "{name}: no rows for {without_row:#?}"
        );
        let without_code: Vec<_> = tables.difference(&code).collect();
        assert!(
            without_code.is_empty(),
            "{name}: rows without code {without_code:#?}"
        );
    }
}

#[test]
fn refusals_are_found_where_they_stand() {
    let source = "
/// Fault::frontend(\"in a comment\")
fn f() {
    Fault::frontend(\"one\");
    Fault::frontend(format_args!(
        \"two {x} \\
         of them\"
    ));
    Fault::frontend(error);
    Invalid::new(\"size\", Problem::Zero);
    let problem = Problem::Above(1);
    Invalid::new(\"num\", problem);
}
enum Why {
    #[error(\"three {0}\")]
    Three { what: u32 },
    #[error(transparent)]
    Other(Error),
}
#[error(\"nor this\")]
struct Other;
enum Else {
    #[error(\"not this one\")]
    No,
}
mod tests {
    Fault::frontend(\"in a test\");
}
";
    let code = code(source);
    let found: Vec<_> = literals(&code, ("Fault::frontend(", None)).collect();
    assert_eq!(found, ["one", "two {x} of them"]);
    let found: Vec<_> = literals(&code, ("Invalid::new(", Some(""))).collect();
    assert_eq!(found, ["size: Zero", "num: Above"]);
    assert_eq!(messages(&code, "Why"), ["three {0}"]);
    let table = "\n## a crate\n\n| `one {0}` | `a.rs` | for a reason | `x::y` |\n\n## another\n| `no` | `a` | `b` |\n";
    let row = ("one {0}".to_owned(), "a.rs".to_owned());
    assert_eq!(in_tables(table, "a crate"), BTreeSet::from([row]));
}
