// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The command line: flags, options with a value, and positional words, taken
//! out one by one; what is left at the end is an error.

use std::str::FromStr;

use crate::error::Result;

pub struct Arguments {
    words: Vec<String>,
}

impl Arguments {
    pub fn from_env() -> Self {
        Self::new(std::env::args().skip(1))
    }

    pub fn new(words: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            words: words.into_iter().map(Into::into).collect(),
        }
    }

    /// Takes the next word if it is no option.
    pub fn positional(&mut self) -> Option<String> {
        match self.words.first() {
            Some(word) if !word.starts_with('-') => Some(self.words.remove(0)),
            _ => None,
        }
    }

    /// Takes `name` out, wherever it stands.
    pub fn flag(&mut self, name: &str) -> bool {
        match self.words.iter().position(|word| word == name) {
            Some(at) => {
                self.words.remove(at);
                true
            }
            None => false,
        }
    }

    /// Takes `name VALUE` or `name=VALUE` out, wherever it stands.
    pub fn option<T: FromStr>(&mut self, name: &str) -> Result<Option<T>> {
        let joined = format!("{name}=");
        let Some(at) = self
            .words
            .iter()
            .position(|word| word == name || word.starts_with(&joined))
        else {
            return Ok(None);
        };
        let word = self.words.remove(at);
        let value = match word.strip_prefix(&joined) {
            Some(value) => value.to_owned(),
            None if at < self.words.len() => self.words.remove(at),
            None => return Err(format!("{name} needs a value").into()),
        };
        value
            .parse()
            .map(Some)
            .map_err(|_| format!("{name}: cannot use the value '{value}'").into())
    }

    /// Nothing may be left.
    pub fn finish(&self) -> Result<()> {
        match self.words.first() {
            None => Ok(()),
            Some(word) => Err(format!("unexpected argument: {word} (try --help)").into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_options_in_both_spellings_and_any_order() {
        let mut arguments = Arguments::new(["run", "--size=8", "x", "--keep", "--seed", "9"]);
        assert_eq!(arguments.positional().as_deref(), Some("run"));
        assert_eq!(arguments.option::<u32>("--seed").unwrap(), Some(9));
        assert_eq!(arguments.option::<u32>("--size").unwrap(), Some(8));
        assert!(arguments.flag("--keep"));
        assert!(!arguments.flag("--keep"));
        assert!(arguments.finish().is_err());
        assert_eq!(arguments.positional().as_deref(), Some("x"));
        arguments.finish().unwrap();
    }

    #[test]
    fn rejects_missing_and_unusable_values() {
        assert!(Arguments::new(["--size"]).option::<u32>("--size").is_err());
        assert!(Arguments::new(["--size", "big"])
            .option::<u32>("--size")
            .is_err());
    }
}
