// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What was passed on and what is owed when one side leaves: for whoever reads
//! the log and wants to know what happened. Names only, no bytes of a peer's.

use std::fmt;

use vhost_guest_msg::{row, Channel};

/// Where a connection is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Account {
    /// The frontend's last request that went to the guest.
    pub last: Option<u32>,
    /// The request whose reply the guest owes.
    pub owed: Option<u32>,
    /// The guest's request whose reply the frontend owes.
    pub channel_owed: Option<u32>,
}

/// What is passed on has a row.
fn name(channel: Channel, code: u32) -> &'static str {
    row(channel, code).map_or("a request", |row| row.name)
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(last) = self.last else {
            return f.write_str("nothing was passed on");
        };
        let last = name(Channel::Main, last);
        write!(f, "{last} was the last request passed on, ")?;
        match self.owed.map(|owed| name(Channel::Main, owed)) {
            Some(owed) if owed == last => f.write_str("the guest owes its reply")?,
            Some(owed) => write!(f, "the guest owes the reply to {owed}")?,
            None => f.write_str("the guest owes no reply")?,
        }
        if let Some(owed) = self.channel_owed {
            let owed = name(Channel::Backend, owed);
            write!(f, "; the frontend owes the reply to the guest's {owed}")?;
        }
        Ok(())
    }
}
