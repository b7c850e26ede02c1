// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What each kind of descriptor is taken for.

use std::fs::File;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};

use rustix::event::{epoll, eventfd, EventfdFlags};
use rustix::fs::{
    fcntl_add_seals, ftruncate, memfd_create, open, MemfdFlags, Mode, OFlags, SealFlags,
};
use rustix::net::{
    bind, connect, listen, socket_with, socketpair, AddressFamily, SocketAddrUnix, SocketFlags,
    SocketType,
};
use rustix::pipe::pipe;
use rustix::time::{timerfd_create, TimerfdClockId, TimerfdFlags};

use super::*;
use crate::fd::Reaper;

const STRICT: MemoryPolicy = MemoryPolicy {
    sealed_size: true,
    any_file_system: false,
};
const USUAL: MemoryPolicy = MemoryPolicy {
    sealed_size: false,
    any_file_system: false,
};
const LAX: MemoryPolicy = MemoryPolicy {
    sealed_size: false,
    any_file_system: true,
};

fn foreign(fd: impl Into<OwnedFd>) -> ForeignFd {
    ForeignFd::new(fd.into(), &Reaper::spawn())
}

fn memfd(seals: SealFlags) -> OwnedFd {
    let fd = memfd_create("memory", MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&fd, 0x3000).unwrap();
    fcntl_add_seals(&fd, seals).unwrap();
    fd
}

/// Opens what `fd` is open on once more.
fn reopen(fd: impl AsFd, flags: OFlags) -> OwnedFd {
    let path = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    open(path, flags | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

fn abstract_address(name: &str) -> SocketAddr {
    let name = format!("vhost-guest-{name}-{}", std::process::id());
    SocketAddr::from_abstract_name(name).unwrap()
}

/// One descriptor of each kind that is neither memory, eventfd nor socket.
fn oddities() -> Vec<(&'static str, OwnedFd)> {
    let (reader, writer) = pipe().unwrap();
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC).unwrap();
    let mut oddities = vec![
        ("pipe, read end", reader),
        ("pipe, write end", writer),
        ("timerfd", timer),
        ("epoll", epoll::create(epoll::CreateFlags::CLOEXEC).unwrap()),
        ("directory", File::open("/").unwrap().into()),
        ("proc file", File::open("/proc/self/status").unwrap().into()),
        ("executable", File::open("/proc/self/exe").unwrap().into()),
    ];
    for path in ["/dev/null", "/dev/zero"] {
        let file = File::options().read(true).write(true).open(path).unwrap();
        oddities.push((path, file.into()));
    }
    for path in ["/", "/dev/null", "/proc/self/exe"] {
        oddities.push(("path", open(path, OFlags::PATH, Mode::empty()).unwrap()));
    }
    oddities
}

/// One socket of each kind that is no channel.
fn odd_sockets() -> Vec<(&'static str, OwnedFd)> {
    let (datagram, _) = UnixDatagram::pair().unwrap();
    let flags = SocketFlags::CLOEXEC;
    let (packets, _) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    vec![
        ("datagram socket", datagram.into()),
        ("packet socket", packets),
        ("TCP listener", listener.into()),
        ("TCP socket", stream.into()),
    ]
}

#[test]
fn accepts_eventfds_of_every_flavour() {
    let kinds = FdKinds::new().unwrap();
    for flags in [
        EventfdFlags::empty(),
        EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK,
        EventfdFlags::SEMAPHORE,
    ] {
        let sent = EventFd::check(foreign(eventfd(7, flags).unwrap()), &kinds).unwrap();
        assert_eq!(sent, sent.clone());
        let other = EventFd::check(foreign(eventfd(7, flags).unwrap()), &kinds).unwrap();
        assert_ne!(sent, other);
        assert!(format!("{sent:?}").starts_with("EventFd("));
    }
}

#[test]
fn rejects_what_is_no_eventfd() {
    let kinds = FdKinds::new().unwrap();
    let others = [("memfd", memfd(SealFlags::empty()))];
    for (what, fd) in oddities().into_iter().chain(odd_sockets()).chain(others) {
        let error = EventFd::check(foreign(fd), &kinds).expect_err(what);
        assert!(
            matches!(error, FdError::Kind(_) | FdError::Access),
            "{what}: {error}"
        );
        assert!(!error.is_environment());
    }
}

#[test]
fn rejects_the_path_of_an_eventfd() {
    let kinds = FdKinds::new().unwrap();
    let original = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    let path = foreign(reopen(&original, OFlags::PATH));
    assert_eq!(kinds.name(path.as_fd()).unwrap(), b"anon_inode:[eventfd]");
    assert!(matches!(EventFd::check(path, &kinds), Err(FdError::Access)));
}

#[test]
fn rejects_a_file_that_is_named_like_an_eventfd() {
    let kinds = FdKinds::new().unwrap();
    let name = "anon_inode:[eventfd]";
    let fd = memfd_create(name, MemfdFlags::CLOEXEC).unwrap();
    assert!(EventFd::check(foreign(fd), &kinds).is_err());
    let path = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
    let file = File::create(&path).unwrap();
    std::fs::remove_file(path).unwrap();
    assert!(EventFd::check(foreign(file), &kinds).is_err());
}

#[test]
fn accepts_memory() {
    let sealed = memfd(SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL);
    let memory = MemoryFd::check(foreign(sealed), STRICT).unwrap();
    assert_eq!(memory.page_size(), page_size() as u64);
    assert_eq!(memory.size().unwrap(), 0x3000);

    let unsealed = memfd(SealFlags::empty());
    let twin = unsealed.try_clone().unwrap();
    let unsealed = MemoryFd::check(foreign(unsealed), USUAL).unwrap();
    let twin = MemoryFd::check(foreign(twin), USUAL).unwrap();
    assert_eq!(unsealed.identity(), twin.identity());
    assert_ne!(unsealed.identity(), memory.identity());
    ftruncate(&twin, 0x1000).unwrap();
    assert_eq!(unsealed.size().unwrap(), 0x1000);
}

#[test]
fn rejects_what_is_no_memory() {
    let kinds = [("eventfd", eventfd(0, EventfdFlags::CLOEXEC).unwrap())];
    for (what, fd) in oddities().into_iter().chain(odd_sockets()).chain(kinds) {
        for policy in [STRICT, USUAL, LAX] {
            let twin = foreign(fd.try_clone().unwrap());
            let error = MemoryFd::check(twin, policy).expect_err(what);
            assert!(!error.is_environment(), "{what}: {error}");
        }
    }
}

#[test]
fn rejects_memory_that_cannot_be_written() {
    for seal in [SealFlags::WRITE, SealFlags::FUTURE_WRITE] {
        let error = MemoryFd::check(foreign(memfd(seal)), USUAL).unwrap_err();
        assert!(matches!(error, FdError::SealedAgainstWriting), "{error}");
    }
    let memory = memfd(SealFlags::empty());
    for flags in [OFlags::RDONLY, OFlags::WRONLY, OFlags::PATH] {
        let error = MemoryFd::check(foreign(reopen(&memory, flags)), LAX).unwrap_err();
        assert!(matches!(error, FdError::Access), "{error}");
    }
    assert!(MemoryFd::check(foreign(reopen(&memory, OFlags::RDWR)), USUAL).is_ok());
}

#[test]
fn insists_on_the_size_seal_if_told_to() {
    for seals in [SealFlags::empty(), SealFlags::GROW | SealFlags::SEAL] {
        let error = MemoryFd::check(foreign(memfd(seals)), STRICT).unwrap_err();
        assert!(
            matches!(error, FdError::NotSealedAgainstShrinking),
            "{error}"
        );
    }
}

#[test]
fn accepts_files_of_other_file_systems_only_by_policy() {
    // Not tmpfs, unless the tests run from one; there it proves less.
    let exe = std::env::current_exe().unwrap();
    let path = exe.with_file_name(format!("vhost-guest-memory-{}", std::process::id()));
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .unwrap();
    std::fs::remove_file(&path).unwrap();
    file.set_len(0x2000).unwrap();
    if rustix::fs::fcntl_get_seals(&file).is_err() {
        let twin = foreign(file.try_clone().unwrap());
        assert!(matches!(
            MemoryFd::check(twin, USUAL),
            Err(FdError::Kind(_))
        ));
    }
    let memory = MemoryFd::check(foreign(file), LAX).unwrap();
    assert_eq!(memory.size().unwrap(), 0x2000);
}

#[test]
fn knows_the_page_size_of_huge_memory() {
    let flags = MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB | MemfdFlags::CLOEXEC;
    let Ok(huge) = memfd_create("huge", flags) else {
        return; // a kernel without hugetlbfs
    };
    let memory = MemoryFd::check(foreign(huge), USUAL).unwrap();
    assert_eq!(memory.page_size(), 2 << 20);
}

#[test]
fn accepts_a_channel() {
    let (ours, sent) = UnixStream::pair().unwrap();
    let channel = ChannelSocket::check(foreign(sent)).unwrap();
    rustix::io::write(&channel, b"x").unwrap();
    drop(ours);
}

#[test]
fn rejects_what_is_no_channel() {
    let others = [
        ("memfd", memfd(SealFlags::empty())),
        ("eventfd", eventfd(0, EventfdFlags::CLOEXEC).unwrap()),
    ];
    for (what, fd) in oddities().into_iter().chain(odd_sockets()).chain(others) {
        let error = ChannelSocket::check(foreign(fd)).expect_err(what);
        assert!(
            matches!(error, FdError::Kind(_) | FdError::Access),
            "{what}: {error}"
        );
    }
}

#[test]
fn rejects_channels_to_nowhere_and_to_services() {
    let address = abstract_address("service");
    let listener = UnixListener::bind_addr(&address).unwrap();
    let client = UnixStream::connect_addr(&address).unwrap();
    let (accepted, _) = listener.accept().unwrap();

    let error = ChannelSocket::check(foreign(client)).unwrap_err();
    assert!(matches!(error, FdError::NamedPeer), "{error}");
    // The service's own end: its peer is nobody in particular.
    assert!(ChannelSocket::check(foreign(accepted)).is_ok());
    let error = ChannelSocket::check(foreign(listener)).unwrap_err();
    assert!(matches!(error, FdError::NotConnected), "{error}");

    let flags = SocketFlags::CLOEXEC;
    let lonely = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None);
    let error = ChannelSocket::check(foreign(lonely.unwrap())).unwrap_err();
    assert!(matches!(error, FdError::NotConnected), "{error}");
}

#[test]
fn rejects_a_peer_with_a_name_of_full_length() {
    // 108 bytes and no final zero: legal, and longer than parsers expect.
    let directory = std::env::temp_dir().join(format!("vhost-guest-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let prefix = directory.to_str().unwrap();
    let path = format!("{prefix}/{}", "n".repeat(107 - prefix.len()));
    assert_eq!(path.len(), 108);
    let address = SocketAddrUnix::new(path).unwrap();
    let stream = || {
        socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )
    };
    let (listener, client) = (stream().unwrap(), stream().unwrap());
    bind(&listener, &address).unwrap();
    listen(&listener, 1).unwrap();
    connect(&client, &address).unwrap();
    std::fs::remove_dir_all(&directory).unwrap();
    let error = ChannelSocket::check(foreign(client)).unwrap_err();
    assert!(matches!(error, FdError::NamedPeer), "{error}");
    drop(listener);
}
