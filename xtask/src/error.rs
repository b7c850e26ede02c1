// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What went wrong, as a sentence for the person at the terminal.

use std::fmt;
use std::path::Path;

/// A failure that ends the command; it is printed and the exit code is 1.
#[derive(Debug)]
pub struct Error(String);

pub type Result<T> = std::result::Result<T, Error>;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<String> for Error {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for Error {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

/// Adds what was being done to an error that only says what failed.
pub trait Context<T> {
    fn context(self, doing: &str) -> Result<T>;
    fn path_context(self, doing: &str, path: &Path) -> Result<T>;
}

impl<T, E: fmt::Display> Context<T> for std::result::Result<T, E> {
    fn context(self, doing: &str) -> Result<T> {
        self.map_err(|error| Error(format!("{doing}: {error}")))
    }

    fn path_context(self, doing: &str, path: &Path) -> Result<T> {
        self.map_err(|error| Error(format!("{doing} {}: {error}", path.display())))
    }
}
