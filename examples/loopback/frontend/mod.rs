// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The frontend, in a process of its own: what the VMM of an ordinary guest
//! with a vhost-user disk does, and a workload in the role of that guest.

pub(crate) mod lane;
pub(crate) mod memory;
pub(crate) mod pattern;
mod ring;
pub(crate) mod session;
pub(crate) mod watchdog;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use vm_memory::GuestMemoryMmap;

use self::lane::{Counters, Lane, Next};
use self::pattern::{Model, BLOCK};
use self::session::{Disk, Session};
use self::watchdog::Watchdog;
use crate::loopback::failure::{Context, Failure};
use crate::loopback::latency::Histogram;
use crate::loopback::options::{Length, Options};
use crate::loopback::report::Report;
use crate::loopback::signals;
use crate::loopback::wakeups::Switches;

/// Requests of each queue before the measured part.
const WARM_UP: u64 = 500;

/// Runs the workload and prints a [`Report`] to the standard output.
pub fn run(options: &Options) -> Result<(), Failure> {
    let (Some(socket), Some(vmm)) = (&options.socket, options.frontend_of) else {
        return Err(Failure::Usage("the frontend needs a socket".into()));
    };
    signals::unblock()?;
    // Ends with the process that started it.
    let signal = Some(rustix::process::Signal::TERM);
    rustix::process::set_parent_process_death_signal(signal).context("prctl")?;

    let watchdog = Watchdog::start();
    let memory = memory::allocate(options.disk.queues)?;

    let mut session = Session::open(socket, options.disk.queues, &watchdog)?;
    let disk = session.disk;
    let models = divide(disk, options.disk.queues)?;
    eprintln!(
        "connected: {} MiB{}, {} queues",
        disk.sectors >> 11,
        if disk.read_only { ", read-only" } else { "" },
        options.disk.queues
    );
    let (mut report, models) = work(&mut session, models, &memory, options, vmm)?;
    session.close()?;

    let mut session = Session::open(socket, options.disk.queues, &watchdog)?;
    report.verified = verify(&mut session, &models, &memory, options)?;
    session.close()?;
    eprintln!("reconnected: {} blocks verified", report.verified);

    if let Some(image) = &options.image {
        let blocks = compare(image, models)?;
        eprintln!("image: {blocks} blocks verified");
    }
    print!("{report}");
    Ok(())
}

/// Gives each queue a part of the disk, so that no two queues use a block.
fn divide(disk: Disk, queues: u16) -> Result<Vec<Model>, Failure> {
    let blocks = disk.sectors / (BLOCK as u64 / 512);
    let part = blocks / u64::from(queues);
    if part == 0 {
        return Err(Failure::Backend("the disk is too small".into()));
    }
    let firsts = (0..u64::from(queues)).map(|queue| queue * part);
    Ok(firsts.map(|first| Model::new(first, part)).collect())
}

/// How lanes and the measuring thread go through the phases together.
struct Course {
    /// Passed when the warm-up is over, when the counts have been read, and
    /// when the measured part is over.
    line: Barrier,
    /// The time is over.
    stop: AtomicBool,
    /// Requests that may still be made.
    left: AtomicU64,
    /// Lanes that have finished the measured part.
    finished: AtomicU64,
    counters: Counters,
}

/// The random workload.
fn work(
    session: &mut Session<'_>,
    models: Vec<Model>,
    memory: &Arc<GuestMemoryMmap>,
    options: &Options,
    vmm: u32,
) -> Result<(Report, Vec<Model>), Failure> {
    let course = Course {
        line: Barrier::new(models.len() + 1),
        stop: AtomicBool::new(false),
        left: AtomicU64::new(match options.length {
            Length::Requests(requests) => requests,
            Length::Time(_) => u64::MAX,
        }),
        finished: AtomicU64::new(0),
        counters: Counters::default(),
    };
    let queues = session.start(memory)?.into_iter();
    let lanes = queues
        .zip(models)
        .enumerate()
        .map(|(index, (queue, model))| {
            let (memory, counters) = (memory.clone(), &course.counters);
            Lane::new(
                index as u16,
                queue,
                model,
                session.disk,
                memory,
                options.seed,
                counters,
            )
        });
    let lanes: Vec<_> = lanes.collect();
    thread::scope(|scope| {
        let course = &course;
        let lanes = lanes.into_iter();
        let lanes: Vec<_> = lanes
            .map(|lane| scope.spawn(move || drive(lane, course)))
            .collect();
        let (mut report, start) = measure(course, options, lanes.len() as u64, vmm)?;
        let mut end = start;

        let mut latencies = Histogram::new();
        let mut models = Vec::new();
        for lane in lanes {
            let panicked = |_| Failure::Backend("the workload panicked".into());
            let done = lane.join().map_err(panicked)?;
            latencies.merge(&done.latencies);
            models.push(done.model);
            end = end.max(done.end);
        }
        report.nanoseconds = (end - start).as_nanos() as u64;
        report.requests = latencies.total();
        report.p50 = latencies.percentile(500);
        report.p99 = latencies.percentile(990);
        report.p999 = latencies.percentile(999);
        Ok((report, models))
    })
}

/// What a lane brings back.
struct Done {
    model: Model,
    latencies: Histogram,
    /// When its last measured request had finished.
    end: Instant,
}

/// A lane's way through the phases.
///
/// A failure ends the process: the other threads would wait for this one.
fn drive(mut lane: Lane<'_>, course: &Course) -> Done {
    let mut warm_up = WARM_UP;
    let outcome = lane.run(|lane| {
        if warm_up == 0 {
            return Next::End;
        }
        let next = lane.random_request();
        warm_up -= u64::from(matches!(next, Next::Request(_)));
        next
    });
    outcome.unwrap_or_else(|failure| crate::loopback::fail(&failure));
    lane.latencies.clear();
    course.line.wait();
    course.line.wait();

    let outcome = lane.run(|lane| {
        if course.stop.load(Ordering::Relaxed) {
            return Next::End;
        }
        let next = lane.random_request();
        if !matches!(next, Next::Request(_)) {
            return next;
        }
        let left = &course.left;
        let taken = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            left.checked_sub(1)
        });
        taken.map_or(Next::End, |_| next)
    });
    outcome.unwrap_or_else(|failure| crate::loopback::fail(&failure));
    let end = Instant::now();
    course.finished.fetch_add(1, Ordering::Relaxed);
    course.line.wait();
    Done {
        model: lane.model,
        latencies: lane.latencies,
        end,
    }
}

/// Counts the VMM's wake-ups while the lanes work, and shows the progress.
///
/// Returns what it measured, and when it began.
fn measure(
    course: &Course,
    options: &Options,
    lanes: u64,
    vmm: u32,
) -> Result<(Report, Instant), Failure> {
    course.line.wait();
    let before = quiet(vmm)?;
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let counters = &course.counters;
    let (kicks, calls) = (count(&counters.kicks), count(&counters.calls));
    let warm_up = count(&counters.requests);
    let start = Instant::now();
    course.line.wait();

    let mut shown = (0, 0);
    while count(&course.finished) < lanes {
        thread::sleep(Duration::from_millis(20));
        let seconds = start.elapsed().as_secs();
        if seconds > shown.0 {
            let requests = count(&counters.requests) - warm_up;
            let rate = (requests - shown.1) / (seconds - shown.0);
            eprintln!("{seconds:4} s {requests:10} requests {rate:8} per second");
            shown = (seconds, requests);
        }
        if matches!(options.length, Length::Time(limit) if start.elapsed() >= limit) {
            course.stop.store(true, Ordering::Relaxed);
        }
    }
    let after = switches(vmm)?;
    course.line.wait();
    let report = Report {
        kicks: count(&counters.kicks) - kicks,
        calls: count(&counters.calls) - calls,
        wakeups: after.since(&before),
        ..Report::default()
    };
    Ok((report, start))
}

fn switches(vmm: u32) -> Result<Switches, Failure> {
    Switches::of(vmm).context("context switches of the VMM")
}

/// The counts after the VMM has finished what the start of the rings gave it
/// to do: closing descriptors, for example.
fn quiet(vmm: u32) -> Result<Switches, Failure> {
    const PAUSE: Duration = Duration::from_millis(50);
    let start = Instant::now();
    let mut before = switches(vmm)?;
    loop {
        thread::sleep(PAUSE);
        let now = switches(vmm)?;
        if now == before {
            return Ok(now);
        }
        if start.elapsed() > watchdog::LIMIT {
            let seconds = watchdog::LIMIT.as_secs();
            let text = format!("without requests, the VMM was busy for {seconds} s");
            return Err(Failure::Hang(text));
        }
        before = now;
    }
}

/// Reads all blocks with known content through a new connection.
fn verify(
    session: &mut Session<'_>,
    models: &[Model],
    memory: &Arc<GuestMemoryMmap>,
    options: &Options,
) -> Result<u64, Failure> {
    let counters = Counters::default();
    let queues = session.start(memory)?.into_iter();
    let disk = session.disk;
    thread::scope(|scope| {
        let lanes = queues
            .zip(models)
            .enumerate()
            .map(|(index, (queue, model))| {
                let (memory, model) = (memory.clone(), model.clone());
                let seed = options.seed;
                let mut lane = Lane::new(index as u16, queue, model, disk, memory, seed, &counters);
                scope.spawn(move || {
                    let mut position = lane.model.first();
                    let outcome = lane.run(|lane| lane.next_known(&mut position));
                    outcome.unwrap_or_else(|failure| crate::loopback::fail(&failure));
                })
            });
        // All are started before the first one is waited for.
        let lanes: Vec<_> = lanes.collect();
        lanes.into_iter().try_for_each(|lane| lane.join())
    })
    .map_err(|_| Failure::Backend("the workload panicked".into()))?;
    Ok(models.iter().map(Model::known).sum())
}

/// Compares the image itself with what must be in it.
fn compare(image: &Path, models: Vec<Model>) -> Result<u64, Failure> {
    let file = File::open(image).context(format!("{}", image.display()))?;
    let mut block = [0; BLOCK];
    let mut compared = 0;
    for mut model in models {
        for number in model.first()..model.first() + model.len() {
            if model.knows(number) {
                let read = file.read_exact_at(&mut block, number * BLOCK as u64);
                read.context(format!("{}", image.display()))?;
                model.verify(number, &block)?;
                compared += 1;
            }
        }
    }
    Ok(compared)
}
