// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Settings of the kernel's that an attack needs for a while.

use std::fs;
use std::io;
use std::process::{Child, Command, Stdio};

/// A setting that is another than before. A shell sets it back when this
/// process has ended, whatever ended it.
pub struct Knob(Child);

impl Knob {
    /// Sets the number in a file to what `choose` makes of it.
    ///
    /// # Errors
    ///
    /// It cannot be changed, or not so far.
    pub fn set(path: &str, choose: impl FnOnce(u64) -> u64) -> io::Result<Self> {
        let before = read(path)?;
        let number = choose(before);
        let give_back = format!("read _; echo {before} > {path}");
        let mut shell = Command::new("sh");
        let shell = shell.args(["-c", &give_back]).stdin(Stdio::piped());
        let knob = Self(shell.spawn()?);
        fs::write(path, number.to_string())?;
        match read(path)? == number {
            true => Ok(knob),
            false => Err(io::Error::other(format!("{path} cannot be {number}"))),
        }
    }
}

fn read(path: &str) -> io::Result<u64> {
    let text = fs::read_to_string(path)?;
    text.trim().parse().map_err(io::Error::other)
}

impl Drop for Knob {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}
