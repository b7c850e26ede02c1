// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What came of an attack: how long others waited, and what is not as it has to
//! be.

use std::fmt;

/// Microseconds that a call may take longer than without the attack.
pub const LIMIT: u64 = 20_000;

/// What one run found.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The longest duration in microseconds, by what was done.
    probes: Vec<(String, u64)>,
    faults: Vec<String>,
    /// Why it could not be tried.
    left_out: Option<String>,
}

impl Outcome {
    /// Reads what the program says.
    pub fn parse(&mut self, output: &str) {
        for line in output.lines() {
            match line.split_once(' ') {
                Some(("probe", rest)) => {
                    let probe = rest.split_once(' ');
                    let probe = probe.and_then(|(time, name)| Some((name, time.parse().ok()?)));
                    match probe {
                        Some((name, time)) => self.probes.push((name.to_owned(), time)),
                        None => self.add_fault(line),
                    }
                }
                Some(("cannot", why)) => self.left_out = Some(why.to_owned()),
                Some(("fault", what)) => self.add_fault(what),
                _ => self.add_fault(line),
            }
        }
        if self.probes.is_empty() && self.left_out.is_none() {
            self.add_fault("it measured nothing");
        }
    }

    /// Something is not as it has to be.
    pub fn add_fault(&mut self, what: &str) {
        self.faults.push(what.to_owned());
    }
}

/// What all runs of an attack found.
#[derive(Debug)]
pub struct Report {
    name: String,
    load: String,
    calm: Vec<Outcome>,
    attacked: Vec<Outcome>,
}

impl Report {
    /// Nothing yet.
    pub fn new(name: &str) -> Self {
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        Self {
            name: name.to_owned(),
            load: load.split(' ').next().unwrap_or_default().to_owned(),
            calm: Vec::new(),
            attacked: Vec::new(),
        }
    }

    /// One more run.
    pub fn add(&mut self, outcome: Outcome, hostile: bool) {
        match hostile {
            true => self.attacked.push(outcome),
            false => self.calm.push(outcome),
        }
    }

    /// It cannot be tried here. That is no fault, but for a CI, which has to be
    /// able to try everything.
    pub fn is_left_out(&self) -> bool {
        self.why_left_out().is_some()
    }

    fn why_left_out(&self) -> Option<&str> {
        let all = self.calm.iter().chain(&self.attacked);
        all.filter_map(|outcome| outcome.left_out.as_deref()).next()
    }

    /// Everything is as it has to be.
    pub fn is_good(&self) -> bool {
        if self.is_left_out() {
            return std::env::var("CI").as_deref() != Ok("true");
        }
        let faults = self.faults().next().is_none();
        faults && !self.rows().is_empty() && self.rows().iter().all(Row::is_good)
    }

    /// The attack did something.
    pub fn bites(&self) -> bool {
        let faults = self
            .attacked
            .iter()
            .any(|outcome| !outcome.faults.is_empty());
        faults || self.rows().iter().any(Row::is_bitten)
    }

    /// What went wrong in any run.
    fn faults(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let calm = self.calm.iter().map(|outcome| ("control", outcome));
        let attacked = self.attacked.iter().map(|outcome| ("attacked", outcome));
        calm.chain(attacked)
            .flat_map(|(when, outcome)| outcome.faults.iter().map(move |fault| (when, &**fault)))
    }

    /// The best of all runs, by what was done.
    fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for (name, _) in self.attacked.iter().flat_map(|outcome| &outcome.probes) {
            let best = |outcomes: &[Outcome]| {
                let probes = outcomes.iter().flat_map(|outcome| &outcome.probes);
                let times = probes.filter(|(other, _)| other == name);
                times.map(|(_, time)| *time).min()
            };
            let known = rows.iter().any(|row: &Row| row.name == *name);
            if let (false, Some(attacked)) = (known, best(&self.attacked)) {
                let control = best(&self.calm).unwrap_or(0);
                let name = name.clone();
                rows.push(Row {
                    name,
                    control,
                    attacked,
                });
            }
        }
        rows
    }

    /// The first lines of the table.
    pub fn print_head() {
        let [load, name] = ["load", "attack"];
        println!(
            "{load:>5}  {name:20} {:15} {:>10} {:>10} {:>10}",
            "probe", "control", "attacked", "more (ms)"
        );
    }
}

/// A line of the table.
#[derive(Debug)]
struct Row {
    name: String,
    control: u64,
    attacked: u64,
}

impl Row {
    fn is_good(&self) -> bool {
        !self.is_bitten() && !self.is_noisy()
    }

    /// It takes too long with the attack.
    fn is_bitten(&self) -> bool {
        self.attacked > self.control + LIMIT
    }

    /// Others keep the machine so busy that this says nothing.
    fn is_noisy(&self) -> bool {
        self.control > LIMIT
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let begin = format!("{:>5}  {:20}", self.load, self.name);
        if let Some(why) = self.why_left_out() {
            return writeln!(f, "{begin} left out: {why}");
        }
        let milliseconds = |time: f64| format!("{:10.1}", time / 1000.0);
        for row in self.rows() {
            let (control, attacked) = (row.control as f64, row.attacked as f64);
            writeln!(
                f,
                "{begin} {:15} {} {} {}{}",
                row.name,
                milliseconds(control),
                milliseconds(attacked),
                milliseconds(attacked - control),
                match (row.is_good(), row.is_noisy()) {
                    (true, _) => "",
                    (false, false) => "  FAILS",
                    (false, true) => "  FAILS: the machine is too busy",
                }
            )?;
        }
        for (when, fault) in self.faults() {
            writeln!(f, "{begin} FAILS ({when}): {fault}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(calm: &[&str], attacked: &[&str]) -> Report {
        let mut report = Report::new("x");
        for (outputs, hostile) in [(calm, false), (attacked, true)] {
            for output in outputs {
                let mut outcome = Outcome::default();
                outcome.parse(output);
                report.add(outcome, hostile);
            }
        }
        report
    }

    #[test]
    fn the_best_run_counts_for_each_probe() {
        let slow = "probe 90000 a\nprobe 1 b";
        let other = "probe 1 a\nprobe 90000 b";
        assert!(report(&["probe 1 a\nprobe 1 b"], &[slow, other]).is_good());
        assert!(!report(&["probe 1 a\nprobe 1 b"], &[slow]).is_good());
    }

    #[test]
    fn the_limit_is_what_the_control_takes_and_20_ms() {
        assert!(report(&["probe 500 a"], &["probe 20500 a"]).is_good());
        let slow = report(&["probe 500 a"], &["probe 20501 a"]);
        assert!(!slow.is_good() && slow.bites());
        // Whose control takes as long as that measures nothing.
        let noisy = report(&["probe 20001 a"], &["probe 1 a"]);
        assert!(!noisy.is_good() && !noisy.bites() && noisy.to_string().contains("too busy"));
    }

    #[test]
    fn a_fault_in_any_run_is_one() {
        let faulty = report(
            &["probe 1 a"],
            &["probe 1 a\nfault it is dead", "probe 1 a"],
        );
        assert!(!faulty.is_good() && faulty.bites());
        assert!(faulty.to_string().contains("FAILS (attacked): it is dead"));
        assert!(!report(&["probe 1 a\nfault x"], &["probe 1 a"]).is_good());
        assert!(!report(&["probe 1 a"], &["what?"]).is_good());
        assert!(!report(&["probe 1 a"], &[""]).is_good());
    }

    #[test]
    fn what_cannot_be_tried_is_told() {
        let report = report(&["cannot no huge pages"], &["cannot no huge pages"]);
        assert!(report.is_left_out());
        assert!(report.to_string().contains("left out: no huge pages"));
    }
}
