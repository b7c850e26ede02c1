// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A vhost-guest device for a VMM that knows nothing of it: as a vfio-user
//! server, `cargo run --example vfio_user`.
//!
//! A VMM that is a vfio-user client (QEMU from 10.1, Cloud Hypervisor) plugs
//! the device into its guest. It is a way to try the device, and slow: the
//! client maps what it may map of a BAR once, when it starts, so that the
//! memory of a frontend cannot be mapped into its guest later. Each access of
//! the guest's to the window and each doorbell is a message to this program,
//! and each kick goes through a thread of it.
//!
//! | module | what it shows |
//! |---|---|
//! | [`adapter`] | the traits of `vhost-guest-vmm-traits` on vfio-user |
//! | [`function`] | how requests of the client become accesses to the device |

pub mod adapter;
pub mod function;
mod options;
#[cfg(test)]
mod tests;

use std::os::fd::OwnedFd;
use std::process::ExitCode;

use log::LevelFilter;
use vfio_user::{Error, Server};

use crate::loopback::failure::{Context, Failure};
use crate::loopback::{journal, signals, socket};
use function::Function;
use options::{Options, HELP};

/// Runs the program with the arguments of this process.
pub fn main() -> ExitCode {
    let outcome = Options::parse(std::env::args_os().skip(1)).and_then(run);
    let Err(failure) = outcome else {
        return ExitCode::SUCCESS;
    };
    eprintln!("vfio_user: {failure}");
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
    let (clients, client_name) = socket::listen(&options.socket)?;
    let (frontends, frontend_name) = socket::listen(&options.vhost_user)?;
    signals::watch(move || {
        drop((client_name, frontend_name));
        std::process::exit(0);
    })?;
    journal::show(LevelFilter::Info);
    let function = Function::new(frontends, options.queues, options.window);
    let mut function = function.context("the device")?;
    let server = Server::from_owned_fd(
        OwnedFd::from(clients),
        true,
        function.irqs(),
        function.regions(),
    );
    println!(
        "vfio-user on {}, vhost-user on {}: {} queues",
        options.socket.display(),
        options.vhost_user.display(),
        options.queues
    );
    loop {
        // One client after the other, as one guest after the other.
        let outcome = server.run(&mut function);
        function.unplugged();
        match outcome {
            Ok(()) => println!(
                "the client is gone; forwarded {} signals",
                function.forwarded()
            ),
            Err(Error::SocketAccept(error)) => return Err(error).context("accept"),
            Err(error) => eprintln!("vfio_user: the client: {error}"),
        }
    }
}
