// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A time limit that a VMM may set, or not.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::time::{
    timerfd_create, timerfd_gettime, timerfd_settime, Itimerspec, TimerfdClockId, TimerfdFlags,
    TimerfdTimerFlags, Timespec,
};

use crate::host;

const NEVER: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};
/// The shortest time that does not stop a timer.
const AT_ONCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 1,
};

/// A timer that runs while something is waited for. Without a limit it never
/// does, and has no descriptor.
#[derive(Debug)]
pub(crate) struct Alarm {
    timer: Option<(OwnedFd, Timespec)>,
    /// While it runs: what was waited for, in the caller's terms.
    running: Option<u64>,
    /// While time stands still: what is left of it, if it runs.
    left: Option<Timespec>,
}

impl Alarm {
    /// An alarm that is not running.
    pub(crate) fn new(limit: Option<Duration>) -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = match limit {
            Some(limit) => {
                let timer = host::ask(|| timerfd_create(TimerfdClockId::Monotonic, flags))?;
                Some((timer, timespec(limit)))
            }
            None => None,
        };
        Ok(Self {
            timer,
            running: None,
            left: None,
        })
    }

    /// The timer, to wait for.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.timer.as_ref().map(|(timer, _)| timer.as_fd())
    }

    /// Runs while `wanted`; from the beginning whenever `what` is waited for
    /// changes.
    pub(crate) fn run(&mut self, wanted: bool, what: u64) {
        let now = wanted.then_some(what);
        if let Some((timer, limit)) = self.timer.as_ref().filter(|_| now != self.running) {
            let limit = if wanted { *limit } else { NEVER };
            match &mut self.left {
                Some(left) => *left = limit,
                None => set(timer, limit),
            }
            self.running = now;
        }
    }

    /// Time stands still until [`resume`](Self::resume).
    pub(crate) fn pause(&mut self) {
        let Some((timer, _)) = self.timer.as_ref().filter(|_| self.left.is_none()) else {
            return;
        };
        let left = match (self.running, timerfd_gettime(timer)) {
            (None, _) => NEVER,
            (Some(_), Ok(Itimerspec { it_value, .. })) if it_value != NEVER => it_value,
            // It rang, and nobody has heard it.
            (Some(_), _) => AT_ONCE,
        };
        set(timer, NEVER);
        self.left = Some(left);
    }

    /// Time goes on.
    pub(crate) fn resume(&mut self) {
        if let (Some((timer, _)), Some(left)) = (&self.timer, self.left.take()) {
            set(timer, left);
        }
    }

    /// Whether time is up for `what`. The alarm has to be run again.
    pub(crate) fn is_over(&mut self, what: u64) -> bool {
        let Some((timer, _)) = self.timer.as_ref().filter(|_| self.left.is_none()) else {
            return false;
        };
        // A timer that was set again has nothing to read.
        let rang = rustix::io::read(timer, &mut [0u8; 8]).is_ok();
        rang && self.running.take() == Some(what)
    }

    #[cfg(test)]
    pub(crate) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Lets time pass, if it runs: then the timer has expired.
    #[cfg(test)]
    pub(crate) fn pass(&self) {
        use rustix::event::{poll, PollFd, PollFlags};
        if let Some((timer, _)) = self.timer.as_ref().filter(|_| self.is_running()) {
            set(timer, timespec(Duration::ZERO));
            let mut fds = [PollFd::new(timer, PollFlags::IN)];
            assert_eq!(poll(&mut fds, None), Ok(1));
        }
    }
}

/// 0 would stop the timer.
fn timespec(limit: Duration) -> Timespec {
    if limit.is_zero() {
        return AT_ONCE;
    }
    Timespec {
        tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: limit.subsec_nanos().into(),
    }
}

fn set(timer: &OwnedFd, value: Timespec) {
    let once = Itimerspec {
        it_interval: NEVER,
        it_value: value,
    };
    // It can only fail for a descriptor that is no timer.
    let _ = timerfd_settime(timer, TimerfdTimerFlags::empty(), &once);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_for_what_it_was_set() {
        let mut alarm = Alarm::new(Some(Duration::from_secs(3600))).unwrap();
        assert!(!alarm.is_over(1));
        alarm.run(true, 1);
        alarm.run(true, 1);
        assert!(!alarm.is_over(1));
        alarm.pass();
        assert!(alarm.is_over(1));
        assert!(!alarm.is_running());
        alarm.run(true, 1);
        alarm.pass();
        assert!(!alarm.is_over(2), "something else was waited for");
    }

    #[test]
    fn starts_again_for_something_else_and_stops() {
        let mut alarm = Alarm::new(Some(Duration::MAX)).unwrap();
        alarm.run(true, 1);
        alarm.pass();
        alarm.run(true, 2);
        assert!(!alarm.is_over(2), "not from the beginning");
        alarm.pass();
        alarm.run(false, 2);
        assert!(!alarm.is_over(2) && !alarm.is_running());
    }

    #[test]
    fn has_as_much_time_after_a_pause_as_before() {
        let mut alarm = Alarm::new(Some(Duration::from_secs(3600))).unwrap();
        let set_to = |alarm: &Alarm| {
            let (timer, _) = alarm.timer.as_ref().unwrap();
            timerfd_gettime(timer).unwrap().it_value
        };
        alarm.run(true, 1);
        let before = set_to(&alarm).tv_sec;
        alarm.pause();
        alarm.pause();
        assert_eq!(set_to(&alarm), NEVER);
        alarm.resume();
        alarm.resume();
        assert!((before - 60..=before).contains(&set_to(&alarm).tv_sec));
        assert!(!alarm.is_over(1) && alarm.is_running());
    }

    #[test]
    fn rings_after_a_pause_if_nobody_heard_it_before() {
        let mut alarm = Alarm::new(Some(Duration::from_secs(3600))).unwrap();
        alarm.run(true, 1);
        alarm.pass();
        alarm.pause();
        assert!(!alarm.is_over(1), "it rings in a pause");
        alarm.run(true, 1);
        alarm.resume();
        alarm.pass();
        assert!(alarm.is_over(1));
    }

    #[test]
    fn starts_and_stops_in_a_pause_for_the_time_after_it() {
        let mut alarm = Alarm::new(Some(Duration::from_nanos(1))).unwrap();
        alarm.pause();
        alarm.run(true, 1);
        assert!(alarm.is_running() && !alarm.is_over(1));
        alarm.resume();
        alarm.pass();
        assert!(alarm.is_over(1));
        alarm.run(true, 2);
        alarm.pause();
        alarm.run(false, 2);
        alarm.resume();
        assert!(!alarm.is_over(2) && !alarm.is_running());
    }

    #[test]
    fn does_nothing_without_a_limit() {
        let mut alarm = Alarm::new(None).unwrap();
        alarm.pause();
        alarm.run(true, 1);
        alarm.resume();
        assert!(alarm.fd().is_none() && !alarm.is_running() && !alarm.is_over(1));
    }
}
