// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The steps of a test that goes more than one way: what was done either way,
//! beside each other.

use std::fmt::Write;

use crate::arguments::Arguments;
use crate::error::Result;

/// What a way is called: the control, and the one with the project on it.
pub type Way = &'static str;

/// The ways to go: both, or what the option `--only` says.
pub fn ways(arguments: &mut Arguments, all: [Way; 2]) -> Result<Vec<Way>> {
    let Some(only) = arguments.option::<String>("--only")? else {
        return Ok(all.to_vec());
    };
    match all.into_iter().find(|way| *way == only) {
        Some(way) => Ok(vec![way]),
        None => Err(format!("--only: cannot use the value '{only}'").into()),
    }
}

/// Steps in their order, and how long each took in each way.
pub struct Steps {
    ways: Vec<Way>,
    steps: Vec<(String, Vec<Option<String>>)>,
}

impl Steps {
    pub fn new(ways: &[Way]) -> Self {
        Self {
            ways: ways.to_vec(),
            steps: Vec::new(),
        }
    }

    /// Takes what a machine has said, if it is a step: `step control 3 s: TEXT`.
    pub fn take(&mut self, line: &str) {
        let step = line
            .strip_prefix("step ")
            .and_then(|rest| rest.split_once(' '));
        if let Some((way, (time, text))) =
            step.and_then(|(way, rest)| Some((way, rest.split_once(": ")?)))
        {
            self.note(way, time, text);
        }
    }

    /// A step of a way took so long.
    pub fn note(&mut self, way: &str, time: &str, text: &str) {
        let Some(column) = self.ways.iter().position(|known| *known == way) else {
            return;
        };
        let place = self.steps.iter().position(|(known, _)| known == text);
        let place = place.unwrap_or_else(|| {
            self.steps
                .push((text.to_owned(), vec![None; self.ways.len()]));
            self.steps.len() - 1
        });
        if let Some((_, times)) = self.steps.get_mut(place) {
            times[column] = Some(time.to_owned());
        }
    }

    /// All steps; each way has to have gone each of them.
    pub fn table(&self) -> Result<String> {
        let mut table = String::new();
        let mut line = |text: &str, times: Vec<&str>| {
            let _ = write!(table, "{text:54}");
            for time in times {
                let _ = write!(table, "{time:>9}");
            }
            table.push('\n');
        };
        line("", self.ways.clone());
        for (text, times) in &self.steps {
            let times: Option<Vec<_>> = times.iter().map(Option::as_deref).collect();
            line(
                text,
                times.ok_or_else(|| format!("not in both ways: {text}"))?,
            );
        }
        match self.steps.is_empty() {
            true => Err("no steps".into()),
            false => Ok(table),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(ways: &[Way], lines: &[&str]) -> Steps {
        let mut steps = Steps::new(ways);
        lines.iter().for_each(|line| steps.take(line));
        steps
    }

    #[test]
    fn puts_both_ways_of_a_step_in_one_line() {
        let steps = steps(
            &["control", "guest"],
            &[
                "step control 1 s: ping",
                "step control 2 s: tcp",
                "the host is up",
                "step other 9 s: ping",
                "step guest 3 s: ping",
                "step guest 4 s: tcp",
            ],
        );
        let table = steps.table().unwrap();
        let lines: Vec<Vec<_>> = table
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        let expected: [&[&str]; 3] = [
            &["control", "guest"],
            &["ping", "1", "s", "3", "s"],
            &["tcp", "2", "s", "4", "s"],
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn finds_a_step_that_one_way_has_not_gone() {
        let lines = ["step control 1 s: ping"];
        assert!(steps(&["control", "guest"], &lines).table().is_err());
        assert!(steps(&["control"], &lines).table().is_ok());
        assert!(steps(&["control"], &[]).table().is_err());
    }

    #[test]
    fn goes_both_ways_or_the_one_that_is_named() {
        let all = ["control", "guest"];
        let of = |words: &[&str]| ways(&mut Arguments::new(words.iter().copied()), all);
        assert_eq!(of(&[]).unwrap(), all);
        assert_eq!(of(&["--only", "guest"]).unwrap(), ["guest"]);
        assert!(of(&["--only", "other"]).is_err());
    }
}
