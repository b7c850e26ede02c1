// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Two VMs, testpmd between them, and what happens to them.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use super::super::blk::{print_tail, Scratch};
use super::super::host::Host;
use super::super::lab::root;
use super::super::net_lab::NET_MODULES;
use super::super::steps::{Steps, Way};
use super::super::testpmd::Testpmd;
use super::card::{Card, Places};
use super::chain::{Chain, Switches};
use crate::error::{Context, Result};
use crate::process::{run, Running};
use crate::workspace;

/// Bytes that are held in the queue of a socket.
const HELD: usize = 2 << 20;
/// How long who listens may take to do so.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Cards of testpmd: of the VM, of who sends to it, and of where it goes.
const CARDS: usize = 3;
/// The address of the VM's card, as all cards have it that it goes to.
const ADDRESS: u8 = 1;
const OTHER_ADDRESS: u8 = 2;
/// Processes of a run.
const PROCESSES: [&str; 7] = [
    "testpmd", "chain-0", "chain-1", "chain-2", "vm", "peer", "target",
];

pub struct Bench {
    way: Way,
    lossy: bool,
    host: Host,
    testpmd: Testpmd,
    /// The example `chain`.
    program: PathBuf,
    /// Holds initramfs and sockets; removed in the end.
    scratch: Scratch,
    /// Kept in the end.
    logs: PathBuf,
    started: Instant,
}

/// All that runs.
struct Network {
    testpmd: Running,
    /// One for each card, if there are any.
    chains: Vec<Chain>,
    vm: Card,
    peer: Card,
}

impl Bench {
    pub fn new(way: Way, lossy: bool) -> Result<Self> {
        let (host, []) = Host::find([])?;
        let logs = workspace::target().join("e2e");
        fs::create_dir_all(&logs).path_context("cannot create", &logs)?;
        let this = Self {
            way,
            lossy,
            host,
            testpmd: Testpmd::find()?,
            program: Self::build_chain()?,
            scratch: Scratch::new()?,
            logs,
            started: Instant::now(),
        };
        this.pack_initramfs()?;
        Ok(this)
    }

    /// Goes all steps, and notes them.
    pub fn run(&self, steps: &mut Steps) -> Result<()> {
        self.or_show_logs(|| self.walk(steps))
    }

    /// The same without the dirty log, as far as it goes.
    pub fn run_lossy(&self) -> Result<()> {
        self.or_show_logs(|| {
            let mut network = self.build_network()?;
            let (mut target, sent) = self.migrate(&mut network)?;
            if target.order("first", "first ")? == sent.first {
                return Err("nothing was ruined: this test does not see a lost log".into());
            }
            self.say("what the VM has got is ruined, as it must be");
            Ok(())
        })
    }

    fn or_show_logs(&self, run: impl FnOnce() -> Result<()>) -> Result<()> {
        for name in PROCESSES {
            // There is none before the first run.
            let _ = fs::remove_file(self.log(name));
        }
        let outcome = run();
        if outcome.is_err() {
            PROCESSES
                .iter()
                .for_each(|name| print_tail(&self.log(name)));
        }
        outcome
    }

    fn walk(&self, steps: &mut Steps) -> Result<()> {
        let mut last = Instant::now();
        let mut step = |text: &str| {
            let took = format!("{:.1} s", last.elapsed().as_secs_f64());
            steps.note(self.way, &took, text);
            self.say(text);
            last = Instant::now();
        };
        let mut network = self.build_network()?;
        step("two VMs have booted, and answer each other");
        let (mut target, sent) = self.migrate(&mut network)?;
        step("one is migrated, while the other sends to it");
        if target.order("first", "first ")? != sent.first {
            return Err("testpmd wrote to memory, and the target does not have it".into());
        }
        step("it has what testpmd wrote to its memory");
        network.tell_testpmd("stop\nset portlist 2,1\nstart")?;
        let address = network.peer.hear("rarp ")?;
        if address != format!("52:54:00:00:00:{ADDRESS:02x}") {
            return Err(format!("RARP for {address}").into());
        }
        step("the other one hears by RARP where it is now");
        if target.order("rest", "all ")? != sent.all {
            return Err("the migrated VM got other bytes than were sent".into());
        }
        step("it gets all that was sent before and after");
        let slept = network.flow([2, 1])?;
        network.peer.vm.tell("stop")?;
        let sent = network.peer.hear("flow sent ")?;
        if target.hear("flow received ")? != sent {
            return Err("the migrated VM got another flow than was sent".into());
        }
        step("what flowed all the time has arrived whole");
        self.say(&slept);
        network.end(target)?;
        step("all have ended");
        Ok(())
    }

    fn build_network(&self) -> Result<Network> {
        let backends: Vec<_> = (0..CARDS).map(|number| self.backend(number)).collect();
        let testpmd = self.start_testpmd(&backends)?;
        let mut chains = Vec::new();
        if self.chained() {
            for (number, backend) in backends.iter().enumerate() {
                let log = self.log(&format!("chain-{number}"));
                let socket = self.socket(number);
                let chain = Chain::start(&self.program, &socket, backend, &log, self.lossy)?;
                chains.push(chain);
            }
        }
        for number in 0..CARDS {
            wait_for(&self.socket(number))?;
        }
        let mut network = Network {
            testpmd,
            chains,
            vm: self.start_card("vm", 0, ADDRESS, None)?,
            peer: self.start_card("peer", 1, OTHER_ADDRESS, None)?,
        };
        network.vm.hear("ready")?;
        network.peer.hear("ready")?;
        network.tell_testpmd("start")?;
        network.vm.order("reach", "reached")?;
        Ok(network)
    }

    /// Migrates the VM while the other one sends to it. Returns where it has arrived,
    /// which nothing can reach yet, and what was sent to it.
    fn migrate(&self, network: &mut Network) -> Result<(Card, Sent)> {
        let stream = format!("unix:{}", self.path("stream").display());
        let target = self.start_card("target", 2, ADDRESS, Some(&stream))?;
        network.vm.order("receive", "listening")?;
        network.vm.qmp.start_migration(&stream)?;
        let sent = Sent::parse(&network.peer.order("send", "sends ")?)?;
        network.vm.order("held", "held")?;
        self.say(&network.flow([0, 1])?);
        network.vm.qmp.is_migrating()?;
        network.vm.qmp.end_migration()?;
        Ok((target, sent))
    }

    fn pack_initramfs(&self) -> Result<()> {
        let listener = self.path("rarp_listen");
        let source = workspace::root().join("xtask/src/e2e/net_migrate/guest/rarp_listen.c");
        run(Command::new("gcc")
            .args(["-O2", "-Wall", "-Wextra", "-Werror", "-o"])
            .arg(&listener)
            .arg(source))?;
        let mut modules = self.host.modules.clone();
        modules.extend(self.host.find_modules(&NET_MODULES)?);
        let role = format!("HELD={HELD}\n{}", include_str!("guest/card.sh"));
        let programs = [("rarp_listen", &*listener)];
        let initramfs = root::initramfs(&self.host, &modules, &role, &programs)?;
        let path = self.path("initramfs");
        fs::write(&path, initramfs).path_context("cannot write", &path)
    }

    fn build_chain() -> Result<PathBuf> {
        run(Command::new(workspace::cargo())
            .args(["build", "--quiet", "--release"])
            .args(["--package", "vhost-guest-examples"])
            .args(["--example", "chain"]))?;
        Ok(workspace::target().join("release/examples/chain"))
    }

    fn start_testpmd(&self, sockets: &[PathBuf]) -> Result<Running> {
        let log = self.log("testpmd");
        let output = fs::File::create(&log).path_context("cannot create", &log)?;
        let errors = output.try_clone().path_context("cannot open", &log)?;
        let mut command = self.testpmd.command(sockets);
        let testpmd = Running::spawn("testpmd", command.stdout(output).stderr(errors))?;
        sockets.iter().try_for_each(|socket| wait_for(socket))?;
        Ok(testpmd)
    }

    fn start_card(
        &self,
        name: &str,
        number: usize,
        address: u8,
        incoming: Option<&str>,
    ) -> Result<Card> {
        let places = Places {
            initramfs: &self.path("initramfs"),
            socket: &self.socket(number),
            monitor: &self.path(&format!("{name}.monitor")),
            console: &self.log(name),
        };
        Card::start(&self.host, &places, address, incoming)
    }

    /// The socket of a card, to which QEMU connects.
    fn socket(&self, number: usize) -> PathBuf {
        self.path(&format!("card{number}.sock"))
    }

    /// The socket on which testpmd listens: the same without a chain.
    fn backend(&self, number: usize) -> PathBuf {
        match self.chained() {
            true => self.path(&format!("testpmd{number}.sock")),
            false => self.socket(number),
        }
    }

    fn chained(&self) -> bool {
        self.way != "control"
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.0.join(name)
    }

    fn log(&self, name: &str) -> PathBuf {
        self.logs.join(format!("net-migrate-{name}.log"))
    }

    fn say(&self, text: &str) {
        let seconds = self.started.elapsed().as_secs_f64();
        println!("[{seconds:5.1} s] {}: {text}", self.way);
    }
}

impl Network {
    fn tell_testpmd(&mut self, lines: &str) -> Result<()> {
        let input = self.testpmd.child().stdin.as_mut();
        let input = input.ok_or("testpmd has no input")?;
        writeln!(input, "{lines}").context("cannot type for testpmd")
    }

    /// Some MiB flow through two cards. Returns what was seen of the chains, which
    /// sleep meanwhile.
    fn flow(&mut self, cards: [usize; 2]) -> Result<String> {
        let mut chains: Vec<_> = self.chains.iter_mut().enumerate().collect();
        chains.retain(|(number, _)| cards.contains(number));
        let before: Result<Vec<_>> = chains
            .iter_mut()
            .map(|(_, chain)| chain.settled())
            .collect();
        let before = before?;
        self.peer.order("flow", "flows")?;
        let after: Result<Vec<_>> = chains
            .iter_mut()
            .map(|(_, chain)| chain.switches())
            .collect();
        match before.is_empty() {
            true => Ok("the flow goes on".into()),
            false => check_sleep(&before, &after?),
        }
    }

    /// All end; the QEMU that the VM has left, too.
    fn end(mut self, target: Card) -> Result<()> {
        if let Some(status) = self.testpmd.ended()? {
            return Err(format!("testpmd has ended: {status}").into());
        }
        for card in [self.vm, self.peer, target] {
            card.quit()?;
        }
        self.chains.into_iter().try_for_each(Chain::stop)
    }
}

/// Frames passed while relays and devices slept; who plays the kernel cannot have
/// slept, and shows that the counters count.
fn check_sleep(before: &[Switches], after: &[Switches]) -> Result<String> {
    let growth = |of: fn(&Switches) -> u64| {
        let sum = |switches: &[Switches]| switches.iter().map(of).sum::<u64>();
        sum(after).saturating_sub(sum(before))
    };
    let relay = growth(|switches| switches.relay);
    let device = growth(|switches| switches.device);
    let others = growth(|switches| switches.others);
    if relay != 0 || device != 0 {
        return Err(format!("the relays ran {relay} times, and the devices {device} times").into());
    }
    if others == 0 {
        return Err("no context switches of those that pass kicks and calls on".into());
    }
    Ok(format!(
        "while it flows, context switches: {relay} of the relays, {device} of the devices, \
         {others} of the guests"
    ))
}

/// Connecting would make us a frontend, so the path has to do.
fn wait_for(socket: &Path) -> Result<()> {
    let deadline = Instant::now() + START_LIMIT;
    while !socket.exists() {
        if Instant::now() >= deadline {
            return Err(format!("nobody listens at {}", socket.display()).into());
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Sums of what a VM sends.
struct Sent {
    /// Of the bytes that are held.
    first: String,
    /// Of all bytes of that stream.
    all: String,
}

impl Sent {
    fn parse(said: &str) -> Result<Self> {
        let words: Vec<_> = said.split(' ').collect();
        let &[first, all] = words.as_slice() else {
            return Err(format!("no two sums: {said}").into());
        };
        Ok(Self {
            first: first.to_owned(),
            all: all.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_relay_or_a_device_that_takes_part() {
        let chain = |relay, device, others| Switches {
            relay,
            device,
            others,
        };
        let sleep =
            |after| check_sleep(&[chain(1, 2, 3), chain(0, 0, 0)], &[after, chain(0, 0, 0)]);
        assert!(sleep(chain(1, 2, 4)).is_ok());
        assert!(sleep(chain(2, 2, 4)).is_err());
        assert!(sleep(chain(1, 3, 4)).is_err());
        assert!(sleep(chain(1, 2, 3)).is_err(), "the counters do not count");
    }

    #[test]
    fn wants_two_sums() {
        assert_eq!(Sent::parse("a b").unwrap().all, "b");
        assert!(Sent::parse("a").is_err() && Sent::parse("a b c").is_err());
    }
}
