// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a received descriptor is, asked without giving it a chance to block.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{
    fcntl_get_seals, fcntl_getfl, fstatfs, open, readlinkat, statx, AtFlags, FileType, Mode,
    OFlags, SealFlags, Statx, StatxFlags,
};
use rustix::io::Errno;
use rustix::net::sockopt::{socket_domain, socket_type};
use rustix::net::{getpeername, AddressFamily, SocketType};
use rustix::param::page_size;
use thiserror::Error;
use vhost_guest_msg::Transfer;

use super::ForeignFd;
use crate::host;

/// `PROC_SUPER_MAGIC` of `linux/magic.h`.
const PROC_MAGIC: u32 = 0x9fa0;
/// `HUGETLBFS_MAGIC` of `linux/magic.h`.
const HUGETLBFS_MAGIC: u32 = 0x9584_58f6;
/// The size of `sa_family_t`.
const FAMILY_SIZE: u32 = 2;

/// Why a descriptor is not what its message needs.
#[derive(Debug, Error)]
pub(crate) enum FdError {
    /// It is something else altogether.
    #[error("the frontend sent a descriptor that is not {0}")]
    Kind(&'static str),
    /// Its open file is a path only, or not open for reading and writing.
    #[error("the frontend sent a descriptor that is not open for reading and writing")]
    Access,
    /// The pipe is open for the other direction only.
    #[error("the frontend sent the wrong end of a pipe")]
    Direction,
    /// `F_SEAL_WRITE` or `F_SEAL_FUTURE_WRITE` forbids what memory is for.
    #[error("the frontend sent a memory file that is sealed against writing")]
    SealedAgainstWriting,
    /// The VMM wants memory that cannot shrink under the guest's feet.
    #[error("the frontend sent a memory file without F_SEAL_SHRINK")]
    NotSealedAgainstShrinking,
    /// The socket is not connected, or listens.
    #[error("the frontend sent a socket that is not connected")]
    NotConnected,
    /// The other end of the socket has a name: the frontend connected it to
    /// some service, and would have this VMM speak to it in its stead.
    #[error("the frontend sent a socket that is connected to a named one")]
    NamedPeer,
    /// The kernel would not tell.
    #[error("a descriptor could not be examined: {0}")]
    Environment(io::Error),
}

impl FdError {
    /// Tells whether this is the VMM's environment's fault, not the frontend's.
    pub(crate) fn is_environment(&self) -> bool {
        matches!(self, Self::Environment(_))
    }
}

/// The `fcntl(F_GETFL)` flags of an open file; `O_PATH` ones are refused,
/// since most calls fail on them in ways of their own.
fn open_flags(fd: &ForeignFd) -> Result<OFlags, FdError> {
    let flags = fcntl_getfl(fd).map_err(|e| FdError::Environment(e.into()))?;
    if flags.contains(OFlags::PATH) {
        return Err(FdError::Access);
    }
    Ok(flags)
}

/// `statx` that asks no server: a FUSE file answers from the kernel's cache.
fn attributes(fd: BorrowedFd<'_>) -> Result<Statx, Errno> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let mask = StatxFlags::TYPE | StatxFlags::INO | StatxFlags::SIZE;
    statx(fd, c"", flags, mask)
}

fn file_type(attributes: &Statx) -> FileType {
    FileType::from_raw_mode(attributes.stx_mode.into())
}

/// Tells eventfds from other descriptors.
///
/// Made when the device is: it holds the VMM's `/proc` open, so that a later
/// `chroot` or Landlock rule set makes no difference.
#[derive(Debug)]
pub(crate) struct FdKinds {
    proc: OwnedFd,
}

impl FdKinds {
    /// # Errors
    ///
    /// There is no `/proc`, or no descriptor left for it.
    pub(crate) fn new() -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let proc = host::ask(|| open(c"/proc", flags, Mode::empty()))?;
        if fstatfs(&proc)?.f_type as u32 != PROC_MAGIC {
            return Err(io::Error::other("/proc is not a proc file system"));
        }
        Ok(Self { proc })
    }

    /// What has to stay open for it.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.proc.as_fd()
    }

    /// What the kernel calls an open file of ours.
    fn name(&self, fd: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
        let path = format!("thread-self/fd/{}", fd.as_raw_fd());
        Ok(readlinkat(&self.proc, path, Vec::new())?.into_bytes())
    }
}

/// An eventfd that a frontend sent. Clones share the descriptor, and are equal.
#[derive(Clone)]
pub(crate) struct EventFd {
    fd: Arc<ForeignFd>,
}

impl EventFd {
    /// Makes sure that `fd` is an eventfd.
    ///
    /// # Errors
    ///
    /// It is not, or `/proc` could not be asked.
    pub(crate) fn check(fd: ForeignFd, kinds: &FdKinds) -> Result<Self, FdError> {
        const WHAT: FdError = FdError::Kind("an eventfd");
        open_flags(&fd)?;
        // Anonymous files share an inode or look as if they did; the name is
        // what differs. The kernel makes it up without asking a file system,
        // and no path of a file starts without a slash.
        let name = kinds.name(fd.as_fd()).map_err(FdError::Environment)?;
        if name != b"anon_inode:[eventfd]" {
            return Err(WHAT);
        }
        Ok(Self { fd: Arc::new(fd) })
    }

    /// How many clones there are.
    #[cfg(test)]
    pub(crate) fn holders(&self) -> usize {
        Arc::strong_count(&self.fd)
    }
}

impl PartialEq for EventFd {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.fd, &other.fd)
    }
}

impl Eq for EventFd {}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl fmt::Debug for EventFd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("EventFd")
            .field(&self.as_fd().as_raw_fd())
            .finish()
    }
}

/// Which files a frontend may share as memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct MemoryPolicy {
    /// Insist on `F_SEAL_SHRINK`. Without it a frontend can truncate its
    /// memory, and a vCPU of this VM stumbles over it; the device then wants
    /// to hear of the fault, and watches the file besides. In a jail without
    /// `/proc` nothing can be watched, and a file that is not sealed is refused
    /// in any case: with this it is the frontend's fault.
    ///
    /// The device never adds the seal itself: `F_ADD_SEALS` takes the inode's
    /// lock, which a frontend holds for as long as it likes by writing to the
    /// file from memory that it does not let the kernel read.
    pub sealed_size: bool,
    /// Accept regular files of any file system, not only memfd, tmpfs and
    /// hugetlbfs. Mapping, truncating and closing them is in the hands of
    /// their file system, which for FUSE means: of a peer.
    pub any_file_system: bool,
}

/// Names a file for as long as some descriptor keeps it alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct FileIdentity {
    device: (u32, u32),
    inode: u64,
}

impl FileIdentity {
    /// Which file a descriptor of the device's own is.
    pub(crate) fn of(fd: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self::from_attributes(&attributes(fd)?))
    }

    fn from_attributes(attributes: &Statx) -> Self {
        Self {
            device: (attributes.stx_dev_major, attributes.stx_dev_minor),
            inode: attributes.stx_ino,
        }
    }

    /// A file that does not exist.
    #[cfg(test)]
    pub(crate) fn numbered(inode: u64) -> Self {
        let device = (0, 0);
        Self { device, inode }
    }
}

/// A file of memory that a frontend sent, readable and writable.
#[derive(Debug)]
pub(crate) struct MemoryFd {
    fd: ForeignFd,
    identity: FileIdentity,
    page_size: u64,
    keeps_its_size: bool,
}

impl MemoryFd {
    /// Makes sure that `fd` is a file of the kind that `policy` allows, and can
    /// be mapped for writing.
    ///
    /// # Errors
    ///
    /// It is not.
    pub(crate) fn check(mut fd: ForeignFd, policy: MemoryPolicy) -> Result<Self, FdError> {
        const WHAT: FdError = FdError::Kind("a memory file (memfd, tmpfs or hugetlbfs)");
        if open_flags(&fd)? & OFlags::ACCMODE != OFlags::RDWR {
            return Err(FdError::Access);
        }
        // Only memfd, tmpfs and hugetlbfs have seals, if only F_SEAL_SEAL.
        let seals = match fcntl_get_seals(&fd) {
            Ok(seals) => Some(seals),
            Err(_) if policy.any_file_system => None,
            Err(_) => return Err(WHAT),
        };
        if let Some(seals) = seals {
            fd.is_memory();
            if seals.intersects(SealFlags::WRITE | SealFlags::FUTURE_WRITE) {
                return Err(FdError::SealedAgainstWriting);
            }
        }
        let keeps_its_size = seals.is_some_and(|s| s.contains(SealFlags::SHRINK));
        if policy.sealed_size && !keeps_its_size {
            return Err(FdError::NotSealedAgainstShrinking);
        }
        let attributes = attributes(fd.as_fd()).map_err(|_| WHAT)?;
        if file_type(&attributes) != FileType::RegularFile {
            return Err(WHAT);
        }
        // A file with seals has no file system that could delay this one.
        // st_blksize would not do: tmpfs with huge pages reports theirs, and
        // maps small ones all the same.
        let page_size = match seals.map(|_| fstatfs(&fd)) {
            Some(Ok(fs)) if fs.f_type as u32 == HUGETLBFS_MAGIC => fs.f_bsize as u64,
            Some(Err(e)) => return Err(FdError::Environment(e.into())),
            Some(Ok(_)) | None => page_size() as u64,
        };
        Ok(Self {
            fd,
            identity: FileIdentity::from_attributes(&attributes),
            page_size: page_size.max(1),
            keeps_its_size,
        })
    }

    /// Which file it is.
    pub(crate) fn identity(&self) -> FileIdentity {
        self.identity
    }

    /// The granularity of its mappings: the host's page size, or hugetlbfs's.
    pub(crate) fn page_size(&self) -> u64 {
        self.page_size
    }

    /// Whether it is sealed against shrinking.
    pub(crate) fn keeps_its_size(&self) -> bool {
        self.keeps_its_size
    }

    /// Its size at this moment; the frontend may change it in the next.
    ///
    /// # Errors
    ///
    /// The kernel would not tell.
    pub(crate) fn size(&self) -> io::Result<u64> {
        Ok(attributes(self.as_fd())?.stx_size)
    }

    /// Where the page ends that its last byte is on, at this moment.
    ///
    /// # Errors
    ///
    /// The kernel would not tell.
    pub(crate) fn pages_end(&self) -> io::Result<u64> {
        let size = self.size()?;
        Ok(size
            .checked_next_multiple_of(self.page_size)
            .unwrap_or(size))
    }
}

impl AsFd for MemoryFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A socket that a frontend made for the backend's requests.
#[derive(Debug)]
pub(crate) struct ChannelSocket {
    fd: ForeignFd,
}

impl ChannelSocket {
    /// Makes sure that `fd` is a connected AF_UNIX stream socket whose other
    /// end is anonymous, as `socketpair` makes it.
    ///
    /// # Errors
    ///
    /// It is not.
    pub(crate) fn check(fd: ForeignFd) -> Result<Self, FdError> {
        const WHAT: FdError = FdError::Kind("an AF_UNIX stream socket");
        open_flags(&fd)?;
        if socket_domain(&fd).map_err(|_| WHAT)? != AddressFamily::UNIX
            || socket_type(&fd).map_err(|_| WHAT)? != SocketType::STREAM
        {
            return Err(WHAT);
        }
        // One that listens has no peer either.
        let peer = getpeername(&fd).map_err(|_| FdError::NotConnected)?;
        // An anonymous address is its family and nothing more. Its length says
        // so; parsing the name of another could only go wrong.
        let anonymous = peer.is_none_or(|address| address.addr_len() <= FAMILY_SIZE);
        if !anonymous {
            return Err(FdError::NamedPeer);
        }
        Ok(Self { fd })
    }
}

impl From<ChannelSocket> for ForeignFd {
    fn from(socket: ChannelSocket) -> Self {
        socket.fd
    }
}

impl AsFd for ChannelSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A frontend's channel for device state, open in the direction of the
/// transfer.
#[derive(Debug)]
pub(crate) enum StateFd {
    /// An end of a pipe.
    Pipe(ForeignFd),
    /// An end of a socket pair.
    Socket(ChannelSocket),
}

impl StateFd {
    /// Makes sure that `fd` is such a channel.
    ///
    /// # Errors
    ///
    /// It is not: everything else can block in more ways than a pipe.
    pub(crate) fn check(fd: ForeignFd, direction: Transfer) -> Result<Self, FdError> {
        const WHAT: FdError = FdError::Kind("a pipe or an AF_UNIX stream socket");
        let mode = open_flags(&fd)? & OFlags::ACCMODE;
        let attributes = attributes(fd.as_fd()).map_err(|_| WHAT)?;
        match file_type(&attributes) {
            FileType::Fifo => {
                let useless = match direction {
                    Transfer::Save => OFlags::RDONLY,
                    Transfer::Load => OFlags::WRONLY,
                };
                if mode == useless {
                    return Err(FdError::Direction);
                }
                Ok(Self::Pipe(fd))
            }
            FileType::Socket => ChannelSocket::check(fd).map(Self::Socket),
            _ => Err(WHAT),
        }
    }
}

impl AsFd for StateFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Pipe(fd) => fd.as_fd(),
            Self::Socket(socket) => socket.as_fd(),
        }
    }
}

#[cfg(test)]
mod tests;
