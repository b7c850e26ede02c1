// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a VMM can choose, and which choices make no device.

use std::ops::RangeInclusive;
use std::time::Duration;

use rustix::process::{getrlimit, Resource};

use crate::connection::MAX_FDS;
use crate::error::BuildError;
use crate::fd::{MemoryPolicy, OVERLOAD};
use crate::guest::queue::{QUEUES, QUEUES_WITH_MIGRATION};

/// Largest number of vrings: their index is 8 bits wide in some messages.
const MAX_VHOST_QUEUES: u16 = 256;
/// Smallest window: 2 MiB stay unused at its start, and something must fit.
const MIN_WINDOW: u64 = 4 << 20;
/// Most memory slots that the device carries, as many as other backends do.
const MEMORY_SLOTS: u16 = 509;
/// Sizes of a message. The specification wants 512 at least; a driver need not
/// have buffers of more than 4 KiB.
const MESSAGE_SIZES: RangeInclusive<u32> = 512..=4096;
/// Sizes of a buffer of device state. What is larger would only make turns
/// longer.
const MIGRATION_MESSAGE_SIZES: RangeInclusive<u32> = 4096..=1 << 20;
/// Descriptors besides those of vrings and memory.
const FIXED_DESCRIPTORS: u64 = 32;
/// Those that a frontend can make wait to be closed: with as many as are taken from
/// it, one more message is.
const WAITING_DESCRIPTORS: u64 = (OVERLOAD + MAX_FDS) as u64;
/// Those that frontends before it may have left behind, by the process's limit: the
/// more, the more of them it takes to keep the next one out.
const LEFT_DESCRIPTORS: RangeInclusive<u64> = 64..=1024;
/// Those for device state: two queues, and four transfers with two each.
const MIGRATION_DESCRIPTORS: u64 = 10;

/// Everything about a device that its VMM chooses.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub queues: u16,
    pub window_size: u64,
    /// The width of the guest's physical addresses.
    pub guest_address_bits: Option<u8>,
    /// The most regions of a frontend's memory.
    pub memory_slots: u16,
    /// The most bytes of a message.
    pub max_message_size: u32,
    pub device_type: u16,
    pub uuid: [u8; 16],
    pub memory_policy: MemoryPolicy,
    pub inflight_limit: u64,
    /// The most bytes of device state in one buffer.
    pub migration: Option<u32>,
    /// How long a guest may keep its frontend waiting.
    pub reply_timeout: Option<Duration>,
    /// How long memory may stay after its frontend is gone.
    pub orphan_timeout: Option<Duration>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            queues: 16,
            window_size: 1 << 32,
            guest_address_bits: None,
            memory_slots: MEMORY_SLOTS,
            max_message_size: *MESSAGE_SIZES.end(),
            device_type: 0,
            uuid: [0; 16],
            memory_policy: MemoryPolicy::default(),
            inflight_limit: 8 << 20,
            migration: None,
            reply_timeout: None,
            orphan_timeout: None,
        }
    }
}

impl Options {
    /// The number of the device's own virtqueues.
    pub(crate) fn virtqueues(&self) -> u16 {
        match self.migration {
            Some(_) => QUEUES_WITH_MIGRATION,
            None => QUEUES,
        }
    }

    /// Whether a device can be like this.
    pub(crate) fn check(&self) -> Result<(), BuildError> {
        if !(1..=MAX_VHOST_QUEUES).contains(&self.queues) {
            return Err(BuildError::Queues(self.queues));
        }
        if !self.window_size.is_power_of_two() || self.window_size < MIN_WINDOW {
            return Err(BuildError::WindowSize(self.window_size));
        }
        self.check_place()?;
        if !(1..=MEMORY_SLOTS).contains(&self.memory_slots) {
            return Err(BuildError::MemorySlots(self.memory_slots));
        }
        if !MESSAGE_SIZES.contains(&self.max_message_size) {
            return Err(BuildError::MessageSize(self.max_message_size));
        }
        if let Some(size) = self.migration {
            if !MIGRATION_MESSAGE_SIZES.contains(&size) {
                return Err(BuildError::MigrationMessageSize(size));
            }
        }
        self.check_descriptors(getrlimit(Resource::Nofile).current)
    }

    /// Refuses a window that the guest has no address for: a multiple of its
    /// size, and not 0.
    fn check_place(&self) -> Result<(), BuildError> {
        let size = self.window_size;
        match self.guest_address_bits {
            Some(bits) if u32::from(bits) <= size.trailing_zeros() => {
                Err(BuildError::WindowPlace { size, bits })
            }
            _ => Ok(()),
        }
    }

    /// Refuses to make a device that its frontends could bring to the limit of
    /// open descriptors: kick, call and err for each vring, one for each memory
    /// slot (half of them at a time in practice), and a few.
    fn check_descriptors(&self, limit: Option<u64>) -> Result<(), BuildError> {
        let queues = self.queues;
        let needed = self.descriptors() + LEFT_DESCRIPTORS.start();
        match limit {
            Some(limit) if limit < needed => Err(BuildError::DescriptorLimit {
                queues,
                needed,
                limit,
            }),
            _ => Ok(()),
        }
    }

    /// Descriptors of a device and one frontend.
    fn descriptors(&self) -> u64 {
        let migration = self.migration.map_or(0, |_| MIGRATION_DESCRIPTORS);
        let held = u64::from(self.memory_slots) + FIXED_DESCRIPTORS + migration;
        3 * u64::from(self.queues) + held + WAITING_DESCRIPTORS
    }

    /// Descriptors that frontends may leave behind unclosed, before no more are
    /// accepted.
    pub(crate) fn left_behind(&self) -> usize {
        self.left_within(getrlimit(Resource::Nofile).current)
    }

    fn left_within(&self, limit: Option<u64>) -> usize {
        let (least, most) = (*LEFT_DESCRIPTORS.start(), *LEFT_DESCRIPTORS.end());
        let room = limit.map_or(most, |limit| limit.saturating_sub(self.descriptors()));
        room.clamp(least, most) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_more_vrings_than_descriptors_and_says_the_figure() {
        let mut options = Options::default();
        options.check_descriptors(Some(1024)).unwrap();
        options.queues = 256;
        options.check_descriptors(None).unwrap();
        let error = options.check_descriptors(Some(1024)).unwrap_err();
        assert!(error.to_string().contains("1690"), "{error}");
        options.migration = Some(4096);
        let error = options.check_descriptors(Some(1699)).unwrap_err();
        assert!(error.to_string().contains("1700"), "{error}");
    }

    #[test]
    fn frontends_may_leave_behind_what_the_process_can_stand() {
        let options = Options::default();
        let cases = [
            (None, 1024),
            (Some(20_000), 1024),
            (Some(1024), 118),
            (Some(970), 64),
        ];
        for (limit, left) in cases {
            assert_eq!(options.left_within(limit), left, "{limit:?}");
        }
    }

    #[test]
    fn refuses_sizes_of_migration_messages_that_help_nobody() {
        let mut options = Options::default();
        options.check().unwrap();
        for (size, right) in [
            (0, false),
            (4095, false),
            (4096, true),
            (1 << 20, true),
            (u32::MAX, false),
        ] {
            options.migration = Some(size);
            assert_eq!(options.check().is_ok(), right, "{size}");
        }
    }

    #[test]
    fn needs_fewer_descriptors_for_fewer_memory_slots() {
        let options = Options {
            memory_slots: 8,
            ..Options::default()
        };
        options
            .check_descriptors(Some(3 * 16 + 8 + 32 + 381))
            .unwrap();
        let error = options.check_descriptors(Some(3 * 16 + 8 + 31 + 381));
        let error = error.unwrap_err().to_string();
        assert!(error.contains("469 descriptors"), "{error}");
    }

    #[test]
    fn refuses_a_window_that_the_guest_can_place_nowhere() {
        let mut options = Options {
            window_size: 64 << 30,
            ..Options::default()
        };
        options.check().unwrap();
        for (bits, right) in [
            (0, false),
            (36, false),
            (37, true),
            (46, true),
            (u8::MAX, true),
        ] {
            options.guest_address_bits = Some(bits);
            assert_eq!(options.check().is_ok(), right, "{bits}");
        }
        options.guest_address_bits = Some(36);
        let error = options.check().unwrap_err().to_string();
        assert!(
            error.contains("0x1000000000") && error.contains("36"),
            "{error}"
        );
        options.window_size = 32 << 30;
        options.check().unwrap();
    }

    #[test]
    fn refuses_what_is_out_of_range() {
        let fails = |change: fn(&mut Options)| {
            let mut options = Options::default();
            change(&mut options);
            options.check().is_err()
        };
        let refused: [fn(&mut Options); 10] = [
            |options| options.queues = 0,
            |options| options.queues = 257,
            |options| options.window_size = 0,
            |options| options.window_size = 2 << 20,
            |options| options.window_size = 3 << 30,
            |options| options.memory_slots = 0,
            |options| options.memory_slots = 510,
            |options| options.max_message_size = 511,
            |options| options.max_message_size = 4097,
            |options| options.migration = Some(1),
        ];
        for (n, change) in refused.into_iter().enumerate() {
            assert!(fails(change), "{n}");
        }
        let accepted: [fn(&mut Options); 6] = [
            |options| options.queues = 1,
            |options| options.window_size = 4 << 20,
            |options| options.window_size = 1 << 63,
            |options| options.memory_slots = 1,
            |options| options.max_message_size = 512,
            |options| options.max_message_size = 4096,
        ];
        for (n, change) in accepted.into_iter().enumerate() {
            assert!(!fails(change), "{n}");
        }
    }
}
