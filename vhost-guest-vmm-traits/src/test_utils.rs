// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Test doubles that record calls and fail on demand.
//!
//! ```
//! use std::os::fd::AsFd;
//!
//! use vhost_guest_vmm_traits::test_utils::{Call, TestVmm};
//! use vhost_guest_vmm_traits::IoEventFdRegistrar;
//!
//! let vmm = TestVmm::new();
//! let file = std::fs::File::open("/dev/null").unwrap();
//! vmm.register(file.as_fd(), 0x1000).unwrap();
//! assert!(matches!(vmm.calls()[..], [Call::Register { address: 0x1000, .. }]));
//!
//! vmm.fail_nth(0, std::io::ErrorKind::OutOfMemory);
//! assert!(vmm.register(file.as_fd(), 0x2000).is_err());
//! ```

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::{
    Arming, DeviceNotifier, InterruptManager, IoEventFdRegistrar, MsiMessage, RangeId,
    SharedMemoryMapper, SourceId, ThreadHook,
};

/// One recorded call. Descriptors are recorded by number, for comparison only.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the fields are the parameters of the trait methods
pub enum Call {
    CreateSource {
        source: SourceId,
    },
    DestroySource {
        source: SourceId,
    },
    Arm {
        source: SourceId,
        eventfd: RawFd,
        message: MsiMessage,
    },
    Disarm {
        source: SourceId,
        eventfd: RawFd,
    },
    Register {
        eventfd: RawFd,
        address: u64,
    },
    Unregister {
        eventfd: RawFd,
        address: u64,
    },
    Open {
        range: RangeId,
        fd_offset: u64,
        length: u64,
    },
    Attach {
        range: RangeId,
        window_offset: u64,
    },
    Detach {
        range: RangeId,
    },
    Close {
        range: RangeId,
    },
    Place {
        guest_address: Option<u64>,
    },
    NeedsReset,
    Dead,
    ThreadStarted {
        name: String,
    },
}

/// A range of a file that a [`TestVmm`] has opened.
#[derive(Debug)]
struct OpenRange {
    /// A duplicate of the file.
    fd: OwnedFd,
    fd_offset: u64,
    length: u64,
    /// Where it is in the window, if it is attached.
    window_offset: Option<u64>,
}

#[derive(Debug, Default)]
struct State {
    calls: Vec<Call>,
    /// Which of the next calls fail, and how.
    failure: Option<(Range<usize>, io::ErrorKind)>,
    next_source: u32,
    sources: BTreeMap<SourceId, Option<(OwnedFd, MsiMessage)>>,
    /// The eventfds that are armed, as the kernel tells them apart.
    identities: BTreeMap<SourceId, Option<u64>>,
    doorbells: BTreeMap<u64, OwnedFd>,
    next_range: u32,
    ranges: BTreeMap<RangeId, OpenRange>,
    placed: Option<u64>,
}

impl State {
    /// Counts a fallible call; some fail if so ordered.
    fn step(&mut self) -> io::Result<()> {
        let Some((calls, kind)) = &mut self.failure else {
            return Ok(());
        };
        let outcome = match calls.start {
            0 => Err((*kind).into()),
            _ => Ok(()),
        };
        *calls = calls.start.saturating_sub(1)..calls.end.saturating_sub(1);
        if calls.end == 0 {
            self.failure = None;
        }
        outcome
    }
}

/// A VMM that exists on paper: it implements every trait, keeps books, checks
/// the callers' side of the contracts, and fails at the n-th call on demand.
///
/// A breach of contract by the device (arming an armed source, mapping over a
/// mapping) is a failed assertion.
#[derive(Debug, Default)]
pub struct TestVmm {
    state: Mutex<State>,
}

impl TestVmm {
    /// A VMM with nothing registered.
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the n-th fallible call from now on fail (0 is the next one), once.
    pub fn fail_nth(&self, n: usize, kind: io::ErrorKind) {
        self.fail_calls(n..n + 1, kind);
    }

    /// Makes several fallible calls fail, of those from now on (0 is the next
    /// one).
    pub fn fail_calls(&self, calls: Range<usize>, kind: io::ErrorKind) {
        self.state().failure = Some((calls, kind));
    }

    /// Takes back a [`fail_nth`](Self::fail_nth) that has not come true.
    /// Tells whether there was one.
    pub fn clear_failure(&self) -> bool {
        self.state().failure.take().is_some()
    }

    /// All calls so far.
    pub fn calls(&self) -> Vec<Call> {
        self.state().calls.clone()
    }

    /// All calls since the last [`take_calls`](Self::take_calls).
    pub fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.state().calls)
    }

    /// Addresses of the registered doorbells, ascending.
    pub fn doorbells(&self) -> Vec<u64> {
        self.state().doorbells.keys().copied().collect()
    }

    /// A duplicate of the eventfd registered at `address`.
    pub fn doorbell(&self, address: u64) -> Option<OwnedFd> {
        let state = self.state();
        state
            .doorbells
            .get(&address)
            .and_then(|fd| fd.try_clone().ok())
    }

    /// Sources that are armed, with the messages that they raise.
    pub fn armed(&self) -> Vec<(SourceId, MsiMessage)> {
        let state = self.state();
        let armed = state.sources.iter();
        armed
            .filter_map(|(id, armed)| armed.as_ref().map(|(_, message)| (*id, *message)))
            .collect()
    }

    /// Duplicates of the eventfds that are armed with `message`.
    pub fn armed_with(&self, message: MsiMessage) -> Vec<OwnedFd> {
        let state = self.state();
        let armed = state.sources.values().flatten();
        armed
            .filter(|(_, m)| *m == message)
            .filter_map(|(fd, _)| fd.try_clone().ok())
            .collect()
    }

    /// The number of sources that exist.
    pub fn source_count(&self) -> usize {
        self.state().sources.len()
    }

    /// Attached ranges as (window offset, file offset, length), ascending.
    pub fn mappings(&self) -> Vec<(u64, u64, u64)> {
        let state = self.state();
        let ranges = state.ranges.values();
        let attached = ranges.filter_map(|r| Some((r.window_offset?, r.fd_offset, r.length)));
        let mut attached: Vec<_> = attached.collect();
        attached.sort_unstable();
        attached
    }

    /// The number of ranges that are open, attached or not.
    pub fn open_ranges(&self) -> usize {
        self.state().ranges.len()
    }

    /// Reads from the file that is attached at `window_offset`, as the guest
    /// would. `None` where nothing is attached.
    pub fn read_window(&self, window_offset: u64, data: &mut [u8]) -> Option<()> {
        let (file, offset) = self.at(window_offset, data.len())?;
        file.read_exact_at(data, offset).ok()
    }

    /// Writes to the file that is attached at `window_offset`, as the guest
    /// would. `None` where nothing is attached.
    pub fn write_window(&self, window_offset: u64, data: &[u8]) -> Option<()> {
        let (file, offset) = self.at(window_offset, data.len())?;
        file.write_all_at(data, offset).ok()
    }

    /// The file that is attached at `window_offset`, and the offset in it.
    fn at(&self, window_offset: u64, length: usize) -> Option<(File, u64)> {
        let state = self.state();
        let within = |range: &OpenRange| {
            let within = window_offset.checked_sub(range.window_offset?)?;
            let end = within.checked_add(length as u64)?;
            (end <= range.length).then_some(within)
        };
        let mut found = state.ranges.values();
        let (range, within) = found.find_map(|range| Some((range, within(range)?)))?;
        Some((range.fd.try_clone().ok()?.into(), range.fd_offset + within))
    }

    /// Where the window is.
    pub fn placed(&self) -> Option<u64> {
        self.state().placed
    }
}

/// The kernel's number of an eventfd, the same for all its duplicates.
fn eventfd_identity(fd: BorrowedFd<'_>) -> Option<u64> {
    let path = format!("/proc/self/fdinfo/{}", fd.as_raw_fd());
    let text = std::fs::read_to_string(path).ok()?;
    let id = text
        .lines()
        .find_map(|line| line.strip_prefix("eventfd-id:"))?;
    id.trim().parse().ok()
}

impl InterruptManager for TestVmm {
    fn create_source(&self) -> io::Result<SourceId> {
        let mut state = self.state();
        state.step()?;
        let source = SourceId(state.next_source);
        state.next_source += 1;
        state.sources.insert(source, None);
        state.calls.push(Call::CreateSource { source });
        Ok(source)
    }

    fn arm(&self, sources: &[Arming<'_>]) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        for arming in sources {
            let Arming {
                source,
                eventfd,
                message,
            } = *arming;
            let identity = eventfd_identity(eventfd);
            if identity.is_some() && state.identities.values().any(|other| *other == identity) {
                // As KVM does.
                return Err(io::ErrorKind::ResourceBusy.into());
            }
            state.identities.insert(source, identity);
            let held = eventfd.try_clone_to_owned()?;
            let armed = state.sources.get_mut(&source).expect("arm of no source");
            assert!(armed.is_none(), "arm of {source:?}, which is armed");
            *armed = Some((held, message));
            let eventfd = eventfd.as_raw_fd();
            state.calls.push(Call::Arm {
                source,
                eventfd,
                message,
            });
        }
        Ok(())
    }

    fn disarm(&self, sources: &[Arming<'_>]) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        for Arming {
            source, eventfd, ..
        } in sources
        {
            let armed = state.sources.get_mut(source).expect("disarm of no source");
            if armed.take().is_some() {
                state.identities.remove(source);
                let (source, eventfd) = (*source, eventfd.as_raw_fd());
                state.calls.push(Call::Disarm { source, eventfd });
            }
        }
        Ok(())
    }

    fn destroy_source(&self, source: SourceId) {
        let mut state = self.state();
        let armed = state
            .sources
            .remove(&source)
            .expect("destroys a source that it has");
        assert!(armed.is_none(), "destroyed {source:?} while it is armed");
        state.calls.push(Call::DestroySource { source });
    }
}

impl IoEventFdRegistrar for TestVmm {
    fn register(&self, eventfd: BorrowedFd<'_>, address: u64) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        if state.doorbells.contains_key(&address) {
            return Err(io::Error::from(io::ErrorKind::AlreadyExists));
        }
        state
            .doorbells
            .insert(address, eventfd.try_clone_to_owned()?);
        let eventfd = eventfd.as_raw_fd();
        state.calls.push(Call::Register { eventfd, address });
        Ok(())
    }

    fn unregister(&self, eventfd: BorrowedFd<'_>, address: u64) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        if state.doorbells.remove(&address).is_none() {
            return Err(io::Error::from(io::ErrorKind::NotFound));
        }
        let eventfd = eventfd.as_raw_fd();
        state.calls.push(Call::Unregister { eventfd, address });
        Ok(())
    }
}

/// Where the last page of a file ends; what is no file has no end.
fn end_of_pages(fd: &OwnedFd) -> io::Result<u64> {
    let metadata = File::from(fd.try_clone()?).metadata()?;
    match metadata.is_file() {
        true => Ok(metadata.len().next_multiple_of(4096)),
        false => Ok(u64::MAX),
    }
}

impl SharedMemoryMapper for TestVmm {
    fn open(&self, fd: BorrowedFd<'_>, fd_offset: u64, length: u64) -> io::Result<RangeId> {
        let mut state = self.state();
        state.step()?;
        assert!(
            length > 0 && (fd_offset | length).is_multiple_of(4096),
            "open of parts of pages"
        );
        let fd = fd.try_clone_to_owned()?;
        let end = fd_offset.checked_add(length);
        let behind = end_of_pages(&fd)?;
        assert!(
            end.is_some_and(|end| end <= behind),
            "open of pages behind the end of a file"
        );
        let range = RangeId(state.next_range);
        state.next_range += 1;
        let opened = OpenRange {
            fd,
            fd_offset,
            length,
            window_offset: None,
        };
        state.ranges.insert(range, opened);
        state.calls.push(Call::Open {
            range,
            fd_offset,
            length,
        });
        Ok(range)
    }

    fn attach(&self, range: RangeId, window_offset: u64) -> io::Result<()> {
        let mut state = self.state();
        let opened = state.ranges.get(&range);
        let opened = opened.unwrap_or_else(|| panic!("attach of {range:?}, which is not open"));
        assert_eq!(opened.window_offset, None, "attach of what is attached");
        assert!(
            window_offset.is_multiple_of(4096),
            "attach at a part of a page"
        );
        let end = window_offset.checked_add(opened.length);
        let end = end.expect("a range within the window");
        let meets = |other: &OpenRange| {
            let at = other.window_offset;
            at.is_some_and(|at| at < end && window_offset < at + other.length)
        };
        assert!(
            !state.ranges.values().any(meets),
            "attach at {window_offset:#x} over a range"
        );
        state.step()?;
        let opened = state.ranges.get_mut(&range).expect("it was there");
        opened.window_offset = Some(window_offset);
        state.calls.push(Call::Attach {
            range,
            window_offset,
        });
        Ok(())
    }

    fn detach(&self, range: RangeId) -> io::Result<()> {
        let mut state = self.state();
        let opened = state.ranges.get(&range);
        let attached = opened.is_some_and(|range| range.window_offset.is_some());
        assert!(attached, "detach of {range:?}, which is not attached");
        state.step()?;
        let opened = state.ranges.get_mut(&range).expect("it was there");
        opened.window_offset = None;
        state.calls.push(Call::Detach { range });
        Ok(())
    }

    fn close(&self, range: RangeId) {
        let mut state = self.state();
        let closed = state.ranges.remove(&range);
        let closed = closed.unwrap_or_else(|| panic!("close of {range:?}, which is not open"));
        assert_eq!(closed.window_offset, None, "close of what is attached");
        state.calls.push(Call::Close { range });
    }

    fn place(&self, guest_address: Option<u64>) -> io::Result<()> {
        let mut state = self.state();
        // A failure leaves it where it was: the worst that may happen.
        state.step()?;
        state.placed = guest_address;
        state.calls.push(Call::Place { guest_address });
        Ok(())
    }
}

impl DeviceNotifier for TestVmm {
    fn needs_reset(&self) {
        self.state().calls.push(Call::NeedsReset);
    }

    fn dead(&self, _: &io::Error) {
        self.state().calls.push(Call::Dead);
    }
}

impl ThreadHook for TestVmm {
    fn thread_started(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        let name = name.to_owned();
        state.calls.push(Call::ThreadStarted { name });
        Ok(())
    }
}

impl Drop for TestVmm {
    fn drop(&mut self) {
        // Who breaks a contract panics, in a thread that perhaps nobody asks.
        assert!(
            !self.state.is_poisoned() || std::thread::panicking(),
            "a contract was broken in some thread"
        );
    }
}

#[cfg(test)]
mod tests;
