// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The program: options, signals, and a thread for each device.

use std::fs;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;

use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use vhost_guest_driver::module::Node;

use crate::error::Failure;
use crate::options::{Link, Request, HELP};
use crate::peer::Peer;
use crate::service::Service;

/// Text of `--version`.
const VERSION: &str = concat!("vhost-guest-relay ", env!("CARGO_PKG_VERSION"), "\n");
/// Where the device files are.
const DEVICES: &str = "/dev/vhost-guest";
/// Where the kernel driver tells their UUIDs.
const CLASS: &str = "/sys/class/vhost_guest";

/// Runs the program with the arguments of this process.
pub fn main() -> ExitCode {
    let request = Request::parse(std::env::args_os().skip(1));
    let outcome = request.and_then(|request| match request {
        Request::Help => print(HELP),
        Request::Version => print(VERSION),
        Request::Serve(links) => serve(&links),
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("vhost-guest-relay: {failure}");
            ExitCode::from(match failure {
                Failure::Usage(_) => 2,
                _ => 1,
            })
        }
    }
}

fn print(text: &str) -> Result<(), Failure> {
    // Nobody need read it.
    let _ = io::stdout().write_all(text.as_bytes());
    Ok(())
}

/// A device that is open, and the way to its backend.
struct Open {
    name: String,
    node: Node,
    peer: Peer,
    device_type: Option<u16>,
    allow_direct: bool,
}

/// Serves all devices until a signal comes or one of them fails.
fn serve(links: &[Link]) -> Result<(), Failure> {
    let stop = watch_signals().map_err(|error| Failure::Start("signals", error))?;
    allow_all_descriptors();
    let opened: Result<Vec<_>, _> = links.iter().map(open).collect();
    let opened = opened?;
    thread::scope(|scope| {
        let threads: Vec<_> = opened
            .iter()
            .map(|open| {
                let stop = &stop;
                thread::Builder::new()
                    .name("relay".into())
                    .spawn_scoped(scope, move || serve_one(open, stop))
                    .map_err(|error| Failure::Start("a thread", error))
            })
            .collect();
        let mut outcome = Ok(());
        for thread in threads {
            let ended = thread.map(|thread| thread.join().unwrap_or(Ok(())));
            outcome = outcome.and(ended.and_then(|ended| ended));
        }
        outcome
    })
}

/// A session keeps three eventfds for each vring: with 256 vrings, what a process
/// may usually have open is not enough for two devices.
fn allow_all_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let all = Rlimit {
        current: limit.maximum,
        ..limit
    };
    // Few devices have so many vrings; those that have will say what they lack.
    let _ = setrlimit(Resource::Nofile, all);
}

/// Readable from the first signal on, for everybody who looks.
fn watch_signals() -> io::Result<UnixStream> {
    let (stop, signalled) = UnixStream::pair()?;
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::low_level::pipe::register(signal, signalled.try_clone()?)?;
    }
    Ok(stop)
}

fn open(link: &Link) -> Result<Open, Failure> {
    let path = match &link.device {
        Some(device) => find(device)?,
        None => Node::find()?,
    };
    let socket = |error| Failure::Socket(format!("--socket {}", link.socket.display()), error);
    let peer = match link.listen {
        true => Peer::listen(&link.socket).map_err(socket)?,
        false => Peer::Connect(link.socket.clone()),
    };
    let name = path.file_name().unwrap_or_default();
    Ok(Open {
        name: name.to_string_lossy().into_owned(),
        node: Node::open(&path)?,
        peer,
        device_type: link.device_type,
        allow_direct: link.allow_direct,
    })
}

/// The device file of a device that the user has named.
fn find(device: &str) -> Result<PathBuf, Failure> {
    let by_path = Path::new(device).is_absolute().then(|| device.into());
    let by_address = || {
        ["", "0000:"]
            .map(|domain| Path::new(DEVICES).join(format!("{domain}{device}")))
            .into_iter()
            .find(|path| path.exists())
    };
    by_path
        .or_else(by_address)
        .or_else(|| find_uuid(Path::new(CLASS), device))
        .ok_or_else(|| Failure::NoDevice(device.into()))
}

/// The device file of the device with this UUID.
fn find_uuid(class: &Path, uuid: &str) -> Option<PathBuf> {
    fs::read_dir(class).ok()?.flatten().find_map(|entry| {
        let found = fs::read_to_string(entry.path().join("uuid")).ok()?;
        if !found.trim().eq_ignore_ascii_case(uuid) {
            return None;
        }
        // In names of sysfs there is no slash.
        let name = entry.file_name().to_string_lossy().replace('!', "/");
        Some(Path::new("/dev").join(name))
    })
}

fn serve_one(open: &Open, stop: &UnixStream) -> Result<(), Failure> {
    let log = |text: &str| {
        // In one piece, lest others write in between; nobody need read it.
        let line = format!("vhost-guest-relay: {}: {text}\n", open.name);
        let _ = io::stderr().write_all(line.as_bytes());
    };
    let service = Service {
        device: &open.node,
        peer: &open.peer,
        device_type: open.device_type,
        allow_direct: open.allow_direct,
        stop: stop.as_fd(),
        log: &log,
    };
    let outcome = service.run();
    match &outcome {
        Ok(()) => log("ended"),
        // The other devices are still served.
        Err(failure) => log(&failure.to_string()),
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_device_by_its_uuid() {
        let class = std::env::temp_dir().join(format!("vhost-guest-relay-{}", std::process::id()));
        for (name, uuid) in [
            ("vhost-guest!0000:00:05.0", "a0"),
            ("vhost-guest!0000:00:06.0", "b1"),
        ] {
            fs::create_dir_all(class.join(name)).unwrap();
            fs::write(class.join(name).join("uuid"), format!("{uuid}\n")).unwrap();
        }
        let found = find_uuid(&class, "B1").unwrap();
        assert_eq!(found, Path::new("/dev/vhost-guest/0000:00:06.0"));
        assert!(find_uuid(&class, "c2").is_none());
        fs::remove_dir_all(class).unwrap();
    }

    #[test]
    fn may_open_as_much_as_it_is_ever_allowed() {
        allow_all_descriptors();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
    }

    #[test]
    fn says_which_device_is_not_there() {
        let failure = find("0000:ff:1f.7").unwrap_err();
        assert!(failure.to_string().contains("0000:ff:1f.7"), "{failure}");
        assert_eq!(find("/dev/null").unwrap(), Path::new("/dev/null"));
    }
}
