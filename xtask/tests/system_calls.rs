// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `docs/system-calls.md` and the device have the same system calls: one that
//! is new without a row fails, and so does a row whose call is gone.
//!
//! Found are the functions of `rustix` and `vmm-sys-util`, those of the standard
//! library that ask the kernel, and the traits by which a VMM does. A call is
//! named with the function that makes it: `fd/pump.rs: read`.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Crates that are nothing but system calls.
const CRATES: [&str; 2] = ["rustix", "vmm_sys_util"];
/// Functions of theirs that ask nobody.
const PURE: [&str; 2] = ["page_size", "spare_capacity"];
/// What the standard library asks the kernel.
const STANDARD: [&str; 5] = ["fs", "File", "UnixListener", "UnixStream", "UnixDatagram"];
/// The same as methods, on descriptors. Others have these names nowhere.
const METHODS: [&str; 12] = [
    "connect",
    "metadata",
    "peer_addr",
    "read_exact",
    "read_to_end",
    "set_len",
    "set_nonblocking",
    "shutdown",
    "take_error",
    "try_clone",
    "try_clone_to_owned",
    "write_all",
];
/// Traits of a VMM's that are given descriptors.
const TRAITS: [&str; 3] = [
    "InterruptManager",
    "IoEventFdRegistrar",
    "SharedMemoryMapper",
];
/// Who makes a call, besides the device's threads.
const OTHERS: [&str; 2] = ["a vCPU", "the VMM"];

/// A call, and the function that makes it.
type Site = (String, String);

fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().expect("a workspace").to_owned()
}

/// The sources below a place that are no tests.
fn sources(place: &Path, found: &mut Vec<PathBuf>) {
    for entry in place.read_dir().expect("a directory") {
        let path = entry.expect("an entry").path();
        let name = path.file_stem().expect("a name").to_string_lossy();
        if name == "tests" || name == "testing" || name.ends_with("_tests") {
            continue;
        }
        match path.is_dir() {
            true => sources(&path, found),
            false => found.push(path),
        }
    }
}

/// A source without its comments and what is for tests only.
fn code(source: &str) -> String {
    let lines = source.lines().map(str::trim);
    let lines = lines.filter(|line| !line.starts_with("//"));
    let mut text = lines.collect::<Vec<_>>().join("\n");
    while let Some(at) = text.find("#[cfg(test)]") {
        let rest = &text[at..];
        let end = item_end(rest);
        text.replace_range(at..at + end, "");
    }
    text
}

/// Where an item ends: behind its braces, or its semicolon.
fn item_end(item: &str) -> usize {
    let mut open = 0;
    for (at, c) in item.char_indices() {
        match c {
            '{' => open += 1,
            '}' if open == 1 => return at + 1,
            '}' => open -= 1,
            // An array's type has one, too.
            ';' if open == 0 && !item[..at].ends_with(|c: char| c.is_alphanumeric()) => {
                return at + 1
            }
            ';' if open == 0 && item[at..].starts_with(";\n") => return at + 1,
            ',' if open == 0 && item[at..].starts_with(",\n") => return at + 1,
            _ => {}
        }
    }
    item.len()
}

/// The paths of a `use`, one by one.
fn paths(tree: &str) -> Vec<String> {
    let Some((before, rest)) = tree.split_once('{') else {
        return vec![tree.trim().to_owned()];
    };
    let inner = rest.trim_end().trim_end_matches('}');
    let mut open = 0;
    let parts = inner.split(|c| {
        open += i32::from(c == '{') - i32::from(c == '}');
        c == ',' && open == 0
    });
    let parts = parts.map(str::trim).filter(|part| !part.is_empty());
    let before = before.trim();
    parts
        .flat_map(|part| paths(&format!("{before}{part}")))
        .collect()
}

/// The functions and modules that a source takes from the crates.
fn imported(code: &str) -> BTreeSet<String> {
    let uses = code.split("use ").skip(1);
    let trees = uses.filter_map(|rest| rest.split(';').next());
    let paths = trees.flat_map(|tree| paths(&tree.replace('\n', " ")));
    let paths = paths.filter(|path| {
        CRATES
            .iter()
            .any(|name| path.starts_with(&format!("{name}::")))
    });
    let names = paths.filter_map(|path| {
        let path = path.trim_end_matches("::self").to_owned();
        path.rsplit("::").next().map(str::to_owned)
    });
    names
        .filter(|name| name.starts_with(|c: char| c.is_lowercase()))
        .collect()
}

/// Fields and variables that are a VMM's traits.
fn services(code: &str) -> BTreeMap<&str, &'static str> {
    let mut found = BTreeMap::new();
    for name in TRAITS {
        for (at, _) in code.match_indices(&format!("Arc<dyn {name}>")) {
            let before = code[..at].trim_end_matches("Option<");
            let before = before.trim_end_matches('&').trim_end();
            if let Some(before) = before.strip_suffix(':') {
                found.insert(last_word(before), name);
            }
        }
    }
    found
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The word that a text ends with.
fn last_word(text: &str) -> &str {
    &text[text.trim_end_matches(is_word).len()..]
}

/// The methods of the traits, but for those that give nothing to do.
fn asked() -> BTreeSet<String> {
    let place = root().join("vhost-guest-vmm-traits/src");
    let mut paths = Vec::new();
    sources(&place, &mut paths);
    let texts = paths
        .iter()
        .map(|path| code(&fs::read_to_string(path).expect("a source")));
    let bodies = texts.filter_map(|text| {
        let traits = TRAITS
            .iter()
            .filter_map(|name| text.split_once(&format!("trait {name}")));
        traits
            .map(|(_, body)| body[..item_end(body)].to_owned())
            .next()
    });
    let methods = bodies.flat_map(|body| {
        let names = body.split("fn ").skip(1);
        let names = names.filter_map(|rest| rest.split('(').next().map(str::to_owned));
        names.collect::<Vec<_>>()
    });
    let silent = ["fds_to_keep", "create_source", "destroy_source"];
    methods
        .filter(|name| !silent.contains(&name.as_str()))
        .collect()
}

/// The device's threads, and the system calls that they are known to make.
fn threads() -> BTreeMap<String, Vec<String>> {
    let place = root().join("vhost-guest-device/src/vmm/threads.rs");
    let source = code(&fs::read_to_string(place).expect("the threads"));
    let threads = source.split("name: ").skip(1);
    let threads = threads.filter_map(|text| {
        let (name, rest) = text.strip_prefix('"')?.split_once('"')?;
        let (_, calls) = rest.split_once("syscalls: &[")?;
        let calls = calls.split(']').next()?.split(',');
        let calls = calls.map(|call| call.trim().trim_matches('"').to_owned());
        Some((name.to_owned(), calls.collect()))
    });
    threads.collect()
}

/// What the kernel calls a function of the libraries; `None` for a trait's.
fn system_call(call: &str) -> Option<&str> {
    let name = match call {
        "epoll::add" | "epoll::modify" | "epoll::delete" => "epoll_ctl",
        "fcntl_getfl" | "fcntl_get_seals" => "fcntl",
        "inotify::add_watch" => "inotify_add_watch",
        "inotify::remove_watch" => "inotify_rm_watch",
        "ioctl_fionread" => "ioctl",
        "poll" => "ppoll",
        "recv" => "recvfrom",
        "send" => "sendto",
        "set_socket_oobinline" => "setsockopt",
        "socket_domain" | "socket_type" => "getsockopt",
        other => other,
    };
    (!name.contains("::")).then_some(name)
}

/// What a source asks the kernel or the VMM, and in which functions.
fn calls(code: &str, asked: &BTreeSet<String>) -> BTreeSet<Site> {
    let (imported, services) = (imported(code), services(code));
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices('(') {
        let before = &code[..at];
        let path = &before[before.trim_end_matches(|c| is_word(c) || c == ':').len()..];
        let name = path.rsplit("::").next().unwrap_or(path);
        let ahead = before[..before.len() - path.len()].trim_end();
        if name.is_empty() || PURE.contains(&name) || ahead.ends_with(" fn") || ahead == "fn" {
            continue;
        }
        let first = path.split("::").next().unwrap_or(path);
        let call = if let Some(ahead) = ahead.strip_suffix('.') {
            match services.get(last_word(ahead.trim_end())) {
                Some(service) => asked.contains(name).then(|| format!("{service}::{name}")),
                None => METHODS.contains(&name).then(|| name.to_owned()),
            }
        } else if CRATES.contains(&first) {
            Some(name.to_owned())
        } else if path.contains(|c: char| c.is_uppercase()) && !STANDARD.contains(&first) {
            None
        } else if imported.contains(first) || (first != path && STANDARD.contains(&first)) {
            Some(path.to_owned())
        } else {
            None
        };
        if let Some(call) = call.filter(|_| name.starts_with(|c: char| c.is_lowercase())) {
            found.insert((call, function(before).to_owned()));
        }
    }
    found
}

/// The name of the last function that begins in a text.
fn function(before: &str) -> &str {
    let starts = before
        .match_indices("fn ")
        .filter(|(at, _)| *at == 0 || before[..*at].ends_with(|c: char| !is_word(c)));
    let names = starts.map(|(at, _)| before[at + 3..].split(|c| !is_word(c)).next());
    names
        .flatten()
        .filter(|name| !name.is_empty())
        .last()
        .unwrap_or("-")
}

/// The system calls of the device.
fn in_code() -> BTreeSet<Site> {
    let place = root().join("vhost-guest-device/src");
    let mut paths = Vec::new();
    sources(&place, &mut paths);
    let (asked, mut found) = (asked(), BTreeSet::new());
    for path in paths {
        let file = path.strip_prefix(&place).expect("below its crate");
        let source = fs::read_to_string(&path).expect("a source");
        for (call, function) in calls(&code(&source), &asked) {
            found.insert((call, format!("{}: {function}", file.display())));
        }
    }
    found
}

/// A row: `| call | where | object | what it may wait for | thread | test |`, or
/// without the last three if the object is the device's own.
struct Row<'a> {
    sites: Vec<Site>,
    cells: Vec<&'a str>,
}

fn rows(document: &str) -> Vec<Row<'_>> {
    let lines = document.lines().filter_map(|line| line.strip_prefix("| `"));
    let rows = lines.map(|line| {
        let cells: Vec<_> = line.trim_end_matches(" |").split(" | ").collect();
        let code = |cell: &str| -> Vec<String> {
            let spans = cell
                .split(',')
                .map(|span| span.trim().trim_matches('`').to_owned());
            spans.collect()
        };
        let (calls, places) = (code(cells[0]), code(cells[1]));
        let pairs = calls.iter().flat_map(|call| {
            let pair = |place: &String| (call.clone(), place.clone());
            places.iter().map(pair).collect::<Vec<_>>()
        });
        Row {
            sites: pairs.collect(),
            cells,
        }
    });
    rows.collect()
}

#[test]
fn the_table_has_the_system_calls_of_the_code() {
    let document = fs::read_to_string(root().join("docs/system-calls.md")).expect("the table");
    let rows = rows(&document);
    let code = in_code();
    assert!(code.len() > 40, "{} calls", code.len());
    let mut table = BTreeSet::new();
    for site in rows.iter().flat_map(|row| &row.sites) {
        assert!(table.insert(site.clone()), "twice: {site:?}");
    }
    let without_row: Vec<_> = code.difference(&table).collect();
    assert!(without_row.is_empty(), "no rows for {without_row:#?}");
    let without_code: Vec<_> = table.difference(&code).collect();
    assert!(
        without_code.is_empty(),
        "rows without code {without_code:#?}"
    );
}

#[test]
fn a_call_on_what_a_peer_holds_has_a_thread_and_a_test() {
    let document = fs::read_to_string(root().join("docs/system-calls.md")).expect("the table");
    let known = threads();
    assert!(known.len() > 3, "{known:?}");
    let mut peers = 0;
    for row in rows(&document) {
        let (what, rest) = (row.cells[0], &row.cells[2..]);
        let [object, wait, thread, test] = rest else {
            assert!(matches!(rest, [own] if own.len() > 5), "{what}: {rest:?}");
            continue;
        };
        peers += 1;
        assert!(object.len() > 3 && wait.len() > 5, "{what}: {rest:?}");
        let threads = thread.split(", ").map(|name| name.trim_matches('`'));
        for name in threads.filter(|name| !OTHERS.contains(name)) {
            let Some(allowed) = known.get(name) else {
                panic!("{what}: who is {name}?");
            };
            let calls = row.sites.iter().filter_map(|(call, _)| system_call(call));
            for call in calls {
                let listed = allowed.iter().any(|allowed| allowed == call);
                assert!(listed, "{what}: {call} is not in the list of {name}");
            }
        }
        assert!(test.contains("::"), "{what}: no test");
    }
    assert!(peers > 10, "{peers} rows");
}

#[test]
fn system_calls_are_found_where_they_are_made() {
    let source = "
use rustix::event::{epoll, poll, PollFd};
use rustix::io;
struct S {
    mapper: Arc<dyn SharedMemoryMapper>,
}
fn zero(registrar: &Arc<dyn IoEventFdRegistrar>) {
    registrar.register(fd);
}
/// write(fd, in_a_comment)
fn one(fd: Fd) {
    poll(&mut fds, None);
    epoll::add(&set, fd);
    let fds = [PollFd::new(fd, IN)];
    rustix::io::write(fd, &[1]);
    page_size();
    self.mapper
        .attach(at, 1);
    self.mapper.clone();
    list.map(|x| x.poll());
}
#[cfg(test)]
fn for_tests() {
    poll(x);
}
fn two() -> Result<(), E> {
    fs::remove_file(path)?;
    stream.set_nonblocking(true);
    io::read(fd, &mut [0; 8])
}
#[cfg(test)]
mod tests {
    fn f() { poll(x) }
}
";
    let site = |call: &str, at: &str| (call.to_owned(), at.to_owned());
    let expected = [
        site("IoEventFdRegistrar::register", "zero"),
        site("poll", "one"),
        site("epoll::add", "one"),
        site("write", "one"),
        site("SharedMemoryMapper::attach", "one"),
        site("fs::remove_file", "two"),
        site("set_nonblocking", "two"),
        site("io::read", "two"),
    ];
    let asked = BTreeSet::from(["attach", "register"].map(str::to_owned));
    assert_eq!(calls(&code(source), &asked), expected.into());
    let table = "| `read`, `recv` | `a.rs: f` | its own |\n";
    let rows = rows(table);
    assert_eq!(
        rows[0].sites,
        [site("read", "a.rs: f"), site("recv", "a.rs: f")]
    );
    assert_eq!(rows[0].cells[2..], ["its own"]);
}
