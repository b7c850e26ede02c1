// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! QEMU's monitor: JSON, one object per line. There is no JSON parser here: what
//! is looked for has a name that occurs once.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Context, Result};

/// How long QEMU may take to listen, and to answer.
const LIMIT: Duration = Duration::from_secs(60);

/// A connection to a QEMU's monitor.
pub struct Qmp {
    stream: BufReader<UnixStream>,
}

impl Qmp {
    /// Connects to a QEMU that is being started.
    pub fn connect(socket: &Path) -> Result<Self> {
        let deadline = Instant::now() + LIMIT;
        let stream = loop {
            match UnixStream::connect(socket) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() >= deadline => {
                    return Err(error).path_context("cannot connect to", socket);
                }
                Err(_) => thread::sleep(Duration::from_millis(20)),
            }
        };
        let limited = stream.set_read_timeout(Some(LIMIT));
        limited.context("cannot set a time limit")?;
        let mut this = Self {
            stream: BufReader::new(stream),
        };
        this.line()?;
        this.execute("qmp_capabilities", "")?;
        Ok(this)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        match self.stream.read_line(&mut line) {
            Ok(0) => Err("QEMU has closed its monitor".into()),
            Ok(_) => Ok(line),
            Err(error) => Err(error).context("QEMU's monitor"),
        }
    }

    /// Executes a command with the members of its arguments, and returns the
    /// line of the answer.
    pub fn execute(&mut self, command: &str, arguments: &str) -> Result<String> {
        let line = format!("{{\"execute\":\"{command}\",\"arguments\":{{{arguments}}}}}\n");
        let sent = self.stream.get_mut().write_all(line.as_bytes());
        sent.context("QEMU's monitor")?;
        loop {
            let answer = self.line()?;
            // Events may come before.
            if answer.starts_with("{\"return\"") {
                return Ok(answer);
            }
            if answer.starts_with("{\"error\"") {
                return Err(format!("QEMU: {command}: {}", answer.trim_end()).into());
            }
        }
    }
}

/// The value of the member `name`, without quotes.
pub fn member<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let (_, value) = answer.split_once(&format!("\"{name}\": "))?;
    let value = value.split([',', '}']).next()?;
    Some(value.trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_members_at_any_depth() {
        let answer = r#"{"return": {"status": "active", "ram": {"dirty-sync-count": 3}}}"#;
        assert_eq!(member(answer, "status"), Some("active"));
        assert_eq!(member(answer, "dirty-sync-count"), Some("3"));
        assert_eq!(member(answer, "sync"), None);
    }
}
