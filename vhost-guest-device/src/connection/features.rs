// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a connection is about: features, and limits of the backend's.

use vhost_guest_msg::{FrontendRequest, ProtocolFeatures, Reply, VirtioFeatures};

use super::forward::{Forward, Then};
use super::session::Session;
use super::{Connection, Resources};
use crate::error::{Fault, FrontendFault, GuestFault, Refusal};

/// Protocol features that need the migration queues.
const WITH_MIGRATION: ProtocolFeatures = ProtocolFeatures::DEVICE_STATE;

/// The protocol features that survive in a `GET_PROTOCOL_FEATURES` reply of a
/// device without migration queues.
pub(crate) fn carried() -> ProtocolFeatures {
    ProtocolFeatures::forwardable().difference(WITH_MIGRATION)
}

/// The same of a device with them.
pub(crate) fn carried_with_migration() -> ProtocolFeatures {
    carried().union(WITH_MIGRATION)
}

// Requests.

impl Connection {
    pub(super) fn set_features(&mut self, features: VirtioFeatures) -> Forward {
        self.session.set_features(features);
        Forward::plain(FrontendRequest::SetFeatures(features))
    }

    pub(super) fn set_protocol_features(
        &mut self,
        features: ProtocolFeatures,
    ) -> Result<Forward, Refusal> {
        check_protocol_features(features, &self.session)?;
        self.session.set_protocol_features(features);
        Ok(Forward::plain(FrontendRequest::SetProtocolFeatures(
            features,
        )))
    }
}

pub(super) fn get_protocol_features() -> Forward {
    Forward::then(
        FrontendRequest::GetProtocolFeatures,
        Then::ShowProtocolFeatures,
    )
}

pub(super) fn get_queue_num(session: &Session) -> Forward {
    let most = Then::AtMost(session.limits().max_queues.into());
    Forward::then(FrontendRequest::GetQueueNum, most)
}

pub(super) fn get_max_mem_slots(on: &Resources<'_>) -> Forward {
    let most = Then::Lower(on.memory.max_regions() as u64);
    Forward::then(FrontendRequest::GetMaxMemSlots, most)
}

// What the reply does.

/// Edits a `GET_PROTOCOL_FEATURES` reply: what the device does not carry is
/// cleared, and nothing else (vhost-guest specification, messages).
pub(super) fn show_protocol_features(reply: &mut Reply, session: &Session) {
    if let Reply::ProtocolFeatures(offered) = reply {
        *offered = offered.intersection(session.carried());
    }
}

/// Lowers a `GET_MAX_MEM_SLOTS` reply to what the device carries, which no
/// driver can know: the configuration has no field for it.
pub(super) fn lower_limit(reply: &mut Reply, most: u64) {
    if let Reply::U64(value) = reply {
        *value = (*value).min(most);
    }
}

/// `GET_QUEUE_NUM` is not edited: the driver knows `max_vhost_queues`.
pub(super) fn check_limit(reply: &Reply, most: u64) -> Result<(), Fault> {
    match reply {
        Reply::U64(vrings) if *vrings > most => {
            let vrings = *vrings;
            Err(GuestFault::QueueNum { vrings, most }.into())
        }
        _ => Ok(()),
    }
}

// Refusals.

/// `SET_PROTOCOL_FEATURES` is never modified; a bit that is not carried
/// disconnects. Whether the guest offers the others is the guest's to check: a
/// frontend that connects again may remember them and not ask.
fn check_protocol_features(
    chosen: ProtocolFeatures,
    session: &Session,
) -> Result<(), FrontendFault> {
    let unknown = chosen.difference(session.carried());
    if unknown.is_empty() {
        return Ok(());
    }
    let bits = unknown.bits();
    Err(FrontendFault::ProtocolFeatures { bits })
}

#[cfg(test)]
mod tests {
    use vhost_guest_msg::Limits;

    use super::*;

    fn show(session: &Session, offered: ProtocolFeatures) -> ProtocolFeatures {
        let mut reply = Reply::ProtocolFeatures(offered);
        show_protocol_features(&mut reply, session);
        let Reply::ProtocolFeatures(shown) = reply else {
            panic!("another reply: {reply:?}");
        };
        shown
    }

    #[test]
    fn clears_what_is_not_carried_and_changes_nothing_else() {
        let session = Session::new(Limits::default(), carried());
        let all = ProtocolFeatures::from_bits_retain(u64::MAX);
        let shown = show(&session, all);
        assert_eq!(shown, carried());
        assert!(shown.contains(ProtocolFeatures::MQ | ProtocolFeatures::REPLY_ACK));
        for bit in 24..64 {
            assert_eq!(shown.bits() & 1 << bit, 0, "unassigned bit {bit}");
        }
        let few = ProtocolFeatures::MQ | ProtocolFeatures::CONFIG;
        assert_eq!(show(&session, few), few);
    }

    #[test]
    fn the_mask_is_made_of_bit_values() {
        // A QEMU device of old or-ed bit numbers: MQ | REPLY_ACK became 3.
        let names = ProtocolFeatures::MQ | ProtocolFeatures::REPLY_ACK;
        assert_eq!(names.bits(), 0b1001);
        assert!(carried().contains(names));
        assert!(!carried().contains(ProtocolFeatures::PAGEFAULT));
    }

    #[test]
    fn disconnects_a_protocol_feature_that_is_not_carried() {
        let session = Session::new(Limits::default(), carried());
        check_protocol_features(ProtocolFeatures::MQ, &session).unwrap();
        for unknown in [ProtocolFeatures::SHMEM, WITH_MIGRATION] {
            let fault = check_protocol_features(unknown, &session).unwrap_err();
            let FrontendFault::ProtocolFeatures { bits } = fault else {
                panic!("{fault}");
            };
            assert_eq!(bits, unknown.bits());
        }
        let session = Session::new(Limits::default(), carried_with_migration());
        check_protocol_features(WITH_MIGRATION, &session).unwrap();
    }
}
