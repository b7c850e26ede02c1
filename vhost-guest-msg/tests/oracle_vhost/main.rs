// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The `vhost` crate as an oracle: it gets the same bytes and descriptors over
//! a socket. Where the two crates do not agree, [`DIFFERENCES`] says why; each
//! of its lines has to be needed.

#[path = "../common/mod.rs"]
mod common;
mod differences;
mod recorder;

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use common::{context, emit, message, sample};
use differences::{Accepts, DIFFERENCES};
use recorder::{Recorder, Seen};
use rustix::net::{sendmsg, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use vhost::vhost_user::BackendReqHandler;
use vhost_guest_msg::{
    decode_whole, frontend, Config, Context, Endian, Frame, FrontendRequest, HeaderFlags, Layout,
    Limits, Row, Verdict, FRONTEND_ROWS,
};

/// A message that both crates get.
pub struct Case {
    bytes: Vec<u8>,
    fds: usize,
}

impl Case {
    fn code(&self) -> u32 {
        u32::from_ne_bytes(self.bytes[..4].try_into().unwrap())
    }

    fn flags(&self) -> u32 {
        u32::from_ne_bytes(self.bytes[4..8].try_into().unwrap())
    }

    fn body(&self) -> &[u8] {
        &self.bytes[12..]
    }

    /// A number in the payload; 0 if it is not there.
    fn u32(&self, offset: usize) -> u32 {
        let bytes = self.body().get(offset..offset + 4);
        bytes.map_or(0, |b| u32::from_ne_bytes(b.try_into().unwrap()))
    }

    fn u64(&self, offset: usize) -> u64 {
        let bytes = self.body().get(offset..offset + 8);
        bytes.map_or(0, |b| u64::from_ne_bytes(b.try_into().unwrap()))
    }
}

/// What this crate reads, if it accepts the message.
fn ours(case: &Case) -> Option<FrontendRequest> {
    let limits = Limits::default();
    let frame = decode_whole(&case.bytes, Endian::NATIVE, &limits).ok()?;
    let Frame { header, body, .. } = frame;
    let fds = (0..case.fds).collect();
    let frame = Frame { header, body, fds };
    let message = FrontendRequest::decode(frame, Endian::NATIVE, &limits, &context()).ok()?;
    Some(match message.request.detach().0 {
        // The oracle does not show them; they have no meaning.
        FrontendRequest::GetConfig(config) => {
            let contents = vec![0; config.contents().len()];
            let config = Config::new(config.offset(), config.flags(), contents);
            FrontendRequest::GetConfig(config.unwrap())
        }
        request => request,
    })
}

/// What the oracle reads, if it accepts the message.
fn theirs(case: &Case) -> Option<Seen> {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let recorder = Arc::new(Mutex::new(Recorder::default()));
    let mut handler = BackendReqHandler::from_stream(theirs, recorder.clone());
    let Context {
        features,
        protocol_features,
        ..
    } = context();
    for request in [
        FrontendRequest::<()>::GetFeatures,
        FrontendRequest::SetFeatures(features),
        FrontendRequest::SetProtocolFeatures(protocol_features),
    ] {
        send(&ours, &request.to_vec(false, Endian::NATIVE), 0);
        handler.handle_request().unwrap();
    }
    recorder.lock().unwrap().seen = Seen::Nothing;
    send(&ours, &case.bytes, case.fds);
    // A message that is too short must not make it wait.
    ours.shutdown(Shutdown::Write).unwrap();
    let accepted = handler.handle_request().is_ok();
    let seen = std::mem::take(&mut recorder.lock().unwrap().seen);
    accepted.then_some(seen)
}

/// Sends with `count` descriptors, all of them sockets: SET_BACKEND_REQ_FD
/// accepts nothing else.
fn send(stream: &UnixStream, bytes: &[u8], count: usize) {
    let fds = vec![stream.as_fd(); count];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if count != 0 {
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    }
    let sent = sendmsg(
        stream,
        &[IoSlice::new(bytes)],
        &mut control,
        SendFlags::empty(),
    );
    assert_eq!(sent, Ok(bytes.len()));
}

/// Compares the two, and returns the line of the table that explains a
/// difference.
fn compare(case: &Case) -> Option<usize> {
    let (ours, theirs) = (ours(case), theirs(case));
    let accepts = match (ours, theirs) {
        (None, None) => return None,
        (Some(_), None) => Accepts::Ours,
        (None, Some(_)) => Accepts::Theirs,
        (Some(request), Some(seen)) => {
            // What a device refuses is not looked into.
            let refused = |row: &Row| matches!(row.verdict, Verdict::Refuse(_));
            if !request.row().is_some_and(refused) {
                assert_eq!(seen, Seen::Values(request));
            }
            return None;
        }
    };
    let line = DIFFERENCES
        .iter()
        .position(|line| line.accepts == accepts && (line.when)(case));
    assert!(
        line.is_some(),
        "{accepts:?} only: {:x?} with {} descriptors",
        case.bytes,
        case.fds
    );
    line
}

/// A message of a row with this payload.
fn case(row: &Row, body: &[u8], fds: usize) -> Case {
    let bytes = message(row.code, HeaderFlags::empty(), body, Endian::NATIVE);
    Case { bytes, fds }
}

/// The sample of a row, and everything that is one change away from it.
fn variations(row: &'static Row) -> Vec<Case> {
    let body = emit(&sample(row), Endian::NATIVE);
    let right = common::fd_counts(row, 0)[0];
    let mut cases = vec![case(row, &body, right)];
    // Other descriptors, with and without the bit that says so.
    for fds in 0..4 {
        cases.push(case(row, &body, fds));
        if row.layout == Layout::VringFd {
            cases.push(case(row, &0x103_u64.to_ne_bytes(), fds));
        }
    }
    // Other lengths.
    let lens = (0..body.len()).chain([body.len() + 1, body.len() + 8, body.len() + 16]);
    for len in lens {
        let mut body = body.clone();
        body.resize(len, 0);
        cases.push(case(row, &body, right));
    }
    // Other values: each bit, and each byte at its edges.
    for position in 0..body.len() {
        let byte = body[position];
        let bits = (0..8).map(|bit| byte ^ 1 << bit);
        for value in bits.chain([0, 1, 0x7f, 0xff]) {
            let mut body = body.clone();
            body[position] = value;
            cases.push(case(row, &body, right));
        }
    }
    // Other headers.
    for bit in 0..32 {
        let mut case = case(row, &body, right);
        let flags = case.flags() ^ 1 << bit;
        case.bytes[4..8].copy_from_slice(&flags.to_ne_bytes());
        cases.push(case);
    }
    cases
}

/// What one change does not lead to.
fn special() -> Vec<Case> {
    let row = |code: u32| &FRONTEND_ROWS[code as usize - 1];
    let config = |size: u32| {
        let mut body = [0, size, 0].map(u32::to_ne_bytes).concat();
        body.resize(12 + size as usize, 0);
        case(row(frontend::SET_CONFIG), &body, 0)
    };
    let table = |regions: &[[u64; 4]]| {
        let mut body = [regions.len() as u32, 0].map(u32::to_ne_bytes).concat();
        let numbers = regions.iter().flatten();
        body.extend(numbers.flat_map(|number| number.to_ne_bytes()));
        case(row(frontend::SET_MEM_TABLE), &body, regions.len())
    };
    let inflight = |code: u32, size: u64, offset: u64| {
        let numbers = [size, offset, 0x0100_0002].map(u64::to_ne_bytes);
        let right = usize::from(code == frontend::SET_INFLIGHT_FD);
        case(row(code), &numbers.concat(), right)
    };
    let with_code = |code: u32| {
        let mut case = case(row(1), &[], 0);
        case.bytes[..4].copy_from_slice(&code.to_ne_bytes());
        case
    };
    let regions: Vec<_> = (0..33).map(|i| [i << 12, 4096, i << 12, 0]).collect();
    vec![
        config(0),
        config(1),
        config(4072),
        config(4073),
        config(4084),
        config(4085),
        table(&[]),
        table(&regions[..1]),
        table(&regions[..32]),
        table(&regions),
        table(&[regions[1], regions[1]]),
        table(&[regions[1], [1 << 20, 4096, 4097, 0]]),
        table(&[[u64::MAX, u64::MAX, 0, 0]]),
        inflight(frontend::GET_INFLIGHT_FD, 0, 0),
        inflight(frontend::GET_INFLIGHT_FD, u64::MAX, 1),
        inflight(frontend::SET_INFLIGHT_FD, 0, 0),
        inflight(frontend::SET_INFLIGHT_FD, u64::MAX, 0),
        inflight(frontend::SET_INFLIGHT_FD, u64::MAX, 1),
        with_code(0),
        with_code(46),
        with_code(u32::MAX),
    ]
}

#[test]
fn agrees_but_for_the_listed_differences() {
    let mut used = vec![0; DIFFERENCES.len()];
    let cases = FRONTEND_ROWS.iter().flat_map(variations).chain(special());
    for line in cases.filter_map(|case| compare(&case)) {
        used[line] += 1;
    }
    for (line, used) in DIFFERENCES.iter().zip(used) {
        assert_ne!(used, 0, "not needed: {}", line.reason);
    }
}

#[test]
fn agrees_on_independent_bytes() {
    // The requests of the main socket, with a descriptor where one is due.
    let unlisted = include_str!("../data/golden.txt").lines().filter(|line| {
        let backend = ["G20", "G21", "G22", "#"];
        !backend.iter().any(|name| line.starts_with(name)) && !line.contains("reply")
    });
    let mut agreed = 0;
    for line in unlisted {
        let hex = line.split(' ').nth(1).unwrap();
        let digits = |i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap();
        let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(digits).collect();
        let code = u32::from_le_bytes(bytes[..4].try_into().unwrap());
        let no_fd = line.starts_with("G8n");
        let fds = if no_fd {
            0
        } else {
            common::fd_counts(&FRONTEND_ROWS[code as usize - 1], 0)[0]
        };
        agreed += usize::from(compare(&Case { bytes, fds }).is_none());
    }
    assert!(agreed > 20, "{agreed}");
}
