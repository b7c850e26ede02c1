// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Commands that the documents show, for the tests to run: what a reader pastes
//! is what was tested.

use crate::error::Result;

/// How a reader starts a VM on a disk that is served on the same machine.
pub const README: &str = include_str!("../../README.md");
/// The guide: how a reader starts a VM on a disk that another VM serves.
pub const BACKENDS: &str = include_str!("../../docs/backends.md");

/// A command of a document, as the words that a shell makes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Documented(Vec<String>);

impl Documented {
    /// The first command of `program` in `document` in which `with` stands.
    pub fn find(document: &str, program: &str, with: &str) -> Result<Self> {
        blocks(document)
            .flat_map(commands)
            .map(|command| words(&command))
            .find(|words| {
                let first = words.first().is_some_and(|word| word == program);
                first && words.iter().any(|word| word.contains(with))
            })
            .map(Self)
            .ok_or_else(|| format!("no document shows {program} with {with}").into())
    }

    /// The command with `theirs`, which has to be in it, replaced by `ours`
    /// wherever it stands: the document names files and sizes of its reader's.
    pub fn replace(mut self, theirs: &str, ours: &str) -> Result<Self> {
        if !self.0.iter().any(|word| word.contains(theirs)) {
            return Err(format!("the documented command has no {theirs}").into());
        }
        for word in &mut self.0 {
            *word = word.replace(theirs, ours);
        }
        Ok(self)
    }

    /// What follows the program.
    pub fn arguments(&self) -> &[String] {
        self.0.get(1..).unwrap_or_default()
    }

    /// A function of a shell's that becomes the command, with its arguments
    /// behind the command's. Variables in it stand for what they hold then.
    pub fn to_function(&self, name: &str) -> String {
        let quoted = self.0.iter().map(|word| format!("\"{word}\""));
        let command = quoted.collect::<Vec<_>>().join(" ");
        format!("{name}() {{\n    exec {command} \"$@\"\n}}\n")
    }
}

/// The lines of the first `sh` block in which `with` stands.
pub fn lines<'a>(document: &'a str, with: &str) -> Result<Vec<&'a str>> {
    blocks(document)
        .find(|block| block.contains(with))
        .map(|block| block.lines().collect())
        .ok_or_else(|| format!("no document shows {with}").into())
}

/// The blocks of a Markdown text that a reader is to paste into a shell.
fn blocks(document: &str) -> impl Iterator<Item = &str> {
    let mut parts = document.split("```sh\n").skip(1);
    std::iter::from_fn(move || parts.next()?.split("\n```").next())
}

/// The commands of a block, each on one line.
fn commands(block: &str) -> Vec<String> {
    let joined = block.replace("\\\n", " ");
    joined.lines().map(str::to_owned).collect()
}

/// Splits a line as a shell does, as far as the documents' lines need it.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for character in line.chars() {
        match (quote, character) {
            (Some(open), _) if character == open => quote = None,
            (None, '"' | '\'') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (None, _) if character.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(character),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "Text\n```sh\ncd x\nrun --name one \\\n    --text \"two words\" 'a\"b'\n```\n\
                        ```text\nrun --name none\n```\n```sh\nrun --name two\n```\n";

    #[test]
    fn finds_a_command_over_several_lines() {
        let found = Documented::find(TEXT, "run", "one").unwrap();
        assert_eq!(
            found.arguments(),
            ["--name", "one", "--text", "two words", "a\"b"]
        );
        let other = Documented::find(TEXT, "run", "two").unwrap();
        assert_eq!(other.arguments()[1], "one", "the first in which it stands");
        assert!(
            Documented::find(TEXT, "run", "none").is_err(),
            "that is output"
        );
    }

    #[test]
    fn replaces_what_is_there_and_nothing_else() {
        let found = Documented::find(TEXT, "run", "one").unwrap();
        let replaced = found.clone().replace("one", "$name").unwrap();
        let function = replaced.to_function("start");
        let line = r#"exec "run" "--name" "$name" "--text" "two words" "#;
        assert!(function.contains(line), "{function}");
        assert!(found.replace("three", "four").is_err());
    }

    #[test]
    fn quotes_lines_of_a_block() {
        assert_eq!(lines(TEXT, "two words").unwrap()[0], "cd x");
        assert!(lines(TEXT, "none").is_err());
    }
}
