// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `docs/refusals.md` and the code have the same refusals: a new one without a
//! row fails, and so does a row whose refusal is gone.
//!
//! A row is `| refusal | rule | reason | test |`. The rule is a variant of an
//! error type (`FrontendFault::Unknown`), or an error type that is a struct.
//! Where no type tells a refusal, it is the file below the crate's `src`.
//!
//! Every error type of a crate has rows, or is in its list of those that need
//! none.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A crate that refuses.
struct Part {
    /// The crate, which is the heading of its table too.
    name: &'static str,
    /// Error types without rows, and why they need none.
    exempt: &'static [(&'static str, &'static str)],
    /// Files, or directories with files, below the crate's `src`, whose literals
    /// may be refusals.
    places: &'static [&'static str],
    /// What a string literal stands behind that is a refusal.
    literals: &'static [Literal],
}

/// What introduces a string literal, and, for a field's name, what is wrong with
/// the field.
type Literal = (&'static str, Option<&'static str>);

const PARTS: &[Part] = &[
    Part {
        name: "vhost-guest-msg",
        exempt: &[
            ("Invalid", "its rows are those of the fields"),
            ("Problem", "its rows are those of the fields"),
            ("MessageError", "its rows are those of its reasons"),
            ("BufferTooSmall", "its caller's mistake"),
            ("TrackerFull", "its caller's mistake"),
        ],
        places: &["."],
        literals: &[
            ("Invalid::new(", Some("")),
            ("check_not_zero(", Some("Zero")),
            ("check_range(", Some("Overflow")),
            ("check_last(", Some("Overflow")),
            ("part(", Some("Unmapped")),
        ],
    },
    Part {
        name: "vhost-guest-device",
        exempt: &[
            ("BuildError", "what a VMM chose"),
            ("Fault", "says whose fault the others are"),
            ("Refusal", "says what the others cost"),
        ],
        places: &["fd"],
        literals: &[("FdError::Kind(", None)],
    },
    Part {
        name: "vhost-guest-relay",
        exempt: &[
            ("End", "says who ended a session; the reasons are below"),
            ("Failure", "what who starts the program chose"),
        ],
        places: &["."],
        literals: &[
            ("fault(plain.code(), ", None),
            ("None => Some(", None),
            ("is_open(context) => Some(", None),
            ("Taken::Refused(code, ", None),
            // The messages of errors that are longer than a line.
            ("#[error(\n", None),
        ],
    },
    Part {
        name: "vhost-guest-driver",
        exempt: &[
            ("Disconnect", "says which of the others it was"),
            ("EmulatedError", "of a bus that is in the same process"),
            ("ModuleError", "of the kernel, which is trusted"),
            ("SysfsError", "of the kernel, which is trusted"),
            ("VfioError", "of the kernel, which is trusted"),
        ],
        places: &["server"],
        literals: &[("Err(", None), ("ok_or(", None), ("Reason = ", None)],
    },
];

/// A refusal: its text, and its rule.
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

/// An error type.
#[derive(Debug, Default, PartialEq)]
struct ErrorType {
    name: String,
    /// Texts, and their variants or the struct's name.
    rules: Vec<Refusal>,
    /// The types whose texts stand for a variant's.
    transparent: Vec<String>,
    /// Variants that say nothing.
    silent: Vec<String>,
}

/// What stands before the bracket that belongs to the one before `text`.
fn bracketed(text: &str) -> &str {
    // Brackets come in pairs, in messages too.
    let mut open = 1;
    let end = text.find(|c| {
        open += i32::from(matches!(c, '{' | '[' | '(')) - i32::from(matches!(c, '}' | ']' | ')'));
        open == 0
    });
    &text[..end.unwrap_or(text.len())]
}

fn identifier(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_');
    &text[..end.unwrap_or(text.len())]
}

/// Takes an item's attributes off: the contents of `error`, and the rest.
fn attributes(mut text: &str) -> (Option<&str>, &str) {
    let mut error = None;
    while let Some(rest) = text.trim_start().strip_prefix("#[") {
        let attribute = bracketed(rest);
        error = error.or(attribute.strip_prefix("error("));
        text = &rest[attribute.len() + 1..];
    }
    (error, text.trim_start())
}

/// The error types of a source.
fn error_types(code: &str) -> Vec<ErrorType> {
    let derives = code.match_indices("#[derive(");
    let items = derives.filter_map(|(at, _)| {
        let derived = bracketed(&code[at + 2..]);
        let derived = derived.split(['(', ')', ',']).map(str::trim);
        let mut names = derived.map(|name| name.rsplit("::").next().unwrap_or(name));
        names.any(|name| name == "Error").then(|| &code[at..])
    });
    let types = items.map(|item| {
        let (message, rest) = attributes(item);
        let rest = rest.trim_start_matches("pub(crate) ");
        let rest = rest.trim_start_matches("pub(super) ");
        let rest = rest.trim_start_matches("pub ");
        let (kind, rest) = rest.split_once(' ').expect("an item");
        let name = identifier(rest).to_owned();
        match kind {
            "enum" => {
                let (_, body) = rest.split_once('{').expect("a body");
                error_enum(name, bracketed(body))
            }
            _ => {
                let (text, _) = message.and_then(literal).expect("a struct with a text");
                let rules = vec![(text.to_owned(), name.clone())];
                ErrorType {
                    name,
                    rules,
                    ..ErrorType::default()
                }
            }
        }
    });
    types.collect()
}

fn error_enum(name: String, mut body: &str) -> ErrorType {
    let mut found = ErrorType {
        name,
        ..ErrorType::default()
    };
    while !body.trim().is_empty() {
        let (message, rest) = attributes(body);
        let variant = identifier(rest);
        let rule = format!("{}::{variant}", found.name);
        let mut rest = rest[variant.len()..].trim_start();
        let mut fields = "";
        if rest.starts_with(['(', '{']) {
            fields = bracketed(&rest[1..]);
            rest = &rest[fields.len() + 2..];
        }
        body = rest.trim_start_matches(',');
        match message {
            Some("transparent)") => {
                let field = attributes(fields).1.trim();
                let field = field.rsplit("::").next().unwrap_or(field);
                found.transparent.push(identifier(field).to_owned());
            }
            Some(message) => match literal(message) {
                Some((text, _)) => found.rules.push((text.to_owned(), rule)),
                None => found.silent.push(rule),
            },
            None => found.silent.push(rule),
        }
    }
    found
}

/// A crate's error types, and the refusals that are literals.
fn in_code(part: &Part) -> (Vec<ErrorType>, BTreeSet<Refusal>) {
    let source = root().join(part.name).join("src");
    let mut paths = Vec::new();
    sources(&source, &mut paths);
    let places: Vec<_> = part.places.iter().map(|place| source.join(place)).collect();
    let mut types = Vec::new();
    let mut refusals = BTreeSet::new();
    for path in paths {
        let code = code(&fs::read_to_string(&path).expect("a source"));
        types.extend(error_types(&code));
        let inside = |place: &PathBuf| place.ends_with(".") || path.starts_with(place);
        if !places.iter().any(inside) {
            continue;
        }
        let file = path.strip_prefix(&source).expect("below its crate");
        let file = file.to_string_lossy().into_owned();
        let literals = part.literals.iter().flat_map(|at| literals(&code, *at));
        refusals.extend(literals.map(|text| (text, file.clone())));
    }
    (types, refusals)
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
    for part in PARTS {
        let name = part.name;
        let (types, mut code) = in_code(part);
        let exempt = |name: &str| part.exempt.iter().any(|(exempt, _)| *exempt == name);
        for rules in types.into_iter().filter(|found| !exempt(&found.name)) {
            code.extend(rules.rules);
        }
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
fn every_variant_says_what_was_refused_or_leaves_it_to_a_type_that_does() {
    let types: Vec<_> = PARTS.iter().flat_map(|part| in_code(part).0).collect();
    let names: BTreeSet<_> = types.iter().map(|found| found.name.as_str()).collect();
    for part in PARTS {
        for (exempt, why) in part.exempt {
            assert!(names.contains(exempt), "{exempt} is gone");
            assert!(why.len() > 10, "{exempt}: {why}");
        }
    }
    for found in &types {
        assert!(found.silent.is_empty(), "{:?}", found.silent);
        let mut inner = found.transparent.iter();
        assert!(inner.all(|name| names.contains(name.as_str())), "{found:?}");
    }
}

#[test]
fn refusals_are_found_where_they_stand() {
    let source = "
/// FdError::Kind(\"in a comment\")
fn f() {
    FdError::Kind(\"one\");
    FdError::Kind(format_args!(
        \"two {x} \\
         of them\"
    ));
    FdError::Kind(error);
    Invalid::new(\"size\", Problem::Zero);
    let problem = Problem::Above(1);
    Invalid::new(\"num\", problem);
}
mod tests {
    FdError::Kind(\"in a test\");
}
";
    let code = code(source);
    let found: Vec<_> = literals(&code, ("FdError::Kind(", None)).collect();
    assert_eq!(found, ["one", "two {x} of them"]);
    let found: Vec<_> = literals(&code, ("Invalid::new(", Some(""))).collect();
    assert_eq!(found, ["size: Zero", "num: Above"]);
    let table = "\n## a crate\n\n| `one {0}` | `A::One` | for a reason | `x::y` |\n\n## another\n| `no` | `a` | `b` |\n";
    let row = ("one {0}".to_owned(), "A::One".to_owned());
    assert_eq!(in_tables(table, "a crate"), BTreeSet::from([row]));
}

#[test]
fn error_types_are_found_with_their_variants() {
    let source = "
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Why {
    /// A comment.
    #[error(\"three {0}\")]
    Three(#[source] io::Error),
    #[error(\"four {} {x:#x}\", Name(*.0))]
    #[cfg(unix)]
    Four { name: u32, x: [u8; 3] },
    #[error(transparent)]
    Other(#[from] super::Inner),
    Silent,
}
#[derive(Debug, Error)]
#[error(\"five\")]
pub struct Five(u32);
#[derive(Debug)]
enum NoError {
    Six,
}
";
    let rule = |text: &str, rule: &str| (text.to_owned(), rule.to_owned());
    let why = ErrorType {
        name: "Why".to_owned(),
        rules: vec![
            rule("three {0}", "Why::Three"),
            rule("four {} {x:#x}", "Why::Four"),
        ],
        transparent: vec!["Inner".to_owned()],
        silent: vec!["Why::Silent".to_owned()],
    };
    let five = ErrorType {
        name: "Five".to_owned(),
        rules: vec![rule("five", "Five")],
        ..ErrorType::default()
    };
    assert_eq!(error_types(&code(source)), [why, five]);
}
