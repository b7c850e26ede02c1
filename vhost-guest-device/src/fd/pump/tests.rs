// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::thread;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use rustix::pipe::pipe;
use vmm_sys_util::signal::get_blocked_signals;

use super::*;
use crate::fd::{ForeignFd, Reaper};

const CHUNK: usize = 4096;

fn pump() -> (Pump, Arc<OwnedFd>) {
    let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).unwrap());
    (Pump::spawn(CHUNK, &wake), wake)
}

fn channel(fd: impl Into<OwnedFd>, direction: Transfer) -> StateFd {
    let reaper = Reaper::spawn();
    StateFd::check(ForeignFd::new(fd.into(), &reaper), direction).unwrap()
}

/// Blocks until a stream has something new.
fn wait(wake: &OwnedFd) {
    assert_eq!(rustix::io::read(wake, &mut [0; 8]), Ok(8));
}

/// Blocks until no thread has anything to do.
fn wait_for_rest(pump: &Pump) {
    while pump.busy() > 0 {
        thread::yield_now();
    }
}

fn save(stream: &Stream, wake: &OwnedFd, chunk: &[u8]) {
    while !stream.has_room() {
        wait(wake);
    }
    stream.save(chunk.to_vec());
}

/// Everything that comes, in pieces of at most `piece` bytes.
fn load(stream: &mut Stream, wake: &OwnedFd, piece: usize) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let now = match stream.next() {
            Next::Nothing => {
                wait(wake);
                continue;
            }
            Next::Bytes(bytes) => bytes.get(..piece).unwrap_or(bytes).to_vec(),
            Next::End => vec![],
        };
        stream.loaded(now.len());
        if now.is_empty() {
            return all;
        }
        all.extend(now);
    }
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n % 251) as u8).collect()
}

/// Both kinds of channel: what the device gets, and what the frontend keeps.
fn channels(direction: Transfer) -> [(StateFd, File); 2] {
    let (reader, writer) = pipe().unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (device, kept) = match direction {
        Transfer::Save => (writer, reader),
        Transfer::Load => (reader, writer),
    };
    let socket = (channel(theirs, direction), OwnedFd::from(ours).into());
    [(channel(device, direction), kept.into()), socket]
}

#[test]
fn saves_everything_in_any_chunking() {
    for (fd, mut frontend) in channels(Transfer::Save) {
        let (mut pump, wake) = pump();
        let stream = pump.start(Transfer::Save, fd).unwrap();
        let expected = pattern(300_000);
        let bytes = expected.clone();
        let guest = thread::spawn(move || {
            for chunk in bytes.chunks(3001) {
                save(&stream, &wake, chunk);
            }
            save(&stream, &wake, &[]);
            while !stream.is_done() {
                wait(&wake);
            }
        });
        let mut saved = Vec::new();
        frontend.read_to_end(&mut saved).unwrap();
        assert_eq!(saved, expected);
        guest.join().unwrap();
        wait_for_rest(&pump);
    }
}

#[test]
fn loads_everything_in_any_chunking() {
    for (fd, mut frontend) in channels(Transfer::Load) {
        let (mut pump, wake) = pump();
        let mut stream = pump.start(Transfer::Load, fd).unwrap();
        let expected = pattern(300_000);
        let bytes = expected.clone();
        let frontend = thread::spawn(move || {
            for chunk in bytes.chunks(5003) {
                frontend.write_all(chunk).unwrap();
            }
        });
        assert_eq!(load(&mut stream, &wake, 999), expected);
        assert!(stream.is_done());
        assert_eq!(stream.next(), Next::Nothing, "the end came twice");
        frontend.join().unwrap();
        wait_for_rest(&pump);
    }
}

#[test]
fn nobody_reads_and_the_guest_goes_on() {
    for (fd, frontend) in channels(Transfer::Save) {
        drop(frontend);
        let (mut pump, wake) = pump();
        let stream = pump.start(Transfer::Save, fd).unwrap();
        for _ in 0..100 {
            save(&stream, &wake, &[1; CHUNK]);
        }
        save(&stream, &wake, &[]);
        while !stream.is_done() {
            wait(&wake);
        }
    }
}

#[test]
fn an_abandoned_stream_frees_its_thread_and_closes_its_channel() {
    let (mut pump, wake) = pump();
    // One that waits for the guest, and one whose frontend does not read.
    for full in [false, true] {
        for (fd, mut frontend) in channels(Transfer::Save) {
            let stream = pump.start(Transfer::Save, fd).unwrap();
            let mut room = 0;
            while full && room < 1000 {
                // It has no room for long at some point.
                if stream.has_room() {
                    stream.save(vec![1; CHUNK]);
                }
                room += 1;
            }
            drop(stream);
            wait_for_rest(&pump);
            let mut rest = Vec::new();
            frontend.read_to_end(&mut rest).unwrap();
        }
    }
    for (fd, mut frontend) in channels(Transfer::Load) {
        drop(pump.start(Transfer::Load, fd).unwrap());
        wait_for_rest(&pump);
        while frontend.write_all(&[1]).is_ok() {}
    }
    drop(wake);
}

#[test]
fn refuses_transfers_when_all_threads_are_taken() {
    let (mut pump, _wake) = pump();
    let mut streams = Vec::new();
    let mut kept = Vec::new();
    for _ in 0..THREADS {
        let [(fd, frontend), _] = channels(Transfer::Load);
        streams.push(pump.start(Transfer::Load, fd).unwrap());
        kept.push(frontend);
    }
    let [(fd, _frontend), _] = channels(Transfer::Load);
    let refused = pump.start(Transfer::Load, fd);
    assert!(matches!(refused, Err(PumpError::Stuck)));
    drop(streams);
    wait_for_rest(&pump);
    let [(fd, _frontend), _] = channels(Transfer::Load);
    pump.start(Transfer::Load, fd).unwrap();
}

#[test]
fn descriptors_in_the_stream_are_not_received() {
    let (mut pump, wake) = pump();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut stream = pump
        .start(Transfer::Load, channel(theirs, Transfer::Load))
        .unwrap();
    let (reader, writer) = pipe().unwrap();
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [writer.as_fd()];
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    let bytes = [std::io::IoSlice::new(b"state")];
    rustix::net::sendmsg(&ours, &bytes, &mut control, SendFlags::empty()).unwrap();
    drop(ours);
    assert_eq!(load(&mut stream, &wake, CHUNK), b"state");
    drop(writer);
    assert_eq!(rustix::io::read(&reader, &mut [0; 1]), Ok(0));
}

#[test]
fn its_threads_survive_a_pipe_without_a_reader() {
    let prepared = thread::spawn(|| {
        survive_broken_pipes();
        get_blocked_signals().unwrap()
    });
    assert!(prepared.join().unwrap().contains(&SIGPIPE));
}
