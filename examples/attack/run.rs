// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! One run: the VMM's process.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{channel, Receiver, RecvTimeoutError};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use kvm_ioctls::Kvm;
use rustix::process::{
    geteuid, getrlimit, set_parent_process_death_signal, setrlimit, Resource, Rlimit, Signal,
};

use super::attacker::{ARMED, CANNOT, FAULT, LEAVE, LEFT, NEXT, READY, THIS_PROGRAM};
use super::frontend::{Frontend, HONEST};
use super::guest::Guest;
use super::knob::Knob;
use super::list::Attack;
use super::options::Options;
use super::probes::Probes;
use super::stage::Stage;
use super::victim::{Place, Victim};
use crate::cycles::held::{lingers, Held};
use crate::loopback::failure::{Context, Failure};

/// Two of each way to end a frontend.
const ROUNDS: usize = 6;
/// How long an attack is on before the VMM ends its frontend.
const STRIKE: Duration = Duration::from_millis(150);
/// How long an attack goes on if the VMM cannot end its frontend.
const SIEGE: Duration = Duration::from_secs(3);
/// How long things may take that are not measured.
const PREPARATION: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(5);
/// The user who may nothing.
const NOBODY: u32 = 65534;
/// Memory of an honest frontend's.
const HONEST_SIZE: u64 = 4 << 20;

/// Runs `attack`, and prints what came of it.
pub fn run(attack: &Attack, options: &Options) -> Result<(), Failure> {
    if attack.unprivileged && geteuid().is_root() {
        return as_nobody(attack);
    }
    // Nobody is left if the caller is killed.
    set_parent_process_death_signal(Some(Signal::KILL)).context("death signal")?;
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let current = maximum;
    setrlimit(Resource::Nofile, Rlimit { current, maximum }).context("limit of descriptors")?;
    if let (true, Err(error)) = (attack.setup.kvm, Kvm::new()) {
        println!("{CANNOT}no KVM: {error}");
        return Ok(());
    }
    let (place, listener) = Place::new().context("socket")?;
    let (stage, guest) = Stage::set(listener, &attack.setup, options.double)?;
    let scene = Scene {
        attack,
        options,
        victim: stage.victim(),
        socket: place.socket(),
    };
    scene.play(&stage, guest)
}

/// Does the same as a user who may nothing.
fn as_nobody(attack: &Attack) -> Result<(), Failure> {
    let knob = attack
        .knob
        .map(|(path, number)| Knob::set(path, |_| number));
    let _knob = knob.transpose().context("a setting of the kernel's")?;
    let status = Command::new(THIS_PROGRAM)
        .args(std::env::args_os().skip(1))
        .uid(NOBODY)
        .gid(NOBODY)
        .status()
        .context("starting this program")?;
    match status.success() {
        true => Ok(()),
        false => Err(Failure::Frontend(status.to_string())),
    }
}

struct Scene<'a> {
    attack: &'a Attack,
    options: &'a Options,
    victim: Arc<dyn Victim>,
    socket: PathBuf,
}

impl Scene<'_> {
    /// The whole run.
    fn play(&self, stage: &Stage, guest: Guest) -> Result<(), Failure> {
        let mut faults = Vec::new();
        for _ in 0..2 {
            self.serve_next("before the attack", &mut faults);
        }
        let before = at_rest().context("counting")?;
        let mut guest = (self.attack.guest)(stage, guest, self.options.hostile)?;
        let serves = guest.serves;
        let mut attacker = Attacker::start(self.attack, self.options, &self.socket)?;
        if let Some(why) = attacker.prepare()? {
            println!("{CANNOT}{why}");
            return Ok(());
        }
        let mut probes = Probes::start(&self.victim);
        for round in 0..ROUNDS {
            self.round(round, serves, &mut attacker, &mut probes, &mut faults)?;
            // What goes wrong once goes wrong again.
            if !faults.is_empty() || self.victim.is_dead() {
                break;
            }
        }
        faults.append(&mut attacker.faults);
        drop(attacker);
        if serves && faults.is_empty() {
            self.serve_next("after the attack", &mut faults);
        }
        let (stuck, longest) = probes.finish();
        faults.extend(stuck.iter().map(|name| format!("hangs: {name}")));
        if !serves {
            // It was the guest that attacked: its driver begins anew.
            faults.extend(guest.end());
            guest = stage.boot()?;
            self.serve_next("after the attack", &mut faults);
        }
        if stuck.is_empty() {
            faults.extend(guest.end_others());
            faults.extend(left_behind(&before).context("counting")?);
            faults.extend(guest.end());
        }
        if self.victim.is_dead() {
            faults.push("the device is dead".into());
        }
        for (name, microseconds) in longest {
            println!("probe {microseconds} {name}");
        }
        for fault in &faults {
            println!("{FAULT}{fault}");
        }
        // A thread may be stuck for good: this is the only way out.
        std::process::exit(0)
    }

    fn round(
        &self,
        round: usize,
        serves: bool,
        attacker: &mut Attacker,
        probes: &mut Probes,
        faults: &mut Vec<String>,
    ) -> Result<(), Failure> {
        attacker.expect(ARMED, PREPARATION)?;
        thread::sleep(STRIKE);
        probes.end_frontend(round);
        let deadline = Instant::now() + SIEGE;
        while !probes.are_endings_done() && Instant::now() < deadline {
            thread::sleep(PAUSE);
        }
        attacker.say(LEAVE)?;
        attacker.expect(LEFT, PREPARATION)?;
        if serves {
            self.serve_next("while the attacker keeps what it has", faults);
        }
        attacker.say(NEXT)
    }

    /// The next frontend has to be served, and to get its memory back.
    fn serve_next(&self, when: &str, faults: &mut Vec<String>) {
        let done = Arc::new(AtomicBool::new(false));
        let (victim, stop) = (self.victim.clone(), done.clone());
        // Nobody waits for it: its stores may be what hangs.
        thread::spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                // Stores at the doorbell of vring 0.
                victim.write_register(1);
                thread::sleep(PAUSE);
            }
        });
        let outcome = Frontend::honest(&self.socket, HONEST_SIZE);
        done.store(true, Ordering::SeqCst);
        if let Err(error) = outcome {
            return faults.push(format!("{when}, the next frontend is not served: {error}"));
        }
        let deadline = Instant::now() + PATIENCE;
        while holds_honest_memory() {
            if Instant::now() >= deadline {
                return faults.push(format!("{when}, memory of a frontend that is gone is kept"));
            }
            thread::sleep(PAUSE);
        }
    }
}

/// Whether this process has memory of a frontend's that did not attack.
fn holds_honest_memory() -> bool {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let mut descriptors = std::fs::read_dir("/proc/self/fd").into_iter().flatten();
    maps.contains(&format!("/memfd:{HONEST}"))
        || descriptors.any(|entry| {
            let target = entry.and_then(|entry| std::fs::read_link(entry.path()));
            target.is_ok_and(|target| target.to_string_lossy().contains(HONEST))
        })
}

/// What the process holds when nothing changes any more: threads of the device's
/// that have nothing to do stay for a second.
fn at_rest() -> std::io::Result<Held> {
    let mut before = Held::by_process()?;
    loop {
        thread::sleep(Duration::from_millis(1500));
        let now = Held::by_process()?;
        if now == before && !lingers()? {
            return Ok(now);
        }
        before = now;
    }
}

/// What the process holds that it did not hold before: descriptors, threads,
/// memory of frontends. Its heap and stacks are its own.
fn left_behind(before: &Held) -> std::io::Result<Vec<String>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let now = Held::by_process()?;
        let mut differences = before.growth(&now);
        differences.retain(|name| !name.starts_with("mappings: ") || name.contains("(deleted)"));
        if differences.is_empty() || Instant::now() >= deadline {
            return Ok(differences);
        }
        thread::sleep(PAUSE);
    }
}

/// The attacker's process; it does not outlive this.
struct Attacker {
    child: Child,
    lines: Receiver<String>,
    faults: Vec<String>,
}

impl Attacker {
    fn start(attack: &Attack, options: &Options, socket: &Path) -> Result<Self, Failure> {
        let mut command = Command::new(THIS_PROGRAM);
        command.args(["strike", attack.name]).arg(socket);
        if !options.hostile {
            command.arg("--calm");
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("starting the attacker")?;
        let (sender, lines) = channel();
        if let Some(output) = child.stdout.take() {
            let read = move || {
                let lines = BufReader::new(output).lines().map_while(Result::ok);
                lines.into_iter().all(|line| sender.send(line).is_ok())
            };
            thread::Builder::new()
                .spawn(read)
                .context("starting a thread")?;
        }
        Ok(Self {
            child,
            lines,
            faults: Vec::new(),
        })
    }

    /// Waits until it is ready; why it cannot be.
    fn prepare(&mut self) -> Result<Option<String>, Failure> {
        let line = self.line(READY, PREPARATION)?;
        match line.strip_prefix(CANNOT) {
            Some(why) => Ok(Some(why.to_owned())),
            None if line == READY => Ok(None),
            None => Err(Failure::Frontend(line)),
        }
    }

    fn say(&mut self, word: &str) -> Result<(), Failure> {
        let input = self.child.stdin.as_mut();
        let input = input.ok_or_else(|| Failure::Frontend("it does not listen".into()))?;
        writeln!(input, "{word}").context("the attacker")
    }

    fn expect(&mut self, word: &str, limit: Duration) -> Result<(), Failure> {
        let line = self.line(word, limit)?;
        match line == word {
            true => Ok(()),
            false => Err(Failure::Frontend(line)),
        }
    }

    /// Its next line, but for its faults.
    fn line(&mut self, word: &str, limit: Duration) -> Result<String, Failure> {
        loop {
            let line = self.lines.recv_timeout(limit).map_err(|error| {
                Failure::Frontend(match error {
                    RecvTimeoutError::Timeout => format!("it is not {word}"),
                    RecvTimeoutError::Disconnected => "it has ended".into(),
                })
            })?;
            match line.strip_prefix(FAULT) {
                Some(fault) => self.faults.push(fault.to_owned()),
                None => return Ok(line),
            }
        }
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
