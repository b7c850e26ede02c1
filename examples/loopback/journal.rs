// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The device's log lines, on the standard error output.

use std::io::{self, Write};

use log::{LevelFilter, Log, Metadata, Record};

struct Journal;

impl Log for Journal {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let origin = record.target().split("::").next().unwrap_or_default();
        // Nobody is told if nobody reads.
        let _ = writeln!(io::stderr(), "{origin}: {}", record.args());
    }

    fn flush(&self) {}
}

/// Shows what the device logs from `level` on.
pub fn show(level: LevelFilter) {
    static JOURNAL: Journal = Journal;
    if log::set_logger(&JOURNAL).is_ok() {
        log::set_max_level(level);
    }
}
