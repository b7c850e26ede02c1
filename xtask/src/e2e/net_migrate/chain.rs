// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A device and a relay between a card and testpmd.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Context, Result};
use crate::process::{dying_with_us, Running};

const STOP_LIMIT: Duration = Duration::from_secs(20);
/// How long a thread that sleeps may take to fall asleep, and how it is seen.
const SETTLE_LIMIT: Duration = Duration::from_secs(20);
const SETTLED: Duration = Duration::from_millis(300);

pub struct Chain {
    running: Running,
    socket: PathBuf,
}

/// How often threads of a chain ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switches {
    pub relay: u64,
    pub device: u64,
    /// What the kernel would do for a guest on KVM.
    pub others: u64,
}

impl Chain {
    /// Starts one; it listens at `socket` when its guest is up.
    pub fn start(
        program: &Path,
        socket: &Path,
        backend: &Path,
        log: &Path,
        lossy: bool,
    ) -> Result<Self> {
        let output = fs::File::create(log).path_context("cannot create", log)?;
        let mut command = dying_with_us(program);
        command.arg("--socket").arg(socket);
        command.arg("--backend").arg(backend);
        command.args(["--type", "net", "--queues", "4"]);
        command.args(lossy.then_some("--lose-dirty-log"));
        command.stdin(Stdio::null()).stderr(output);
        Ok(Self {
            running: Running::spawn("chain", &mut command)?,
            socket: socket.to_owned(),
        })
    }

    /// How often its threads ran up to now, once relay and device have nothing to do.
    pub fn settled(&mut self) -> Result<Switches> {
        let deadline = Instant::now() + SETTLE_LIMIT;
        let mut last = self.switches()?;
        loop {
            thread::sleep(SETTLED);
            let now = self.switches()?;
            if (now.relay, now.device) == (last.relay, last.device) {
                return Ok(now);
            }
            if Instant::now() >= deadline {
                return Err(format!("relay or device do not sleep: {now:?}").into());
            }
            last = now;
        }
    }

    /// How often its threads ran up to now.
    pub fn switches(&mut self) -> Result<Switches> {
        let tasks = format!("/proc/{}/task", self.running.child().id());
        let tasks = Path::new(&tasks);
        let mut switches = Switches {
            relay: 0,
            device: 0,
            others: 0,
        };
        for task in fs::read_dir(tasks).path_context("cannot read", tasks)? {
            let task = task.path_context("cannot read", tasks)?.path();
            let read = |name| fs::read_to_string(task.join(name)).unwrap_or_default();
            let name = read("comm");
            let count = match name.trim_end() {
                "relay" => &mut switches.relay,
                name if name.starts_with("vhost-guest") => &mut switches.device,
                _ => &mut switches.others,
            };
            *count += context_switches(&read("status"));
        }
        Ok(switches)
    }

    /// Asks it to end; it must leave nothing behind.
    pub fn stop(mut self) -> Result<()> {
        let status = self.running.terminate(STOP_LIMIT)?;
        if !status.success() {
            return Err(format!("chain: {status}").into());
        }
        match self.socket.exists() {
            true => Err("chain has left its socket behind".into()),
            false => Ok(()),
        }
    }
}

fn context_switches(status: &str) -> u64 {
    let lines = status.lines().filter(|line| line.contains("ctxt_switches"));
    let counts = lines.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    counts.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_switches_of_both_kinds() {
        let status = "Threads:\t3\nvoluntary_ctxt_switches:\t7\nnonvoluntary_ctxt_switches:\t2\n";
        assert_eq!(context_switches(status), 9);
        assert_eq!(context_switches(""), 0);
    }
}
