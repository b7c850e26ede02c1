// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Sessions that a real frontend had with a real backend, with memory and
//! eventfds of ours: whole, and broken off at every place.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use vhost_guest_msg::{frontend, FdRule, Gate, FRONTEND_ROWS};

use super::rig::{event, memory_file, Rig};
use super::session::{answer_all, assert_recovers, try_send};
use super::siege::assert_nothing_connected;
use crate::connection::carried;

/// A request of the frontend's, and the kinds of its descriptors.
struct Request {
    bytes: Vec<u8>,
    kinds: Vec<String>,
}

/// The text between the first `from` and the next `to`.
fn between<'a>(text: &'a str, from: &str, to: &str) -> &'a str {
    let (_, rest) = text.split_once(from).unwrap();
    rest.split_once(to).unwrap().0
}

fn parse(line: &str) -> Request {
    let hex = between(line, "\"bytes\": \"", "\"");
    let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    let kinds = between(line, "\"fds\": [", "]").split(',');
    Request {
        bytes: (0..hex.len()).step_by(2).map(byte).collect(),
        kinds: kinds
            .map(|kind| kind.trim().trim_matches('"').to_owned())
            .filter(|kind| !kind.is_empty())
            .collect(),
    }
}

/// What the frontend of a capture sent, without what a device that carries
/// less than that backend would not have been sent.
fn requests(capture: &Path) -> Vec<Request> {
    let text = fs::read_to_string(capture).unwrap();
    let sent = text
        .lines()
        .filter(|line| line.contains("\"from\": \"frontend\""));
    let mut requests = Vec::new();
    for mut request in sent.map(parse) {
        let code = u32::from_le_bytes(request.bytes[..4].try_into().unwrap());
        let row = &FRONTEND_ROWS[code as usize - 1];
        if let Gate::Protocol(feature) = row.gate {
            if !carried().contains(feature) {
                continue;
            }
        }
        if code == frontend::SET_PROTOCOL_FEATURES {
            let value = u64::from_le_bytes(request.bytes[12..].try_into().unwrap());
            let value = value & carried().bits();
            request.bytes[12..].copy_from_slice(&value.to_le_bytes());
        }
        if row.fds == FdRule::AtMostOneIgnored {
            request.kinds.clear();
        }
        requests.push(request);
    }
    requests
}

fn captures() -> Vec<(String, Vec<Request>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../vhost-guest-msg/tests/data");
    let entries = fs::read_dir(directory).unwrap();
    let mut captures: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "jsonl"))
        .map(|path| (path.display().to_string(), requests(&path)))
        .collect();
    captures.sort_by(|(a, _), (b, _)| a.cmp(b));
    assert!(captures.len() >= 5);
    captures
}

/// A file for the memory of a request: a VM's regions are all in one, those of a
/// frontend without a VM each in its own, which is just as long.
fn memory_of(request: &Request, memory: &OwnedFd) -> OwnedFd {
    let word = |at: usize| {
        let bytes = request.bytes.get(at..at + 8)?.try_into().ok()?;
        Some(u64::from_le_bytes(bytes))
    };
    let is_slot = request.bytes[0] == frontend::ADD_MEM_REG as u8;
    match (word(20), word(28), word(36)) {
        (Some(guest), Some(size), Some(user)) if is_slot && guest == user => {
            memory_file(size).into()
        }
        _ => memory.try_clone().unwrap(),
    }
}

/// Descriptors for a request, and the other ends of them.
fn descriptors(request: &Request, memory: &OwnedFd) -> (Vec<OwnedFd>, Vec<UnixStream>) {
    let mut others = Vec::new();
    let fds = request.kinds.iter().map(|kind| match kind.as_str() {
        "eventfd" => event(),
        "socket" => {
            let (ours, theirs) = UnixStream::pair().unwrap();
            others.push(ours);
            theirs.into()
        }
        _ => memory_of(request, memory),
    });
    (fds.collect(), others)
}

/// A device whose window takes the memory of the captured VMs, and that
/// memory.
fn stage() -> (Rig, OwnedFd) {
    let mut rig = Rig::with(|builder| builder.window_size(1 << 36));
    rig.initialise();
    (rig, memory_file(1 << 34).into())
}

#[test]
fn carries_captured_sessions() {
    for (name, requests) in captures() {
        let (mut rig, memory) = stage();
        rig.backend_up();
        let mut frontend = rig.connect();
        let mut channels = Vec::new();
        let mut mapped = 0;
        let mut logged = false;
        for (n, request) in requests.iter().enumerate() {
            let (fds, mut ours) = descriptors(request, &memory);
            channels.append(&mut ours);
            frontend.send(
                &request.bytes,
                &fds.iter().map(std::os::fd::AsFd::as_fd).collect::<Vec<_>>(),
            );
            assert!(answer_all(&mut rig) > 0, "{name}: request {n} was lost");
            assert!(!rig.needs_reset(), "{name}: request {n} was refused");
            while frontend.receive().is_some() {}
            mapped = mapped.max(rig.vmm.mappings().len());
            logged |= request.bytes[0] == frontend::SET_LOG_BASE as u8;
        }
        assert!(mapped > 0, "{name}");
        let migrates = name.contains("migrate-source");
        assert_eq!(logged, migrates, "{name}");
        drop(frontend);
        assert!(rig.needs_reset());
        assert_recovers(&mut rig, &name);
    }
}

#[test]
fn a_hang_up_at_any_place_of_a_session_is_a_loss() {
    for (name, requests) in captures() {
        let (mut rig, memory) = stage();
        for last in 0..requests.len() {
            let length = requests[last].bytes.len();
            // Inside of a payload one place is as good as another.
            for bytes in [0, 1, 11, 12, 13, length - 1] {
                let what = format!("{name}: request {last}, byte {bytes}");
                rig.start();
                rig.backend_up();
                let frontend = rig.connect();
                let mut channels = Vec::new();
                for (n, request) in requests[..=last].iter().enumerate() {
                    let (fds, mut ours) = descriptors(request, &memory);
                    channels.append(&mut ours);
                    let end = if n == last {
                        bytes.min(length)
                    } else {
                        request.bytes.len()
                    };
                    if end > 0 {
                        try_send(&frontend, &request.bytes[..end], &fds);
                    }
                    answer_all(&mut rig);
                }
                assert!(!rig.needs_reset(), "{what}: refused");
                drop(frontend);
                assert!(rig.needs_reset(), "{what}: not noticed");
                assert_nothing_connected(&rig, &what);
            }
        }
        assert_recovers(&mut rig, &name);
    }
}
