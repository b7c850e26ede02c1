// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What was done either way, beside each other.

use std::fmt::Write;
use std::str::FromStr;

use crate::error::Result;

/// Where testpmd runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// On the host, without the project.
    Control,
    /// In a guest.
    Guest,
}

impl Way {
    pub const ALL: [Self; 2] = [Self::Control, Self::Guest];

    pub fn name(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Guest => "guest",
        }
    }
}

impl FromStr for Way {
    type Err = ();

    fn from_str(name: &str) -> std::result::Result<Self, ()> {
        Self::ALL
            .into_iter()
            .find(|way| way.name() == name)
            .ok_or(())
    }
}

/// Steps in their order, and how long each took in each way.
#[derive(Default)]
pub struct Steps {
    steps: Vec<(String, [Option<String>; 2])>,
}

impl Steps {
    /// Takes what the host has said, if it is a step: `step control 3 s: TEXT`.
    pub fn take(&mut self, line: &str) {
        let step = line
            .strip_prefix("step ")
            .and_then(|rest| rest.split_once(' '));
        let Some((way, (time, text))) =
            step.and_then(|(way, rest)| Some((way.parse::<Way>().ok()?, rest.split_once(": ")?)))
        else {
            return;
        };
        let place = self.steps.iter().position(|(known, _)| known == text);
        let place = place.unwrap_or_else(|| {
            self.steps.push((text.to_owned(), [None, None]));
            self.steps.len() - 1
        });
        if let Some((_, times)) = self.steps.get_mut(place) {
            times[usize::from(way == Way::Guest)] = Some(time.to_owned());
        }
    }

    /// The steps of these ways; each way has to have gone each of them.
    pub fn table(&self, ways: &[Way]) -> Result<String> {
        let mut table = String::new();
        let mut line = |text: &str, times: Vec<&str>| {
            let _ = write!(table, "{text:54}");
            for time in times {
                let _ = write!(table, "{time:>9}");
            }
            table.push('\n');
        };
        line("", ways.iter().map(|way| way.name()).collect());
        for (text, times) in &self.steps {
            let of = |way: &Way| times[usize::from(*way == Way::Guest)].as_deref();
            let times: Option<Vec<_>> = ways.iter().map(of).collect();
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

    fn steps(lines: &[&str]) -> Steps {
        let mut steps = Steps::default();
        lines.iter().for_each(|line| steps.take(line));
        steps
    }

    #[test]
    fn puts_both_ways_of_a_step_in_one_line() {
        let steps = steps(&[
            "step control 1 s: ping",
            "step control 2 s: tcp",
            "the host is up",
            "step other 9 s: ping",
            "step guest 3 s: ping",
            "step guest 4 s: tcp",
        ]);
        let table = steps.table(&Way::ALL).unwrap();
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
        assert!(steps.table(&[Way::Control]).is_ok());
    }

    #[test]
    fn finds_a_step_that_one_way_has_not_gone() {
        let steps = steps(&["step control 1 s: ping"]);
        assert!(steps.table(&Way::ALL).is_err());
        assert!(steps.table(&[Way::Control]).is_ok());
        assert!(Steps::default().table(&Way::ALL).is_err());
    }
}
