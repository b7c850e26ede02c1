// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `cargo xtask fuzz`: the targets of `fuzz/`, on the stable toolchain.
//!
//! cargo-fuzz needs a nightly one, for its sanitizers. The crates have next to
//! no unsafe code, so what matters here is coverage guidance and checked
//! arithmetic, and for these the compiler's pass is enough. `cargo fuzz run`
//! works in the same directory, on the same corpus.

mod coverage;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::arguments::Arguments;
use crate::error::{Context, Result};
use crate::process::{dying_with_us, output, run as run_command, Running};
use crate::{seeds, workspace};
use coverage::Coverage;

/// What makes the compiler report coverage to libFuzzer: counters, their code
/// addresses, and the values compared. Only `-C` options, so stable has them.
const INSTRUMENTATION: [&str; 9] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cdebug-assertions",
    "-Coverflow-checks",
    "-Ccodegen-units=1",
    "--cfg=fuzzing",
];
/// libFuzzer says this if the instrumentation is there. A compiler that no
/// longer knows the pass would leave it out, and fuzzing would go blind.
const INSTRUMENTED: &str = " inline 8-bit counters): ";
const SECONDS: u64 = 60;
/// One input may take so many seconds, and the process so many MiB.
const INPUT_SECONDS: u32 = 30;
const MEMORY_MIB: u32 = 1024;
/// Starting and ending take their time, on a busy machine.
const GRACE: Duration = Duration::from_secs(120);
const TAIL: usize = 60;

const HELP: &str = "\
Builds the fuzz targets for the stable toolchain and runs them, one after the
other. Inputs that crash are kept in fuzz/artifacts/TARGET/; give such a file
to replay it. The corpus is in fuzz/corpus/TARGET/; its seeds come from the
message crate's test data, and from fuzz/seeds/TARGET/, where the least of earlier
corpora is kept that reaches as much.

A target reports how many inputs it executed, and what it reached of the device
and the messages: lines at which the compiler has put a counter, one for each edge
of the control flow that it cannot derive from others.

Usage: cargo xtask fuzz [OPTIONS] [TARGET [FILE]]

Options:
  --seconds N   How long each target runs (default: 60)
  --keep        Add what this run reaches to fuzz/seeds/TARGET/, as few inputs as
                will do
  --list        Print the names of the targets
";

pub fn run(arguments: &mut Arguments) -> Result<()> {
    if arguments.flag("--help") {
        print!("{HELP}");
        return Ok(());
    }
    let directory = workspace::root().join("fuzz");
    let all = targets(&directory)?;
    if arguments.flag("--list") {
        all.iter().for_each(|target| println!("{target}"));
        return arguments.finish();
    }
    let seconds = arguments.option("--seconds")?.unwrap_or(SECONDS);
    let keep = arguments.flag("--keep");
    let target = arguments.positional();
    let input = arguments.positional().map(PathBuf::from);
    arguments.finish()?;
    let chosen = match target {
        Some(target) if all.contains(&target) => vec![target],
        Some(target) => {
            return Err(format!("no target {target}; there are {}", all.join(", ")).into())
        }
        None => all,
    };

    let programs = build(&directory)?;
    for target in &chosen {
        let program = programs.join(target);
        match &input {
            Some(input) => run_command(Command::new(&program).arg(input))?,
            None => fuzz(&directory, &program, target, seconds)?,
        }
        if keep {
            keep_seeds(&directory, &program, target)?;
        }
    }
    Ok(())
}

/// The targets are the files in fuzz_targets/.
fn targets(directory: &Path) -> Result<Vec<String>> {
    let sources = directory.join("fuzz_targets");
    let mut names: Vec<String> = fs::read_dir(&sources)
        .path_context("cannot read", &sources)?
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            name.strip_suffix(".rs").map(str::to_owned)
        })
        .collect();
    names.sort();
    if names.is_empty() {
        return Err(format!("no targets in {}", sources.display()).into());
    }
    Ok(names)
}

/// Builds all targets; returns where the programs are.
fn build(directory: &Path) -> Result<PathBuf> {
    let version = output(Command::new("rustc").arg("-vV"))?;
    let triple = version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .ok_or("rustc does not name its host")?;
    // With a target named, build scripts and macros stay uninstrumented.
    let target_directory = workspace::target().join("fuzz");
    run_command(
        Command::new(workspace::cargo())
            .args(["build", "--quiet", "--release", "--target", triple])
            .arg("--manifest-path")
            .arg(directory.join("Cargo.toml"))
            .arg("--target-dir")
            .arg(&target_directory)
            .env("CARGO_ENCODED_RUSTFLAGS", INSTRUMENTATION.join("\x1f"))
            .env_remove("RUSTFLAGS"),
    )?;
    Ok(target_directory.join(triple).join("release"))
}

/// Runs one target for a while, from its seeds and what earlier runs found.
fn fuzz(directory: &Path, program: &Path, target: &str, seconds: u64) -> Result<()> {
    let [corpus, kept, artifacts] =
        ["corpus", "seeds", "artifacts"].map(|name| directory.join(name).join(target));
    for directory in [&corpus, &kept, &artifacts] {
        fs::create_dir_all(directory).path_context("cannot create", directory)?;
    }
    let seeds = seeds::write(target, &corpus)? + count(&kept)?;
    println!("{target}: {seconds} s from {seeds} seeds");
    let mut command = dying_with_us(program);
    command
        .args([&corpus, &kept])
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .args(["-print_final_stats=1", "-print_full_coverage=1"]);
    let lines = execute(target, command, &artifacts)?;
    if !lines.iter().any(|line| line.contains(INSTRUMENTED)) {
        return Err(format!("{target} has no coverage instrumentation").into());
    }
    for line in lines.iter().filter(|line| is_summary(line)) {
        println!("    {line}");
    }
    for coverage in Coverage::measure(program, &lines)? {
        println!("    {coverage}");
    }
    Ok(())
}

/// Runs a program of libFuzzer's to its end; returns its report.
fn execute(target: &str, mut command: Command, artifacts: &Path) -> Result<Vec<String>> {
    command
        .arg(format!("-timeout={INPUT_SECONDS}"))
        .arg(format!("-rss_limit_mb={MEMORY_MIB}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut running = Running::spawn(target, &mut command)?;
    let report = running.child().stderr.take().ok_or("no report")?;
    // The report ends when the program does; libFuzzer keeps to its time, and
    // its watchdog is a signal, so that a target cannot keep it from doing so.
    let lines: Vec<String> = BufReader::new(report)
        .lines()
        .map_while(std::result::Result::ok)
        .collect();
    let status = running.wait(GRACE)?;
    if !status.success() {
        for line in &lines[lines.len().saturating_sub(TAIL)..] {
            eprintln!("{line}");
        }
        return Err(format!("{target}: {status}, see {}", artifacts.display()).into());
    }
    Ok(lines)
}

/// Chooses few inputs of a corpus that reach what all of it reaches, however often.
fn keep_seeds(directory: &Path, program: &Path, target: &str) -> Result<()> {
    let [corpus, kept, artifacts] =
        ["corpus", "seeds", "artifacts"].map(|name| directory.join(name).join(target));
    let chosen = workspace::target().join("fuzz/seeds").join(target);
    if chosen.exists() {
        fs::remove_dir_all(&chosen).path_context("cannot remove", &chosen)?;
    }
    fs::create_dir_all(&chosen).path_context("cannot create", &chosen)?;
    let mut command = dying_with_us(program);
    command
        .args(["-set_cover_merge=1", "-use_counters=0"])
        .args([&chosen, &corpus, &kept]);
    execute(target, command, &artifacts)?;
    fs::remove_dir_all(&kept).path_context("cannot remove", &kept)?;
    fs::create_dir_all(&kept).path_context("cannot create", &kept)?;
    for entry in fs::read_dir(&chosen)
        .path_context("cannot read", &chosen)?
        .flatten()
    {
        let to = kept.join(entry.file_name());
        fs::copy(entry.path(), &to).path_context("cannot write", &to)?;
    }
    println!("    {} seeds are kept", count(&kept)?);
    Ok(())
}

fn count(directory: &Path) -> Result<usize> {
    let entries = fs::read_dir(directory).path_context("cannot read", directory)?;
    Ok(entries.count())
}

/// How far it came: the last progress line, and the number of inputs; and what a
/// target says of the host.
fn is_summary(line: &str) -> bool {
    let told = ["stat::number_of_executed_units", "machines: "];
    line.contains("DONE ") || told.iter().any(|told| line.starts_with(told))
}
