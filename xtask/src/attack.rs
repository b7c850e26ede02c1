// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `cargo xtask attack`: what other threads of a VMM see while a frontend, or
//! the guest, attacks the device.
//!
//! Each run is a process of its own (the example `attack`), so that one that
//! hangs or dies is seen, and what it has is its own.

mod report;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::arguments::Arguments;
use crate::error::{Context, Result};
use crate::process::{dying_with_us, find, run as run_command, Running};
use crate::workspace;
use report::{Outcome, Report};

/// Where the attacks are, a file each.
const ATTACKS: &str = "examples/attack/list";
/// A run takes a second or two; one that is stuck gives up by itself.
const PATIENCE: Duration = Duration::from_secs(90);
const RUNS: usize = 3;

const HELP: &str = "\
Attacks the device in a VMM of its own, and measures how long vCPUs and the VMM
wait meanwhile: a register read and write, statistics(), memory_fault(), a BAR's
move, revoke(). Then the next frontend has to be served, memory of those before
it to be free, and the process to have the descriptors and threads that it had.

A call may take 20 ms more than in the same run without the attack, in the best
of three, and the same run without the attack must not wait longer than that
either: then the machine is too busy to tell. The runs have a high priority if
that is allowed (root).

Usage: cargo xtask attack [OPTIONS] [NAME...]

Options:
  --runs N    So many runs at most, until one is good (default: 3)
  --control   Attack a device that does everything under one lock: that has to
              fail, and is the proof that each attack bites

Attacks:
";

pub fn run(arguments: &mut Arguments) -> Result<()> {
    let all = attacks(&workspace::root().join(ATTACKS))?;
    if arguments.flag("--help") {
        print!("{HELP}");
        for attack in &all {
            println!("  {:20} {}", attack.name, attack.what);
        }
        return Ok(());
    }
    let runs = arguments.option("--runs")?.unwrap_or(RUNS).max(1);
    let control = arguments.flag("--control");
    let mut chosen = Vec::new();
    while let Some(name) = arguments.positional() {
        let found = all.iter().find(|attack| attack.name == name);
        chosen.push(found.ok_or_else(|| format!("no attack {name} (try --help)"))?);
    }
    arguments.finish()?;
    if chosen.is_empty() {
        chosen.extend(&all);
    }

    let program = build()?;
    let mut wrong = Vec::new();
    Report::print_head();
    for attack in chosen {
        let report = measure(&program, &attack.name, runs, control)?;
        print!("{report}");
        let expected = match control {
            true => report.bites() || report.is_left_out(),
            false => report.is_good(),
        };
        if !expected {
            wrong.push(attack.name.as_str());
        }
    }
    match (wrong.is_empty(), control) {
        (true, _) => Ok(()),
        (false, false) => Err(format!("these attacks succeed: {}", wrong.join(", ")).into()),
        (false, true) => {
            let names = wrong.join(", ");
            Err(format!("these attacks do nothing to a device with one lock: {names}").into())
        }
    }
}

struct Attack {
    name: String,
    what: String,
}

/// The attacks, by their files.
fn attacks(directory: &Path) -> Result<Vec<Attack>> {
    let entries = fs::read_dir(directory).path_context("cannot read", directory)?;
    let mut attacks = Vec::new();
    for path in entries.flatten().map(|entry| entry.path()) {
        let source = fs::read_to_string(&path).path_context("cannot read", &path)?;
        attacks.extend(parse(&source));
    }
    attacks.sort_by(|a, b| a.name.cmp(&b.name));
    match attacks.is_empty() {
        true => Err(format!("no attacks in {}", directory.display()).into()),
        false => Ok(attacks),
    }
}

/// The attack of a source file, if it has one.
fn parse(source: &str) -> Option<Attack> {
    let (_, attack) = source.split_once("pub const ATTACK: Attack = ")?;
    let text = |field: &str| {
        let (_, rest) = attack.split_once(&format!("    {field}: \""))?;
        rest.split('"').next().map(str::to_owned)
    };
    Some(Attack {
        name: text("name")?,
        what: text("what")?,
    })
}

fn build() -> Result<PathBuf> {
    run_command(
        Command::new(workspace::cargo())
            .current_dir(workspace::root())
            .args(["build", "--quiet", "--release", "--example", "attack"])
            .args(["--package", "vhost-guest-examples"]),
    )?;
    Ok(workspace::target().join("release/examples/attack"))
}

/// Runs an attack, and the same without it, until it is good or that was often
/// enough.
fn measure(program: &Path, name: &str, runs: usize, double: bool) -> Result<Report> {
    let mut report = Report::new(name);
    for _ in 0..runs {
        report.add(once(program, name, false, double)?, false);
        report.add(once(program, name, true, double)?, true);
        let enough = match double {
            true => report.bites(),
            false => report.is_good(),
        };
        if enough || report.is_left_out() {
            break;
        }
    }
    Ok(report)
}

/// One run, with the attack or without.
fn once(program: &Path, name: &str, hostile: bool, double: bool) -> Result<Outcome> {
    let mut command = with_priority(program);
    command.args(["run", name]);
    if !hostile {
        command.arg("--calm");
    }
    if double {
        command.arg("--double");
    }
    let log = workspace::target().join("attack.log");
    let errors = fs::File::create(&log).path_context("cannot create", &log)?;
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command.stderr(errors);
    let mut running = Running::spawn(name, &mut command)?;
    let output = running.child().stdout.take().ok_or("no output")?;
    let status = running.wait(PATIENCE);
    let mut outcome = Outcome::default();
    match status {
        Ok(status) if status.success() => {
            let output = std::io::read_to_string(output);
            outcome.parse(&output.context("cannot read what it found")?);
        }
        Ok(status) => outcome.add_fault(&format!("{status}, see {}", log.display())),
        Err(error) => outcome.add_fault(&error.to_string()),
    }
    Ok(outcome)
}

/// A command that whatever else the machine does holds up as little as may be.
fn with_priority(program: &Path) -> Command {
    match find("nice") {
        // Without the right to it, it says so and goes on.
        Some(nice) => {
            let mut command = dying_with_us(nice);
            command.args(["-n", "-15"]).arg(program);
            command
        }
        None => dying_with_us(program),
    }
}

#[cfg(test)]
mod tests {
    use super::report::LIMIT;
    use super::*;

    #[test]
    fn help_tells_every_attack() {
        let directory = workspace::root().join(ATTACKS);
        let attacks = attacks(&directory).unwrap();
        assert!(attacks.len() >= 20, "{}", attacks.len());
        for attack in &attacks {
            let file = format!("{}.rs", attack.name.replace('-', "_"));
            assert!(directory.join(&file).exists(), "{file}");
            assert!(!attack.what.is_empty(), "{file}");
        }
    }

    #[test]
    fn reads_what_a_source_says() {
        let source =
            "x\npub const ATTACK: Attack = Attack {\n    name: \"a\",\n    what: \"b c\",\n";
        let attack = parse(source).unwrap();
        assert_eq!((&*attack.name, &*attack.what), ("a", "b c"));
        assert!(parse("struct Attack;").is_none());
        assert!(HELP.contains(&format!("take {} ms more", LIMIT / 1000)));
    }
}
