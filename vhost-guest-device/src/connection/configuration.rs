// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The device behind the guest's backend: its configuration and its status.
//!
//! Configuration space passes as it is. What is the device's affair is the end
//! of all rings (DESIGN.md, "What ends a ring").

use vhost_guest_msg::FrontendRequest;

use super::forward::Forward;
use super::Connection;
use crate::fd::ForeignFd;

// Requests.

impl Connection {
    /// `RESET_DEVICE`, or `SET_STATUS`, which may be one as well.
    pub(super) fn set_status(&mut self, request: FrontendRequest<ForeignFd>) -> Forward {
        if request.resets_device() {
            self.vrings.clear();
        }
        Forward::plain(request.detach().0)
    }
}
