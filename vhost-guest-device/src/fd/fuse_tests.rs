// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A file system that stops answering, and what that must not do to us.
//!
//! These tests mount a FUSE file system, which needs privileges; without them
//! they say so and pass, except in CI.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::event::{eventfd, EventfdFlags};
use rustix::mount::{mount, unmount, MountFlags, UnmountFlags};
use rustix::pipe::{pipe, splice, SpliceFlags};
use vhost_guest_msg::Transfer;
use vm_memory::mmap::MmapRegion;
use vm_memory::FileOffset;

use super::{
    ChannelSocket, EventFd, FdError, FdKinds, ForeignFd, MemoryFd, MemoryPolicy, Next, Pump,
    Reaper, StateFd,
};

/// Requests, by their numbers in `linux/fuse.h`.
const LOOKUP: u32 = 1;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
/// Errors, as the kernel wants them.
const ENOSYS: i32 = -38;

/// `struct fuse_attr` of a regular file, with nothing that may be cached.
fn attributes(mode: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    for number in [2_u64, 0x10_0000, 0, 0, 0, 0] {
        bytes.extend(number.to_ne_bytes());
    }
    for number in [0, 0, 0, mode, 1, 0, 0, 0, 4096, 0_u32] {
        bytes.extend(number.to_ne_bytes());
    }
    bytes
}

/// The answer to a request, as long as the server answers any.
fn answer(opcode: u32) -> Result<Vec<u8>, i32> {
    let mut bytes = Vec::new();
    match opcode {
        INIT => {
            for number in [7, 31, 0, 0, 0, 0x1000, 1, 0_u32] {
                bytes.extend(number.to_ne_bytes());
            }
            bytes.resize(64, 0);
        }
        LOOKUP => {
            for number in [2_u64, 0, 0, 0, 0] {
                bytes.extend(number.to_ne_bytes());
            }
            bytes.extend(attributes(0o100_666));
        }
        GETATTR => {
            bytes.resize(16, 0);
            bytes.extend(attributes(0o040_777));
        }
        OPEN => bytes.resize(16, 0),
        _ => return Err(ENOSYS),
    }
    Ok(bytes)
}

/// Speaks FUSE until it is told to fall silent; then it only counts.
#[derive(Default)]
pub(crate) struct Server {
    silent: AtomicBool,
    unanswered_flushes: AtomicUsize,
    other_unanswered: AtomicUsize,
}

impl Server {
    fn serve(&self, mut device: File) {
        let mut request = vec![0; 0x10_0000];
        // Fails when the file system is unmounted.
        while let Ok(size) = device.read(&mut request) {
            let request = &request[..size];
            let opcode = u32::from_ne_bytes(request[4..8].try_into().unwrap());
            if self.silent.load(Ordering::SeqCst) {
                let counter = match opcode {
                    FLUSH => &self.unanswered_flushes,
                    _ => &self.other_unanswered,
                };
                counter.fetch_add(1, Ordering::SeqCst);
                continue;
            }
            let (error, body) = match answer(opcode) {
                Ok(body) => (0_i32, body),
                Err(error) => (error, Vec::new()),
            };
            let mut reply = Vec::new();
            reply.extend((16 + body.len() as u32).to_ne_bytes());
            reply.extend(error.to_ne_bytes());
            reply.extend(&request[8..16]);
            reply.extend(body);
            // The kernel does not want all answers that it asked for.
            let _ = device.write(&reply);
        }
    }
}

/// A mounted file system; dropping it frees everybody who waits for it.
pub(crate) struct Mount {
    path: PathBuf,
    server: Arc<Server>,
}

impl Mount {
    /// A file system, or nothing where none can be mounted and none has to be.
    pub(crate) fn new(name: &str) -> Option<Self> {
        let mounted = Self::try_new(name);
        if mounted.is_none() {
            let required = std::env::var("CI").as_deref() == Ok("true");
            assert!(!required, "a FUSE file system cannot be mounted here");
            eprintln!("SKIPPED: a FUSE file system cannot be mounted here");
        }
        mounted
    }

    fn try_new(name: &str) -> Option<Self> {
        let device = File::options()
            .read(true)
            .write(true)
            .open("/dev/fuse")
            .ok()?;
        let name = format!("vhost-guest-fuse-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        let options = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0",
            device.as_raw_fd()
        );
        let options = std::ffi::CString::new(options).unwrap();
        if mount(
            "none",
            &path,
            "fuse",
            MountFlags::empty(),
            Some(options.as_c_str()),
        )
        .is_err()
        {
            std::fs::remove_dir(&path).unwrap();
            return None;
        }
        let server = Arc::new(Server::default());
        let shared = Arc::clone(&server);
        thread::spawn(move || shared.serve(device));
        Some(Self { path, server })
    }

    /// Descriptors of a file, whose server will not answer for it any more.
    /// Foreign ones, so that no test waits for them, not even one that fails.
    pub(crate) fn dead_files(&self, count: usize, reaper: &Reaper) -> Vec<ForeignFd> {
        let open = || {
            let file = self.path.join("file");
            let file = File::options().read(true).write(true).open(file);
            ForeignFd::new(file.unwrap().into(), reaper)
        };
        let files = (0..count).map(|_| open()).collect();
        self.server.silent.store(true, Ordering::SeqCst);
        files
    }

    /// Memory of a file whose server will not answer for it any more: who touches
    /// it waits, the kernel too.
    pub(crate) fn memory(&self) -> MmapRegion {
        let reaper = Reaper::spawn();
        let dead = self.dead_files(1, &reaper).remove(0);
        let file = File::from(dead.as_fd().try_clone_to_owned().unwrap());
        MmapRegion::from_file(FileOffset::new(file, 0), 4096).unwrap()
    }

    /// Requests that somebody waits for who did not just close a file.
    pub(crate) fn questions(&self) -> usize {
        self.server.other_unanswered.load(Ordering::SeqCst)
    }

    /// Files that somebody tries to close.
    pub(crate) fn closing(&self) -> usize {
        self.server.unanswered_flushes.load(Ordering::SeqCst)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = unmount(&self.path, UnmountFlags::FORCE | UnmountFlags::DETACH);
        let _ = std::fs::remove_dir(&self.path);
    }
}

#[test]
fn no_kind_check_waits_for_a_file_system() {
    let Some(mount) = Mount::new("kinds") else {
        return;
    };
    let reaper = Reaper::spawn();
    let kinds = FdKinds::new().unwrap();
    let lax = MemoryPolicy {
        any_file_system: true,
        ..Default::default()
    };
    let mut files = mount.dead_files(5, &reaper).into_iter();
    let mut file = || files.next().unwrap();

    assert!(matches!(
        EventFd::check(file(), &kinds),
        Err(FdError::Kind(_))
    ));
    assert!(matches!(
        ChannelSocket::check(file()),
        Err(FdError::Kind(_))
    ));
    assert!(matches!(
        MemoryFd::check(file(), MemoryPolicy::default()),
        Err(FdError::Kind(_))
    ));
    assert!(matches!(
        StateFd::check(file(), Transfer::Load),
        Err(FdError::Kind(_))
    ));
    let memory = MemoryFd::check(file(), lax).expect("the VMM wanted it so");
    assert_eq!(memory.size().unwrap(), 0x10_0000);
    assert_eq!(mount.questions(), 0);
    drop(mount);
}

#[test]
fn closing_waits_in_other_threads() {
    let Some(mount) = Mount::new("close") else {
        return;
    };
    let reaper = Reaper::spawn();
    drop(mount.dead_files(2, &reaper));
    while mount.closing() < 2 {
        thread::yield_now();
    }
    assert_eq!(reaper.backlog(), 2);

    // The next frontend's are closed all the same.
    let (reader, writer) = pipe().unwrap();
    drop(ForeignFd::new(writer, &reaper.for_frontend()));
    assert_eq!(rustix::io::read(reader.as_fd(), &mut [0; 1]), Ok(0));
    drop(mount);
    while reaper.backlog() > 0 {
        thread::yield_now();
    }
}

/// Whether a thread of this name waits for something that no signal ends.
pub(crate) fn is_stuck(name: &str) -> bool {
    let threads = std::fs::read_dir("/proc/self/task").unwrap();
    threads.filter_map(Result::ok).any(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        stat.contains(&format!("({name}) D "))
    })
}

/// Splicing from a file into a pipe holds the pipe's lock, which everybody
/// needs who reads it, `O_NONBLOCK` or not.
#[test]
fn a_jammed_pipe_holds_up_one_thread_and_nobody_else() {
    let Some(mount) = Mount::new("pump") else {
        return;
    };
    let reaper = Reaper::spawn();
    let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).unwrap());
    let mut pump = Pump::spawn(4096, &wake);
    let mut start = |reader| {
        let fd = StateFd::check(ForeignFd::new(reader, &reaper), Transfer::Load);
        pump.start(Transfer::Load, fd.unwrap()).unwrap()
    };
    let (reader, writer) = pipe().unwrap();
    rustix::io::write(&writer, b"state").unwrap();
    let file = mount.dead_files(1, &reaper).remove(0);
    let jam = thread::spawn(move || {
        // Fails when the file system is gone.
        let _ = splice(&file, None, &writer, None, 4096, SpliceFlags::empty());
    });
    while mount.questions() == 0 {
        thread::yield_now();
    }
    let stuck = start(reader);
    for _ in 0..1000 {
        // Kernels may differ; what follows holds in any case.
        if is_stuck("vhost-guest-mig") {
            break;
        }
        thread::sleep(Duration::from_millis(5));
    }
    drop(stuck);

    // The next transfer has a thread.
    let (reader, writer) = pipe().unwrap();
    rustix::io::write(&writer, b"state").unwrap();
    let mut stream = start(reader);
    while stream.next() == Next::Nothing {
        rustix::io::read(&wake, &mut [0; 8]).unwrap();
    }
    assert_eq!(stream.next(), Next::Bytes(b"state"));
    drop(stream);
    drop(pump);
    drop(mount);
    jam.join().unwrap();
}
