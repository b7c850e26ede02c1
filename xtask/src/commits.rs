// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `cargo xtask commits`: the commit format of rust-vmm, checked before a push
//! rather than after it.

use std::process::Command;

use crate::arguments::Arguments;
use crate::error::Result;
use crate::process::output;
use crate::workspace;

/// What rust-vmm-ci allows a title.
const TITLE_MAX: usize = 60;
/// What rust-vmm documents for the lines of a body, and does not enforce.
const BODY_MAX: usize = 75;

const HELP: &str = "\
Checks the commits of a range (default: all that HEAD reaches, without merges):
a title of at most 60 characters that names what it is about ('device: …'), a
blank line, a body that says why, and a Signed-off-by. Lines of a body longer
than 75 characters are named, but are no fault.

Usage: cargo xtask commits [RANGE]
";

pub fn run(arguments: &mut Arguments) -> Result<()> {
    if arguments.flag("--help") {
        print!("{HELP}");
        return Ok(());
    }
    let range = arguments.positional().unwrap_or_else(|| "HEAD".to_owned());
    arguments.finish()?;

    // Records end with a NUL, which no message can contain.
    let log = output(
        Command::new("git")
            .current_dir(workspace::root())
            .args(["log", "--no-merges", "--format=%h%n%B%x00"])
            .args([&range, "--"]),
    )?;
    let mut checked = 0;
    let mut faults = Vec::new();
    for record in log.split('\0') {
        let record = record.trim_start_matches('\n');
        let Some((id, message)) = record.split_once('\n') else {
            continue;
        };
        checked += 1;
        for fault in check(message) {
            faults.push(format!("{id}: {fault}"));
        }
        for line in long_lines(message) {
            eprintln!("{id}: longer than {BODY_MAX} characters: {line}");
        }
    }
    for fault in &faults {
        eprintln!("{fault}");
    }
    match (checked, faults.len()) {
        (0, _) => Err(format!("no commits in {range}").into()),
        (_, 0) => {
            println!("{checked} commits are well-formed");
            Ok(())
        }
        (_, count) => Err(format!("{count} faults in {checked} commits").into()),
    }
}

/// The faults of one commit message.
fn check(message: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let mut lines = message.trim_end().lines();
    let title = lines.next().unwrap_or_default();
    let length = title.chars().count();
    if length > TITLE_MAX {
        faults.push(format!("the title has {length} characters: {title}"));
    }
    if title
        .split_once(": ")
        .is_none_or(|(part, _)| part.is_empty())
    {
        faults.push(format!("the title does not name its part first: {title}"));
    }
    if lines.next().is_some_and(|line| !line.is_empty()) {
        faults.push("the second line is not blank".to_owned());
    }
    let body: Vec<&str> = lines.collect();
    let (signs, text): (Vec<&str>, Vec<&str>) = body
        .iter()
        .partition(|line| line.starts_with("Signed-off-by: "));
    if signs.is_empty() {
        faults.push("there is no Signed-off-by".to_owned());
    }
    if text.iter().all(|line| line.trim().is_empty()) {
        faults.push("there is no body that says why".to_owned());
    }
    faults
}

/// The lines of a body that are too long. What cannot be broken (a link, quoted
/// output, a name with an address) may stick out.
fn long_lines(message: &str) -> impl Iterator<Item = &str> {
    message.lines().skip(2).filter(|line| {
        let unbroken = !line.contains(' ') || line.starts_with(' ') || line.contains("-by: ");
        line.chars().count() > BODY_MAX && !unbroken
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "msg: decode the memory table\n\nThe device needs it.\n\n\
                        Signed-off-by: A <a@example.org>\n";

    fn rejects(message: &str, about: &str) {
        let faults = check(message);
        assert!(
            faults.iter().any(|fault| fault.contains(about)),
            "{faults:?}"
        );
    }

    #[test]
    fn accepts_the_documented_form() {
        assert_eq!(check(GOOD), Vec::<String>::new());
    }

    #[test]
    fn accepts_a_title_of_exactly_the_limit() {
        let title = format!("msg: {}", "x".repeat(TITLE_MAX - 5));
        let message = GOOD.replace("msg: decode the memory table", &title);
        assert_eq!(check(&message), Vec::<String>::new());
        rejects(&message.replace("msg", "msgs"), "61 characters");
    }

    #[test]
    fn rejects_each_broken_rule() {
        rejects(&GOOD.replace("msg: ", ""), "name its part");
        rejects(&GOOD.replacen("\n\n", "\n", 1), "not blank");
        rejects(&GOOD.replace("Signed-off-by", "Signed"), "Signed-off-by");
        rejects(&GOOD.replace("The device needs it.\n", ""), "says why");
        rejects("", "Signed-off-by");
    }

    #[test]
    fn names_long_lines_but_not_links_and_quotes() {
        let long = GOOD.replace("needs", &"needs ".repeat(20));
        assert_eq!(long_lines(&long).count(), 1);
        assert_eq!(check(&long), Vec::<String>::new());
        let link = GOOD.replace("The", &format!("https://{}\nThe", "x".repeat(99)));
        assert_eq!(long_lines(&link).count(), 0);
        let quote = GOOD.replace("The", &format!("    $ {}\nThe", "x ".repeat(50)));
        assert_eq!(long_lines(&quote).count(), 0);
    }
}
