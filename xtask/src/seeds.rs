// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The first inputs of the fuzz targets: real sessions, in the form that each
//! target reads.

use std::fs;
use std::path::Path;

use crate::error::{Context, Result};
use crate::workspace;

/// Where the message crate keeps what real frontends and backends sent.
const CAPTURES: &str = "vhost-guest-msg/tests/data";
/// Real sessions consist of more messages than an input should have.
const STREAM_MAX: usize = 3000;

/// Modes in `fuzz/src/lib.rs`.
const ALL_FEATURES: u8 = 4;
const ANY_LENGTH: u8 = 16;
const HEADER_SIZE: usize = 12;
const FLAG_REPLY: u8 = 4;

/// The kinds of steps in `fuzz_targets/reply.rs`.
const REQUEST: u8 = 0;
const REPLY: u8 = 2;

/// A step in `fuzz_targets/registers.rs`: the guest boots.
const REGISTERS: [u8; 2] = [7, 0];

/// Steps in `fuzz_targets/session.rs`.
const CONNECT: u8 = 0;
const SEND_HONESTLY: u8 = 3;
const SERVE: u8 = 8;
/// `fuzz_targets/together.rs`: bytes that say what the VMM chose, and the most
/// bytes of a part of a script.
const CHOSEN: usize = 7;
const PART_MAX: usize = 255;
/// A vCPU's script: reads and writes of registers, and of the window.
const VCPU: [u8; 24] = [
    0, 0, 0, 2, 2, 1, 0, 0, 0, 3, 6, 4, 0, 1, 0, 0, 6, 0, 2, 1, 7, 1, 2, 0,
];
/// A VMM's: it waits, reads statistics, saves and restores, asks for what was
/// truncated, changes memory, and waits again.
const VMM: [u8; 12] = [0, 200, 17, 18, 0, 200, 11, 12, 0, 200, 0, 255];
/// Kinds of descriptors in `fuzz/src/frontend.rs`.
const MEMORY: u8 = 0;
const EVENT: u8 = 1;
const SOCKET: u8 = 2;
/// As many messages as one input can have steps for.
const SESSION_MAX: usize = 30;
const SESSION_PART: usize = 10;
/// GET_FEATURES, GET_PROTOCOL_FEATURES, SET_PROTOCOL_FEATURES, SET_FEATURES.
const NEGOTIATION: [u8; 4] = [1, 15, 16, 2];

/// A message that was captured.
#[derive(Debug, PartialEq)]
struct Message {
    from_frontend: bool,
    fds: u8,
    bytes: Vec<u8>,
}

/// Writes the seeds of a target; returns how many there are.
pub fn write(target: &str, corpus: &Path) -> Result<usize> {
    let directory = workspace::root().join(CAPTURES);
    let rarities = rarities();
    let mut seeds = Vec::new();
    for entry in fs::read_dir(&directory)
        .path_context("cannot read", &directory)?
        .flatten()
    {
        let path = entry.path();
        let text = fs::read_to_string(&path).path_context("cannot read", &path)?;
        let messages: Vec<Message> = text.lines().filter_map(parse).collect();
        if messages.is_empty() {
            continue;
        }
        match target {
            "framer" => seeds.push(framer(&messages)),
            "registers" => seeds.push(REGISTERS.to_vec()),
            "reply" => seeds.extend(replies(&messages)),
            // A snapshot as it is, and one of nothing.
            "snapshot" => seeds.extend([vec![2], vec![0]]),
            "session" => seeds.extend(all(&messages, &rarities).map(|(_, m)| session(m.iter()))),
            "together" => {
                let all = all(&messages, &rarities);
                seeds.extend(all.map(|(n, m)| together(n as u8, m.iter())));
            }
            _ => seeds.extend(messages.iter().map(decode)),
        }
    }
    seeds.sort();
    seeds.dedup();
    for (index, seed) in seeds.iter().enumerate() {
        let path = corpus.join(format!("seed-{index:03}"));
        fs::write(&path, seed).path_context("cannot write", &path)?;
    }
    Ok(seeds.len())
}

fn decode(message: &Message) -> Vec<u8> {
    let mode = match message.bytes.len().saturating_sub(HEADER_SIZE) % 8 {
        0 => ALL_FEATURES,
        _ => ALL_FEATURES | ANY_LENGTH,
    };
    let mut seed = vec![mode, message.fds];
    seed.extend(shorten(message));
    seed
}

/// A message with the targets' short header, number and flags.
fn shorten(message: &Message) -> Vec<u8> {
    let bytes = &message.bytes;
    let body = bytes.get(HEADER_SIZE..).unwrap_or_default();
    let header = [bytes.first(), bytes.get(4)];
    header.into_iter().flatten().chain(body).copied().collect()
}

/// The frontend's side of a session, as much of it as is a good input.
fn framer(messages: &[Message]) -> Vec<u8> {
    // No script: everything arrives as it is asked for.
    let mut seed = vec![0, 0];
    for message in messages.iter().filter(|message| message.from_frontend) {
        if seed.len() + message.bytes.len() > STREAM_MAX {
            break;
        }
        seed.extend_from_slice(&message.bytes);
    }
    seed
}

/// Parts of a session: some requests and their replies.
fn replies(messages: &[Message]) -> Vec<Vec<u8>> {
    messages
        .chunks(8)
        .map(|messages| {
            let mut seed = vec![ALL_FEATURES];
            for message in messages {
                seed.push(if message.from_frontend {
                    REQUEST
                } else {
                    REPLY
                });
                seed.extend_from_slice(&(message.bytes.len() as u16).to_le_bytes());
                seed.extend_from_slice(&message.bytes);
            }
            seed
        })
        .collect()
}

/// Sessions that begin as real ones do, and go on with a part of one.
fn sessions(messages: &[Message]) -> Vec<Vec<&Message>> {
    let sent: Vec<&Message> = messages.iter().filter(|m| m.from_frontend).collect();
    let (negotiation, rest): (Vec<&Message>, Vec<&Message>) = sent.iter().partition(|message| {
        message
            .bytes
            .first()
            .is_some_and(|code| NEGOTIATION.contains(code))
    });
    let begin = || negotiation.iter().take(NEGOTIATION.len());
    let mut sessions = vec![sent.iter().copied().take(SESSION_MAX).collect()];
    for part in rest.windows(SESSION_PART).step_by(SESSION_PART / 2) {
        sessions.push(begin().chain(part).copied().collect::<Vec<_>>());
    }
    sessions
}

/// All sessions, numbered.
fn all<'a>(
    messages: &'a [Message],
    rarities: &'a [Message],
) -> impl Iterator<Item = (usize, Vec<&'a Message>)> {
    let mut sessions = sessions(messages);
    sessions.push(rarities.iter().collect());
    sessions.into_iter().enumerate()
}

/// What no captured session has: a record of requests under way, translations,
/// device state, and a log beside them.
fn rarities() -> Vec<Message> {
    let message = |code: u8, fds: u8, words: &[u64]| {
        let mut bytes = vec![0; HEADER_SIZE];
        bytes[0] = code;
        bytes[4] = 9;
        bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        Message {
            from_frontend: true,
            fds,
            bytes,
        }
    };
    let record = 2 | 256 << 16;
    vec![
        message(15, 0, &[]),
        message(16, 0, &[u64::MAX]),
        message(2, 0, &[1 << 30 | 1 << 32 | 1 << 33]),
        message(5, 1, &[1, 0, 1 << 20, 1 << 40, 0]),
        message(22, 0, &[0x1000, 0x1000, 1 << 40, 0x203]),
        message(6, 1, &[0x2345, 0]),
        message(7, 1, &[]),
        message(31, 0, &[0, 0, record]),
        message(32, 1, &[0x2080, 0x1000, record]),
        message(6, 1, &[0x3456, 0]),
        message(42, 1, &[0]),
        message(43, 0, &[]),
        message(42, 1, &[1]),
        message(45, 0, &[0]),
        message(34, 0, &[]),
    ]
}

/// A session as the input of its target: each message is answered.
fn session<'a>(messages: impl Iterator<Item = &'a &'a Message>) -> Vec<u8> {
    let mut seed = vec![ANY_LENGTH, CONNECT];
    for message in messages {
        seed.extend(send(message));
        seed.push(SERVE);
    }
    seed
}

/// The same while others do what they do.
fn together<'a>(flags: u8, messages: impl Iterator<Item = &'a &'a Message>) -> Vec<u8> {
    let mut frontend = vec![CONNECT];
    frontend.extend(messages.flat_map(|message| send(message)));
    let mut seed = vec![0; CHOSEN];
    (seed[0], seed[1]) = (flags, ANY_LENGTH);
    for (whose, script) in [(0, &frontend[..]), (2, &VCPU), (3, &VMM)] {
        for part in script.chunks(PART_MAX) {
            seed.extend([whose, part.len() as u8]);
            seed.extend(part);
        }
    }
    seed
}

/// A frontend's step: it sends a message.
fn send(message: &Message) -> Vec<u8> {
    let bytes = shorten(message);
    let kind = match bytes.first() {
        Some(7 | 12..=14) => EVENT,
        Some(21 | 42) => SOCKET,
        _ => MEMORY,
    };
    let mut step = vec![SEND_HONESTLY, message.fds];
    step.extend((0..message.fds).map(|_| kind));
    step.extend_from_slice(&(bytes.len() as u16).to_le_bytes());
    step.extend(bytes);
    step
}

/// One line of a file: of a capture, a JSON object with "from", "fds" and
/// "bytes"; of the golden vectors, a name, the message, and what it is.
fn parse(line: &str) -> Option<Message> {
    if !line.starts_with('{') {
        let bytes = unhex(line.split(' ').nth(1)?)?;
        let flags = bytes.get(4)?;
        return Some(Message {
            from_frontend: flags & FLAG_REPLY == 0,
            fds: u8::from(line.contains(" one ")),
            bytes,
        });
    }
    let after = |key: &str| Some(line.split_once(&format!("\"{key}\": "))?.1);
    let fds = after("fds")?.strip_prefix('[')?.split_once(']')?.0;
    let digits = after("bytes")?.strip_prefix('"')?.split_once('"')?.0;
    Some(Message {
        from_frontend: after("from")?.starts_with("\"frontend\""),
        fds: fds.split(',').filter(|fd| !fd.trim().is_empty()).count() as u8,
        bytes: unhex(digits)?,
    })
}

fn unhex(digits: &str) -> Option<Vec<u8>> {
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_captured_message() {
        let line = r#"{"from": "frontend", "request": 12, "flags": 1, "size": 8, "fds": ["a", "b"], "bytes": "0c0000000900000001000000ff"}"#;
        let message = parse(line).unwrap();
        assert!(message.from_frontend);
        assert_eq!(message.fds, 2);
        assert_eq!(message.bytes.len(), 13);
        assert_eq!(decode(&message), [20, 2, 12, 9, 0xff]);
        assert_eq!(
            parse(r#"{"from": "backend", "fds": [], "bytes": "0"}"#),
            None
        );
    }
}
