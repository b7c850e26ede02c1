// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Child processes that do not outlive us, and that no wait can hang on.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Context, Result};

const POLL: Duration = Duration::from_millis(20);

/// A running child, killed and reaped when this is dropped.
pub struct Running {
    name: String,
    child: Child,
}

impl Running {
    pub fn spawn(name: &str, command: &mut Command) -> Result<Self> {
        let child = command.spawn().context(&format!("cannot start {name}"))?;
        Ok(Self {
            name: name.to_owned(),
            child,
        })
    }

    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// The exit status if it has ended.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child
            .try_wait()
            .context(&format!("cannot wait for {}", self.name))
    }

    /// Waits for its end, but not beyond `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                return Err(format!("{} did not end within {limit:?}", self.name).into());
            }
            thread::sleep(POLL);
        }
    }

    /// SIGKILL, and reaps it.
    pub fn kill(&mut self) -> Result<()> {
        self.child
            .kill()
            .context(&format!("cannot kill {}", self.name))?;
        self.wait(Duration::from_secs(10)).map(drop)
    }

    /// SIGTERM, and waits for its end. Not SIGINT: who was started in the
    /// background of a script inherits that it is ignored.
    pub fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        let pid = self.child.id().to_string();
        run(Command::new("kill").args(["-TERM", &pid]))?;
        self.wait(limit)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail if it has ended already, which is as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A command for a child that dies with us, even if we are killed.
pub fn dying_with_us(program: impl AsRef<OsStr>) -> Command {
    match find("setpriv") {
        Some(setpriv) => {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", "KILL", "--"]).arg(program);
            command
        }
        None => Command::new(program),
    }
}

/// Runs a command with our output; an exit code that is not 0 is an error.
pub fn run(command: &mut Command) -> Result<()> {
    let name = display(command);
    let status = command
        .stdin(Stdio::null())
        .status()
        .context(&format!("cannot run {name}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{name}: {status}").into())
    }
}

/// What a command prints; an exit code that is not 0 is an error.
pub fn output(command: &mut Command) -> Result<String> {
    let name = display(command);
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context(&format!("cannot run {name}"))?;
    if !output.status.success() {
        return Err(format!("{name}: {}", output.status).into());
    }
    String::from_utf8(output.stdout).context(&name)
}

/// Looks a program up in PATH.
pub fn find(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|directory| directory.join(program))
        .find(|path| path.is_file())
}

fn display(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejects_a_failing_command() {
        assert!(run(&mut Command::new("false")).is_err());
        run(&mut Command::new("true")).unwrap();
        assert_eq!(output(Command::new("echo").arg("x")).unwrap(), "x\n");
    }

    #[test]
    fn kills_what_does_not_end() {
        let mut running = Running::spawn("sleep", dying_with_us("sleep").arg("1000")).unwrap();
        assert!(running.ended().unwrap().is_none());
        assert!(running.wait(Duration::ZERO).is_err());
        running.kill().unwrap();
        assert!(!running.ended().unwrap().unwrap().success());
    }

    #[test]
    fn terminates_what_would_go_on() {
        let mut running = Running::spawn("sleep", Command::new("sleep").arg("1000")).unwrap();
        let status = running.terminate(Duration::from_secs(60)).unwrap();
        assert!(!status.success());
    }
}
