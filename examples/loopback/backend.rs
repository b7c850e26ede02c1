// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The VMM's process: a machine whose guest serves a disk.

use std::io::{self, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{channel, Receiver, Sender};
use std::thread;

use crate::vmm::{Config, Machine};
use log::LevelFilter;

use crate::loopback::failure::{Context, Failure};
use crate::loopback::guest::{self, Handles};
use crate::loopback::options::Options;
use crate::loopback::places::Places;
use crate::loopback::report::Report;
use crate::loopback::resources::Resources;
use crate::loopback::signals::{self, Signal};
use crate::loopback::summary::{check_wakeups, Summary};
use crate::loopback::{journal, socket};

/// The virtio type of a disk.
const BLOCK_DEVICE: u16 = 2;
/// Most memory that a frontend can share.
const WINDOW_SIZE: usize = 16 << 30;
/// Device state moves in pieces of so many bytes. The disk has none, but some
/// frontends save and migrate only a backend that says so.
const STATE_PIECE: u32 = 4096;

/// What ends the main thread's sleep.
pub enum Event {
    /// Ctrl-C.
    Interrupted,
    /// The image may have another size.
    Resized,
    /// The guest serves frontends now, until it is stopped.
    GuestReady(Handles),
    /// The guest has stopped.
    GuestEnded(String),
    /// The frontend's process has closed its standard output; what it wrote.
    FrontendEnded(io::Result<String>),
}

/// Serves a disk, to our own frontend or to any.
pub fn run(options: &Options) -> Result<(), Failure> {
    let (sender, events) = channel();
    let told = sender.clone();
    signals::watch_resizing(move |signal| {
        let _ = told.send(match signal {
            Signal::End => Event::Interrupted,
            Signal::Resize => Event::Resized,
        });
    })?;
    journal::show(match options.listen {
        true => LevelFilter::Info,
        false => LevelFilter::Warn,
    });
    let places = Places::new(options)?;
    // Nothing is made for a program that cannot serve it.
    let (listener, name) = socket::listen(&places.socket)?;
    let image = places.open_image(options)?;
    let config = Config {
        queues: options.disk.queues,
        window_size: WINDOW_SIZE,
        device_type: BLOCK_DEVICE,
        irqfd: options.irqfd,
        ioeventfd: options.ioeventfd,
        state_piece: Some(STATE_PIECE),
    };
    let machine = Machine::new(listener, &config).context("starting the machine")?;
    // Goes before the listener does, which is the machine's.
    let _name = name;
    if options.lose_dirty_log {
        machine.slots().lose_dirty_log();
    }
    let guest = guest::start(&machine, image, options, sender.clone())?;
    let handles = loop {
        match events.recv() {
            Ok(Event::GuestReady(handles)) => break handles,
            Ok(Event::GuestEnded(why)) => return Err(Failure::Guest(why)),
            // It has yet to look at the image.
            Ok(Event::Resized) => {}
            _ => return Err(Failure::Interrupted),
        }
    };
    let outcome = match options.listen {
        true => serve(&events, &handles, &places, options),
        false => work(&events, sender, &machine, &places, options),
    };
    guest.join(&handles);
    outcome
}

/// Lets frontends come and go until Ctrl-C, which is the regular end.
fn serve(
    events: &Receiver<Event>,
    handles: &Handles,
    places: &Places,
    options: &Options,
) -> Result<(), Failure> {
    println!(
        "listening on {}: {}{}, {} queues",
        places.socket.display(),
        places.disk.display(),
        if options.disk.read_only {
            ", read-only"
        } else {
            ""
        },
        options.disk.queues
    );
    loop {
        match events.recv() {
            Ok(Event::GuestEnded(why)) => return Err(Failure::Guest(why)),
            Ok(Event::Interrupted) | Err(_) => return Ok(()),
            Ok(Event::Resized) => handles.resize(),
            Ok(_) => {}
        }
    }
}

/// Runs our frontend's workload and shows what came of it.
fn work(
    events: &Receiver<Event>,
    sender: Sender<Event>,
    machine: &Machine,
    places: &Places,
    options: &Options,
) -> Result<(), Failure> {
    let mappings = || machine.slots().attached();
    let before = Resources::now(mappings()).context("counting descriptors")?;
    let mut frontend = Frontend::start(places, options, sender)?;
    let output = loop {
        match events.recv() {
            Ok(Event::FrontendEnded(output)) => break output.context("the frontend's report")?,
            Ok(Event::GuestEnded(why)) => return Err(Failure::Guest(why)),
            Ok(Event::Interrupted) | Err(_) => return Err(Failure::Interrupted),
            // The workload has divided the disk that there was.
            Ok(Event::Resized | Event::GuestReady(_)) => {}
        }
    };
    frontend.finish()?;
    let report = Report::parse(&output);
    let report = report.ok_or_else(|| Failure::Frontend("no report".into()))?;
    before.expect_again(mappings)?;
    let checked = check_wakeups(&report, options);
    print!("{}", Summary::new(report, machine));
    checked
}

/// The frontend's process; it does not outlive this.
struct Frontend {
    child: Child,
    reader: Option<thread::JoinHandle<()>>,
}

impl Frontend {
    /// Starts this program again, as the frontend.
    fn start(places: &Places, options: &Options, sender: Sender<Event>) -> Result<Self, Failure> {
        let program = std::env::current_exe().context("finding this program")?;
        let mut child = Command::new(program)
            .args(options.for_frontend(&places.socket, &places.disk))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting the frontend")?;
        let stdout = child.stdout.take();
        let mut frontend = Self {
            child,
            reader: None,
        };
        let read = move || {
            let mut output = String::new();
            let outcome = stdout.map_or(Ok(0), |mut pipe| pipe.read_to_string(&mut output));
            let _ = sender.send(Event::FrontendEnded(outcome.map(|_| output)));
        };
        let thread = thread::Builder::new().name("frontend-report".into());
        frontend.reader = Some(thread.spawn(read).context("starting a thread")?);
        Ok(frontend)
    }

    /// Waits until it is gone.
    fn finish(&mut self) -> Result<(), Failure> {
        let status = self.child.wait().context("the frontend's end")?;
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        match status.success() {
            true => Ok(()),
            false => Err(Failure::Frontend(status.to_string())),
        }
    }
}

impl Drop for Frontend {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.finish();
    }
}
