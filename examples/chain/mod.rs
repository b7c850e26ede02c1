// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A stock frontend and a stock backend of one machine, and all of this project
//! between them in one program: `cargo run --release --example chain`.
//!
//! ```text
//!   frontend ─ socket ─ device ─ emulated guest ─ relay ─ socket ─ backend
//! ```
//!
//! There is no KVM, and so it runs where that is missing. The emulated guest has
//! what a Linux guest has: a driver for the device, and the relay, which is the same
//! as there.
//!
//! | module | of a Linux guest |
//! |---|---|
//! | [`node`] | the device's file, as the kernel driver makes it |
//! | `driver` | the kernel driver |
//! | `wires` | eventfds that the kernel driver connects with the device |

mod driver;
pub mod node;
mod options;
mod wires;

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

use log::LevelFilter;
use vhost_guest_relay::{Peer, Service};

use crate::loopback::failure::{Context, Failure};
use crate::loopback::{journal, signals, socket};
use crate::vmm::{Config, Machine};
use node::Node;
use options::{Options, HELP};

/// Most memory that a frontend can share.
const WINDOW_SIZE: usize = 16 << 30;

/// Runs the program with the arguments of this process.
pub fn main() -> ExitCode {
    let outcome = Options::parse(std::env::args_os().skip(1)).and_then(run);
    let Err(failure) = outcome else {
        return ExitCode::SUCCESS;
    };
    eprintln!("chain: {failure}");
    match failure {
        Failure::Usage(_) => ExitCode::from(2),
        _ => ExitCode::FAILURE,
    }
}

fn run(options: Options) -> Result<(), Failure> {
    if options.help {
        print!("{HELP}");
        return Ok(());
    }
    let (end, ended) = UnixStream::pair().context("a pair of sockets")?;
    signals::watch(move || drop(end))?;
    journal::show(LevelFilter::Info);
    let (listener, name) = socket::listen(&options.socket)?;
    let config = Config {
        queues: options.queues,
        window_size: WINDOW_SIZE,
        // The relay says it.
        device_type: 0,
        irqfd: true,
        ioeventfd: true,
        state_piece: None,
    };
    let machine = Machine::new(listener, &config).context("starting the machine")?;
    // Goes before the listener does, which is the machine's.
    let _name = name;
    if options.lose_dirty_log {
        machine.slots().lose_dirty_log();
    }
    let node = Node::open(Arc::new(machine)).context("starting the guest")?;
    relay(&node, options, &ended)
}

/// Runs the relay until the user ends it, in a thread of its own: whether it sleeps
/// can be seen there.
fn relay(node: &Node, options: Options, ended: &UnixStream) -> Result<(), Failure> {
    let peer = Peer::Connect(options.backend);
    let serve = move || {
        let service = Service {
            device: node,
            peer: &peer,
            device_type: Some(options.device_type),
            allow_direct: false,
            stop: ended.as_fd(),
            log: &|line| log::info!(target: "relay", "{line}"),
        };
        service.run()
    };
    let outcome = thread::scope(|scope| {
        let thread = thread::Builder::new().name("relay".into());
        let relay = thread.spawn_scoped(scope, serve).context("a thread")?;
        let outcome = relay.join();
        outcome.map_err(|_| Failure::Guest("the relay panicked".into()))
    })?;
    outcome.map_err(|failure| Failure::Guest(failure.to_string()))
}
