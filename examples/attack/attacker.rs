// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The attacker's process.

use std::any::Any;
use std::cell::Cell;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{channel, Receiver, TryRecvError};
use std::thread;

use rustix::process::setpriority_process;

use super::frontend::Frontend;
use super::list::Attack;
use crate::loopback::failure::{Context, Failure};

/// The attacker is ready for its first round.
pub const READY: &str = "ready";
/// What is to be done to others is under way.
pub const ARMED: &str = "armed";
/// The attacker has hung up, and keeps what holds others up.
pub const LEFT: &str = "left";
/// It shall hang up.
pub const LEAVE: &str = "leave";
/// It shall let go of everything, and begin again.
pub const NEXT: &str = "next";
/// What follows is not as it has to be.
pub const FAULT: &str = "fault ";
/// The attack cannot be tried here, for the reason that follows.
pub const CANNOT: &str = "cannot ";

/// This program, wherever it is and whoever may go there.
pub const THIS_PROGRAM: &str = "/proc/self/exe";

/// What an attacker keeps when it has hung up.
pub type Kept = Vec<Box<dyn Any>>;

/// What an attack has of its process.
pub trait Strike {
    /// One round: the attacker connects and strikes, waits [until it is
    /// told](Attacker::until_told), hangs up, and returns what it keeps.
    ///
    /// # Errors
    ///
    /// The device has disconnected it, which is a good answer to most.
    fn strike(&mut self, attacker: &Attacker) -> io::Result<Kept>;
}

/// The attacker's process, for its strikes.
pub struct Attacker {
    socket: PathBuf,
    /// There is an attack; or else the frontend does the same, but for that.
    pub hostile: bool,
    words: Receiver<String>,
    armed: Cell<bool>,
    told: Cell<bool>,
}

/// The VMM's priority, if it was given one, is for those whose waits are
/// measured. Whoever is busy would hold up the kernel's own threads with it.
pub fn have_no_priority() {
    let _ = setpriority_process(None, 0);
}

/// Attacks the device behind `socket` until standard input ends.
pub fn main(attack: &Attack, socket: &Path, hostile: bool) -> Result<(), Failure> {
    have_no_priority();
    let mut strike = match (attack.prepare)(hostile) {
        Ok(strike) => strike,
        Err(error) => {
            println!("{CANNOT}{error}");
            return Ok(());
        }
    };
    let attacker = Attacker::new(socket, hostile).context("starting a thread")?;
    println!("{READY}");
    loop {
        attacker.armed.set(false);
        attacker.told.set(false);
        let kept = strike.strike(&attacker);
        if let Err(error) = &kept {
            eprintln!("{}: {error}", attack.name);
        }
        if attacker.until_told().is_err() {
            return Ok(());
        }
        println!("{LEFT}");
        match attacker.words.recv().as_deref() {
            Ok(NEXT) => drop(kept),
            _ => return Ok(()),
        }
    }
}

impl Attacker {
    fn new(socket: &Path, hostile: bool) -> io::Result<Self> {
        let (sender, words) = channel();
        let listen = move || {
            for line in io::stdin().lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
            // The VMM is gone, and a strike may sleep for as long as it likes.
            std::process::exit(0);
        };
        thread::Builder::new().spawn(listen)?;
        Ok(Self {
            socket: socket.to_owned(),
            hostile,
            words,
            armed: Cell::new(false),
            told: Cell::new(false),
        })
    }

    /// Connects, and negotiates.
    pub fn negotiated(&self) -> io::Result<Frontend> {
        Frontend::negotiated(&self.socket)
    }

    /// Connects, and no more.
    pub fn connect(&self) -> io::Result<Frontend> {
        Frontend::connect(&self.socket)
    }

    /// What is to be done to others is under way.
    pub fn arm(&self) {
        if !self.armed.replace(true) {
            println!("{ARMED}");
        }
    }

    /// Whether it is to hang up now.
    pub fn is_told(&self) -> bool {
        if !self.told.get() {
            let told = self.words.try_recv() != Err(TryRecvError::Empty);
            self.told.set(told);
        }
        self.told.get()
    }

    /// What is to be done to others is under way, until the attacker is to
    /// hang up.
    pub fn until_told(&self) -> io::Result<()> {
        self.arm();
        if !self.told.replace(true) {
            let word = self.words.recv();
            if word.as_deref() != Ok(LEAVE) {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    /// Something is not as it has to be.
    pub fn fault(&self, what: &str) {
        println!("{FAULT}{what}");
    }
}
