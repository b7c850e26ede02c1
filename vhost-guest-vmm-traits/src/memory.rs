// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! File memory that appears in a BAR.

use std::io;
use std::os::fd::{BorrowedFd, RawFd};

/// Names a range of a file that a [`SharedMemoryMapper`] has opened.
///
/// The number is the implementer's own choice: an index, a memory slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RangeId(pub u32);

/// Shows ranges of files in the *window*, the device's shared memory BAR.
///
/// One object serves one window. The files are a frontend's, and whoever has a
/// file can make others wait for it: a `mmap` or `munmap` waits for the locks
/// of the file, of which its owner can hold some for as long as it likes. A
/// vCPU must not wait for that, nor must an unplug. So to lend memory is two
/// steps, and to take it back is two:
///
/// ```text
///              open                    attach
///   (none) ────────────▶ opened ─────────────────────▶ attached
///      ▲   maps the file  │  ▲    the VMM's slots only    │
///      └──────────────────┘  └────────────────────────────┘
///           close                      detach
/// ```
///
/// | method | waits for the file | called |
/// |---|---|---|
/// | [`open`](Self::open), [`close`](Self::close) | for as long as its owner likes | on threads of the device that nobody waits for, several at a time, in parallel with everything else |
/// | [`attach`](Self::attach), [`detach`](Self::detach), [`place`](Self::place) | never | on any thread, a vCPU's too; one at a time |
///
/// A thread that is stuck in `open` must hold no lock that another method
/// takes.
///
/// # Promises
///
/// The device relies on these; without them a guest or a frontend has what
/// it must not have:
///
/// - **Holes.** Where nothing is attached, the window never shows anything of
///   the VMM's: it is a hole (an MMIO exit, answered by the device), or
///   inaccessible, or it shows memory that has been put there for this purpose.
///   No `mmap` of the VMM's can ever fill it.
/// - **Mappings** are shared, readable and writable.
/// - **Detach** means detached: for vCPUs and for devices.
/// - **DMA.** Whether other devices of the VM (a passthrough NIC or NVMe) may
///   reach the window is the VMM's choice. If they may, they do what vCPUs do:
///   [`attach`](Self::attach) lets them, at the guest address,
///   [`detach`](Self::detach) ends it before it returns, and
///   [`place`](Self::place) moves it. A device that is plugged later gets what is
///   attached by then.
///
/// # Advice
///
/// A VMM that cannot follow it is slower, or larger, but safe:
///
/// - A memory slot for each range. One slot for an arena would have to be
///   remapped in place, which waits for files.
/// - The mapping of [`open`](Self::open) begins at a host address that is
///   congruent to `fd_offset` modulo the page size hoped for (2 MiB, 1 GiB).
///   The device chooses window offsets that are congruent to file offsets modulo
///   at least 2 MiB (the file's page size if that is more); the VMM aligns the
///   window. So huge pages are used all the way.
/// - `MAP_NORESERVE`; kept out of core dumps and forks (`MADV_DONTDUMP`,
///   `MADV_DONTFORK`). No `mlockall(MCL_FUTURE)`: it would fill a frontend's
///   sparse file with pages charged to this VMM.
pub trait SharedMemoryMapper: Send + Sync {
    /// Maps `length` bytes of the file `fd`, from `fd_offset` on, into the
    /// VMM. The guest does not see it yet.
    ///
    /// `fd_offset` and `length` are multiples of the host's page size (of the
    /// file's page size for hugetlbfs), and `length` is not 0. The file may end
    /// within the last page of the range, and did not end before when it was
    /// looked at.
    ///
    /// This is the place for all that looks at the file or its pages. In a VMM
    /// whose devices are jailed, the process that has the memory slots maps it,
    /// on a thread that its other work does not wait for.
    ///
    /// Cost: a system call or three.
    ///
    /// # Errors
    ///
    /// Nothing is opened then. `PermissionDenied` if the file cannot be mapped
    /// writable, which is the frontend's fault; `OutOfMemory` or any other error
    /// if the environment has no room.
    fn open(&self, fd: BorrowedFd<'_>, fd_offset: u64, length: u64) -> io::Result<RangeId>;

    /// Shows an opened range in the window, its first byte at `window_offset`.
    ///
    /// The range is not attached yet. `window_offset` is a multiple of the page
    /// size, as for [`open`](Self::open); the range lies within the window, and
    /// nothing is attached there.
    ///
    /// On `Ok` the guest reaches it where the window is now, if it is anywhere.
    ///
    /// Touches the VMM's slots only (and its IOMMU's tables, if devices may reach
    /// the window): it waits for no file. A `VFIO_IOMMU_MAP_DMA` has to fault all
    /// pages in and pin them, for which it waits if the frontend is just
    /// punching holes; with iommufd, pin in [`open`](Self::open), into an address
    /// space of the range's own, and `IOMMU_IOAS_COPY` here.
    ///
    /// Cost: a system call, more in a VMM whose devices are jailed.
    ///
    /// # Errors
    ///
    /// The range is opened as before, and not attached. Any error means that the
    /// environment has no room (slots, locked memory): the frontend loses its
    /// memory, and the device works on.
    fn attach(&self, range: RangeId, window_offset: u64) -> io::Result<()>;

    /// Takes an attached range out of the window.
    ///
    /// Returns only when the guest, and any device of its, can no longer touch
    /// the memory, whatever the guest and the frontend do. Touches slots and
    /// IOMMU only: it waits for no file. The mapping itself stays until
    /// [`close`](Self::close).
    ///
    /// # Errors
    ///
    /// Any error means that the guest may still have the memory. The device
    /// then reports itself dead, tries again when it is dropped, and does not
    /// close the range unless that works.
    fn detach(&self, range: RangeId) -> io::Result<()>;

    /// Unmaps a range that is not attached: it has been detached, or never was
    /// attached. The id may be used again.
    fn close(&self, range: RangeId);

    /// Places the window at a guest physical address, or takes it out of the
    /// guest's address space (`None`) when the function decodes no memory.
    ///
    /// Attached ranges stay attached and move with it. On `Ok` the guest, and
    /// any device of its, can reach them at the new place and nowhere else. Called
    /// rarely: when firmware or the guest's kernel assigns BARs.
    ///
    /// # Errors
    ///
    /// `Some`: the window could not be placed. Where it was, or half-way, does
    /// not matter: the device places it nowhere before it goes on, and works
    /// without it until the guest moves it again.
    ///
    /// `None`: the guest may still reach what is attached. The device then
    /// reports itself dead. All that can be taken from the guest is.
    fn place(&self, guest_address: Option<u64>) -> io::Result<()>;

    /// Descriptors of this object that a process jail must not close.
    fn fds_to_keep(&self) -> Vec<RawFd> {
        Vec::new()
    }
}
