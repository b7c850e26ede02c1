// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Epochs by themselves; `tests/rooms.rs` has them among threads.

use super::Epochs;

#[test]
fn an_epoch_is_another_one_when_it_is_raised() {
    let epochs = Epochs::default();
    let before = epochs.current();
    assert_eq!(before, epochs.current());
    let raised = epochs.raise();
    assert!(raised > before);
    assert_eq!(epochs.current(), raised);
    assert!(epochs.raise() > raised);
}
