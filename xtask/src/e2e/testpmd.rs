// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! DPDK's testpmd, and the drivers that it loads.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::host::missing;
use crate::error::Result;
use crate::process::{dying_with_us, find};

const LIBRARIES: &str = "/usr/lib/x86_64-linux-gnu/dpdk";
/// What makes it answer line by line (coreutils has it for its `stdbuf`).
const LINES: &str = "/usr/libexec/coreutils/libstdbuf.so";
/// Each is a package of its own.
const DRIVERS: [(&str, &str); 2] = [
    ("librte_mempool_ring.so", "librte-mempool-ring23"),
    ("librte_net_vhost.so", "librte-net-vhost23"),
];

pub struct Testpmd {
    program: PathBuf,
    drivers: [PathBuf; 2],
}

impl Testpmd {
    /// Finds all parts, or names the packages that bring what is missing.
    pub fn find() -> Result<Self> {
        let program = find("dpdk-testpmd");
        let drivers = DRIVERS.map(|(name, _)| find_driver(Path::new(LIBRARIES), name));
        match (program, drivers) {
            (Some(program), [Some(pool), Some(vhost)]) => Ok(Self {
                program,
                drivers: [pool, vhost],
            }),
            (program, drivers) => {
                let found = drivers.iter().map(Option::is_some);
                let drivers = DRIVERS.iter().map(|(_, package)| *package).zip(found);
                Err(missing(std::iter::once(("dpdk-dev", program.is_some())).chain(drivers)).into())
            }
        }
    }

    /// Runs it on this machine, with a card for each of the sockets, on which it
    /// listens. What the first one sends goes to the second one, and back, once it is
    /// told to start.
    pub fn command(&self, sockets: &[PathBuf]) -> Command {
        let mut command = dying_with_us("nice");
        // It polls, and so it can wait for everybody else.
        command.args(["-n", "10"]).arg(&self.program);
        command.args(["--no-huge", "-m", "64", "--no-pci", "--no-telemetry"]);
        command.arg(format!("--file-prefix=e2e-{}", std::process::id()));
        command.args(["--lcores", "0@0,1@0"]);
        for driver in &self.drivers {
            command.arg("-d").arg(driver);
        }
        for (number, socket) in sockets.iter().enumerate() {
            let socket = socket.display();
            command.arg("--vdev").arg(format!(
                "net_vhost{number},iface={socket},queues=2,tso=1,legacy-ol-flags=1"
            ));
        }
        // What has come before it starts is forwarded, too: a card says only once
        // where it is now.
        command.args(["--", "--interactive", "--no-flush-rx", "--portmask=0x3"]);
        command.args(["--nb-cores=1", "--rxq=2", "--txq=2"]);
        command.args(["--total-num-mbufs=4096", "--disable-link-check"]);
        command.stdin(Stdio::piped());
        command
    }

    /// What is to be in a machine that runs it, by name.
    pub fn programs(&self) -> Vec<(&str, &Path)> {
        let drivers = DRIVERS.iter().zip(&self.drivers);
        let drivers = drivers.map(|((name, _), path)| (*name, &**path));
        let program = ("dpdk-testpmd", &*self.program);
        let lines = ("libstdbuf.so", Path::new(LINES));
        [program, lines].into_iter().chain(drivers).collect()
    }
}

/// In the directory of the version that is installed: `pmds-23.0`.
fn find_driver(libraries: &Path, name: &str) -> Option<PathBuf> {
    fs::read_dir(libraries)
        .ok()?
        .flatten()
        .map(|entry| entry.path().join(name))
        .find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_driver_in_the_directory_of_any_version() {
        let scratch = std::env::temp_dir().join(format!("drivers-{}", std::process::id()));
        let place = scratch.join("pmds-99.1");
        fs::create_dir_all(&place).unwrap();
        assert_eq!(find_driver(&scratch, "a.so"), None);
        fs::write(place.join("a.so"), "").unwrap();
        assert_eq!(find_driver(&scratch, "a.so"), Some(place.join("a.so")));
        fs::remove_dir_all(scratch).unwrap();
    }
}
