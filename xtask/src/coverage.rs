// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `cargo xtask coverage`: the share of lines that tests reach, against the
//! score in `coverage_config_ARCH.json`, whose form is rust-vmm-ci's.

use std::fs;
use std::process::{Command, Stdio};

use crate::arguments::Arguments;
use crate::error::{Context, Result};
use crate::process::{find, output, run as run_command};
use crate::workspace;

/// rust-vmm-ci accepts so many points of difference, in either direction.
const TOLERANCE: f64 = 0.5;

const HELP: &str = "\
Measures the line coverage of all tests and compares it with the score in
coverage_config_ARCH.json. cargo-llvm-cov measures it as rust-vmm-ci does, where
the toolchain has the component llvm-tools; otherwise cargo-tarpaulin does.

Usage: cargo xtask coverage [OPTIONS]

Options:
  --install   Install cargo-tarpaulin into target/tools/ if it is needed
  --update    Write the measured score into the configuration
";

pub fn run(arguments: &mut Arguments) -> Result<()> {
    if arguments.flag("--help") {
        print!("{HELP}");
        return Ok(());
    }
    let install = arguments.flag("--install");
    let update = arguments.flag("--update");
    arguments.finish()?;

    let name = format!("coverage_config_{}.json", std::env::consts::ARCH);
    let path = workspace::root().join(name);
    let text = fs::read_to_string(&path).path_context("cannot read", &path)?;
    let config = Config::parse(&text)?;
    let measured = if has_llvm_tools() {
        llvm_cov(&config)?
    } else {
        tarpaulin(&config, install)?
    };
    println!(
        "{measured:.2} % of the lines; the score is {}",
        config.score
    );
    if update {
        let config = Config {
            score: (measured * 100.0).round() / 100.0,
            ..config
        };
        return fs::write(&path, config.to_string()).path_context("cannot write", &path);
    }
    let change = measured - config.score;
    if change < -TOLERANCE {
        return Err("coverage went down: test what is new".into());
    }
    if change > TOLERANCE {
        return Err("coverage went up: keep it with --update".into());
    }
    Ok(())
}

/// What rust-vmm-ci reads.
#[derive(Debug, PartialEq)]
struct Config {
    score: f64,
    /// A regular expression over paths.
    exclude: String,
}

impl Config {
    fn parse(text: &str) -> Result<Self> {
        let value = |key: &str| {
            let (_, rest) = text.split_once(&format!("\"{key}\":"))?;
            let end = rest.find([',', '}', '\n'])?;
            Some(rest.get(..end)?.trim())
        };
        let score = value("coverage_score").and_then(|value| value.parse().ok());
        let exclude = value("exclude_path")
            .and_then(|value| value.strip_prefix('"')?.strip_suffix('"'))
            .map(|value| value.replace("\\\\", "\\"));
        match (score, exclude) {
            (Some(score), Some(exclude)) => Ok(Self { score, exclude }),
            _ => Err("coverage_score and exclude_path are needed".into()),
        }
    }

    /// The alternatives as the globs that tarpaulin wants.
    fn globs(&self) -> impl Iterator<Item = String> + '_ {
        self.exclude
            .split('|')
            .filter(|part| !part.is_empty())
            .map(|part| format!("*{}*", part.replace('\\', "")))
    }
}

impl std::fmt::Display for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "{{\n  \"coverage_score\": {},\n  \"exclude_path\": \"{}\"\n}}",
            self.score,
            self.exclude.replace('\\', "\\\\")
        )
    }
}

/// Whether this toolchain can read its own profiles.
fn has_llvm_tools() -> bool {
    find("cargo-llvm-cov").is_some()
        && output(Command::new("rustc").args(["--print", "target-libdir"])).is_ok_and(|library| {
            let library = std::path::Path::new(library.trim());
            library.with_file_name("bin").join("llvm-cov").exists()
        })
}

/// Exactly what rust-vmm-ci runs.
fn llvm_cov(config: &Config) -> Result<f64> {
    let mut command = Command::new(workspace::cargo());
    command
        .current_dir(workspace::root())
        .args(["llvm-cov", "test", "--json", "--summary-only"])
        .args(["--workspace", "--all-features"])
        .env("CARGO_TARGET_DIR", workspace::target().join("coverage"));
    if !config.exclude.is_empty() {
        command.args(["--ignore-filename-regex", &config.exclude]);
    }
    let report = output(&mut command)?;
    llvm_cov_percent(&report).ok_or_else(|| "cargo-llvm-cov reports no lines".into())
}

/// `.data[0].totals.lines.percent` of its report.
fn llvm_cov_percent(report: &str) -> Option<f64> {
    let (_, totals) = report.split_once("\"totals\":")?;
    let (_, lines) = totals.split_once("\"lines\":")?;
    let (_, percent) = lines.split_once("\"percent\":")?;
    percent.split([',', '}']).next()?.trim().parse().ok()
}

/// The same with its own reader of profiles.
fn tarpaulin(config: &Config, install: bool) -> Result<f64> {
    let tools = workspace::target().join("tools");
    let installed = tools.join("bin/cargo-tarpaulin");
    let program = match find("cargo-tarpaulin") {
        Some(program) => program,
        None if installed.exists() => installed,
        None if install => {
            run_command(
                Command::new(workspace::cargo())
                    .args(["install", "--locked", "--quiet", "--no-default-features"])
                    .args(["cargo-tarpaulin", "--version", "^0.37", "--root"])
                    .arg(&tools),
            )?;
            installed
        }
        None => {
            return Err(
                "neither llvm-tools with cargo-llvm-cov nor cargo-tarpaulin is \
                        installed (--install installs the latter)"
                    .into(),
            )
        }
    };
    let mut command = Command::new(program);
    command
        .current_dir(workspace::root())
        // The lines of tests in the files that they test count, as they do
        // for cargo-llvm-cov.
        .args(["tarpaulin", "--engine", "llvm", "--include-tests"])
        .args(["--workspace", "--all-features", "--skip-clean"])
        // Their tests run programs that are not built here.
        .args(["--exclude", "vhost-guest-examples"])
        .args(["--out", "Stdout", "--color", "never"])
        .args(["--timeout", "600", "--target-dir"])
        .arg(workspace::target().join("coverage"))
        .env("RUST_LOG", "cargo_tarpaulin=error")
        .stderr(Stdio::inherit());
    for glob in config.globs() {
        command.args(["--exclude-files", &glob]);
    }
    let report = output(&mut command)?;
    if let Some((_, files)) = report.split_once("|| Tested/Total Lines:\n") {
        print!("{files}");
    }
    tarpaulin_percent(&report).ok_or_else(|| "cargo-tarpaulin reports no lines".into())
}

/// Its last line is "12.34% coverage, 5/67 lines covered".
fn tarpaulin_percent(report: &str) -> Option<f64> {
    let line = report
        .lines()
        .rev()
        .find(|line| line.contains("% coverage"))?;
    line.split('%').next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_a_configuration() {
        let text = "{\n  \"coverage_score\": 91.5,\n  \"exclude_path\": \"xtask/|a\\\\.rs\"\n}\n";
        let config = Config::parse(text).unwrap();
        assert_eq!(config.score, 91.5);
        assert_eq!(config.exclude, "xtask/|a\\.rs");
        assert_eq!(config.to_string(), text);
        assert_eq!(config.globs().collect::<Vec<_>>(), ["*xtask/*", "*a.rs*"]);
    }

    #[test]
    fn rejects_a_configuration_without_a_score() {
        assert!(Config::parse("{\"exclude_path\": \"\"}").is_err());
        assert!(Config::parse("{\"coverage_score\": 1}").is_err());
    }

    #[test]
    fn reads_both_reports() {
        let report = r#"{"data":[{"totals":{"functions":{"percent":1.0},"lines":{"count":4,"covered":3,"percent":75.5}}}]}"#;
        assert_eq!(llvm_cov_percent(report), Some(75.5));
        let report = "|| x: 1/2\n|| \n66.67% coverage, 2/3 lines covered\n";
        assert_eq!(tarpaulin_percent(report), Some(66.67));
        assert_eq!(tarpaulin_percent(""), None);
    }
}
