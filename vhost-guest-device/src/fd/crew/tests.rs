// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use std::io::ErrorKind;
use std::sync::mpsc::{channel, Receiver, Sender};
use std::thread;

use rustix::event::{eventfd, EventfdFlags};
use vhost_guest_vmm_traits::test_utils::{Call, TestVmm};
use vhost_guest_vmm_traits::ThreadHook;

use super::*;

const KIND: Thread = Thread {
    name: "vhost-guest-tst",
    count: 3,
    syscalls: &[],
};
/// Jobs of one share at a time.
const MOST: usize = 2;

fn started() -> Crew {
    let crew = Crew::new(KIND, MOST);
    crew.start(&Launcher::start(None).unwrap());
    crew
}

/// Jobs that are stuck until what is returned is dropped, and say when they
/// begin.
fn stick(share: &Share, jobs: usize) -> (Sender<()>, Receiver<()>) {
    let (held, hold) = channel::<()>();
    let hold = Arc::new(Mutex::new(hold));
    let (begun, begin) = channel();
    for _ in 0..jobs {
        let (hold, begun) = (Arc::clone(&hold), begun.clone());
        share.push(move || {
            begun.send(()).unwrap();
            drop(begun);
            // It fails when the test lets go.
            let _ = hold.lock().unwrap_or_else(PoisonError::into_inner).recv();
        });
    }
    (held, begin)
}

fn wait_until(condition: impl Fn() -> bool) {
    while !condition() {
        thread::yield_now();
    }
}

/// Waits until a job of the share was done.
fn wait_for_job(share: &Share) {
    let (done, wait) = channel();
    share.push(move || done.send(()).unwrap());
    wait.recv().unwrap();
}

#[test]
fn has_no_thread_without_work_and_ends_those_that_have_none() {
    let crew = started();
    assert_eq!(crew.0.state().threads, 0);
    let share = crew.share();
    wait_for_job(&share);
    wait_for_job(&share);
    assert!(crew.0.state().threads <= MOST);
    wait_until(|| crew.0.state().threads == 0);
    wait_for_job(&share);
}

#[test]
fn what_comes_before_the_start_waits_for_it() {
    let crew = Crew::new(KIND, MOST);
    let share = crew.share();
    let (done, wait) = channel();
    share.push(move || done.send(()).unwrap());
    assert_eq!((crew.backlog(), share.backlog()), (1, 1));
    assert_eq!(crew.0.state().threads, 0);
    crew.start(&Launcher::start(None).unwrap());
    wait.recv().unwrap();
}

#[test]
fn a_share_that_is_stuck_holds_up_itself_only() {
    let crew = started();
    let (stuck, honest) = (crew.share(), crew.share());
    let (held, begin) = stick(&stuck, MOST + 5);
    for _ in 0..MOST {
        begin.recv().unwrap();
    }
    for _ in 0..10 {
        wait_for_job(&honest);
    }
    assert!(begin.try_recv().is_err(), "more than its part");
    assert_eq!(stuck.backlog(), MOST + 5);
    assert_eq!(stuck.begin(|| {}), Err(Stuck));
    wait_until(|| honest.backlog() == 0);
    honest.begin(|| {}).unwrap();
    // Abandoned, it still counts, and ends by itself.
    drop(stuck);
    assert!(crew.backlog() >= MOST + 5);
    drop(held);
    wait_until(|| crew.backlog() == 0);
    assert_eq!(crew.0.state().parts.len(), 1, "of a share that is gone");
}

#[test]
fn stuck_threads_have_an_end() {
    let crew = started();
    let shares = [crew.share(), crew.share()];
    let stuck = shares.each_ref().map(|share| stick(share, MOST));
    wait_until(|| crew.0.state().busy(MOST) == 2 * MOST && crew.0.state().starting == 0);
    assert_eq!(crew.0.state().threads, KIND.count);
    let late = crew.share();
    assert_eq!(late.begin(|| {}), Err(Stuck));
    let (done, wait) = channel();
    late.push(move || done.send(()).unwrap());
    drop(stuck);
    wait.recv().unwrap();
}

#[test]
fn answers_questions_and_drops_those_that_nobody_wants() {
    let crew = started();
    let share = crew.share();
    let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).unwrap());
    let answer = share.ask(&wake, || 7);
    assert_eq!(rustix::io::read(&*wake, &mut [0; 8]), Ok(8));
    assert_eq!(answer.take(), Some(7));
    assert_eq!(answer.take(), None);

    let (held, hold) = channel::<()>();
    let (kept, seen) = channel::<()>();
    let answer = share.ask(&wake, move || {
        let _ = hold.recv();
        kept
    });
    drop(answer);
    drop(held);
    assert!(seen.recv().is_err(), "it was dropped");
}

#[test]
fn a_job_that_panics_takes_nothing_along() {
    let crew = started();
    let share = crew.share();
    for _ in 0..KIND.count + 1 {
        share.push(|| std::panic::resume_unwind(Box::new("quiet")));
    }
    wait_until(|| crew.backlog() == 0);
    wait_for_job(&share);
}

#[test]
fn what_waits_is_done_when_the_crew_is_gone() {
    let crew = started();
    let share = crew.share();
    let (held, begin) = stick(&share, MOST + 1);
    begin.recv().unwrap();
    drop(crew);
    drop(held);
    begin.recv().unwrap();
    begin.recv().unwrap();
    wait_for_job(&share);
    wait_until(|| share.0.shared.state().threads == 0);
}

#[test]
fn a_thread_that_cannot_be_made_is_tried_again() {
    let vmm = Arc::new(TestVmm::new());
    let hook: Arc<dyn ThreadHook> = Arc::clone(&vmm) as _;
    let crew = Crew::new(KIND, MOST);
    let launcher = Launcher::start(Some(&hook)).unwrap();
    crew.start(&launcher);
    vmm.fail_nth(0, ErrorKind::PermissionDenied);
    let share = crew.share();
    wait_for_job(&share);
    let error = launcher.take_failure().unwrap();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(launcher.take_failure().is_none());
}

#[test]
fn devices_with_one_hook_share_the_thread_that_makes_threads() {
    let vmm = Arc::new(TestVmm::new());
    let hook: Arc<dyn ThreadHook> = Arc::clone(&vmm) as _;
    let other: Arc<dyn ThreadHook> = Arc::new(TestVmm::new());
    let names = || {
        let calls = vmm.calls().into_iter();
        let names = calls.filter_map(|call| match call {
            Call::ThreadStarted { name } => Some(name),
            _ => None,
        });
        names.collect::<Vec<_>>()
    };
    let first = Launcher::start(Some(&hook)).unwrap();
    let second = Launcher::start(Some(&hook)).unwrap();
    let _third = Launcher::start(Some(&other)).unwrap();
    assert_eq!(names(), ["vhost-guest-new"]);
    drop(first);
    let crew = Crew::new(KIND, MOST);
    crew.start(&second);
    wait_for_job(&crew.share());
    assert_eq!(names(), ["vhost-guest-new", KIND.name]);
    let process = Arc::downgrade(&second.0);
    drop((second, crew));
    wait_until(|| process.strong_count() == 0);
    Launcher::start(Some(&hook)).unwrap();
    assert_eq!(names().len(), 3, "the thread of before has ended");
}
