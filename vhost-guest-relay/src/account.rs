// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What has been passed on between a frontend and a backend, and what one of them
//! owes: for whoever wants to know what happened when one of them has left.

use std::fmt;

use vhost_guest_msg::{row, Channel};

/// Where a session was when it ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// The frontend's last message.
    pub last: Option<u32>,
    /// The backend has not taken all of it.
    pub partly: bool,
    /// The message of the frontend's whose reply the backend owes.
    pub owed: Option<u32>,
    /// The frontend has not taken the last reply.
    pub reply_kept: bool,
    /// The request of the backend's whose reply the frontend owes.
    pub backend_owed: Option<u32>,
    /// Device state was moving.
    pub state: bool,
}

/// The name of a request, or its number if it has none.
pub struct Name(pub Channel, pub u32);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match row(self.0, self.1) {
            Some(row) => f.write_str(row.name),
            None => write!(f, "request {}", self.1),
        }
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(last) = self.last else {
            return f.write_str("the frontend had sent nothing");
        };
        let name = |code| Name(Channel::Main, code);
        write!(f, "{} was the last message passed on, ", name(last))?;
        if self.partly {
            f.write_str("but not taken whole, ")?;
        }
        match self.owed {
            Some(owed) if owed == last => f.write_str("its reply is owed")?,
            Some(owed) => write!(f, "the reply to {} is owed", name(owed))?,
            None if self.reply_kept => f.write_str("the frontend had no room for a reply")?,
            None => f.write_str("no reply is owed")?,
        }
        if let Some(request) = self.backend_owed {
            let name = Name(Channel::Backend, request);
            write!(f, "; the frontend owes the reply to the backend's {name}")?;
        }
        match self.state {
            true => f.write_str("; device state was moving"),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_was_passed_on_and_what_is_owed() {
        let mut account = Account::default();
        assert_eq!(account.to_string(), "the frontend had sent nothing");
        account.last = Some(24);
        let text = "GET_CONFIG was the last message passed on, ";
        assert_eq!(account.to_string(), format!("{text}no reply is owed"));
        account.owed = Some(24);
        assert_eq!(account.to_string(), format!("{text}its reply is owed"));
        account.owed = Some(1);
        let owed = "the reply to GET_FEATURES is owed";
        assert_eq!(account.to_string(), format!("{text}{owed}"));
        account.partly = true;
        account.backend_owed = Some(2);
        account.state = true;
        let text = format!(
            "{text}but not taken whole, {owed}; the frontend owes the reply to the \
             backend's CONFIG_CHANGE_MSG; device state was moving"
        );
        assert_eq!(account.to_string(), text);
    }

    #[test]
    fn says_when_a_reply_was_not_taken() {
        let account = Account {
            last: Some(99),
            reply_kept: true,
            ..Account::default()
        };
        let text =
            "request 99 was the last message passed on, the frontend had no room for a reply";
        assert_eq!(account.to_string(), text);
    }
}
