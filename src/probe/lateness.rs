//! To whom a missed deadline is attributed: to the server, which is a failure, or to imaptrace, which makes the run void.
//!
//! `clock` has the length of a deadline, pauses included; the stamped stream, when the server owed nothing. Called by `driver`
//! and `sasl` when time is up or the connection has ended, after the kernel's buffers were read.

use std::time::Duration;

use imaptrace_record::ErrorType;

use super::{
    classify,
    driver::Driver,
    exchange::{Awaited, Fault},
};
use crate::clock::{self, Deadline};

/// No server ends a connection that was idle for less than this.
const IDLE: Duration = Duration::from_secs(1);

impl Driver {
    /// The fault of a step that did not end in time.
    pub(super) fn time_up(&self, deadline: Deadline, timeout: ErrorType, awaited: Awaited) -> Fault {
        Fault::new(self.own_delay(deadline, awaited).unwrap_or(timeout), clock::now())
    }

    /// The class of a step that is over and in which the server owed us a response for too short a time.
    pub(super) fn own_delay(&self, deadline: Deadline, awaited: Awaited) -> Option<ErrorType> {
        let (wire, begin, end) = (&self.wire, deadline.begin(), deadline.lengthened());
        let since = || wire.last_event().unwrap_or(begin);
        let mut away = wire.not_owed();
        match awaited {
            Awaited::Greeting => {}
            Awaited::Response => away.push((begin, wire.asked_at().unwrap_or(end))),
            Awaited::SendBuffer(sending) => away.push((since(), sending)),
            Awaited::Nothing => away.push((since(), end)),
        }
        deadline.own_delay(away).map(classify::of_own_delay)
    }

    /// The fault, with a class of our own if we kept the server waiting: servers end idle connections.
    pub(super) fn excused(&self, fault: Fault, deadline: Deadline) -> Fault {
        let ended = matches!(fault.class, ErrorType::Eof | ErrorType::Reset | ErrorType::Bye);
        match self.kept_idle(deadline).filter(|_| ended) {
            Some(class) => Fault { class, ..fault },
            None => fault,
        }
    }

    /// The class of a connection that ended after we left it idle.
    pub(super) fn kept_idle(&self, deadline: Deadline) -> Option<ErrorType> {
        let (long, since) = (deadline.tenth().max(IDLE), self.idle_since);
        if !clock::paused(since, clock::now(), long).is_zero() {
            return Some(ErrorType::Suspended);
        }
        let before = self.wire.first_write().map(|sent| (since, sent));
        let mut waits = self.wire.not_owed().into_iter().chain(before);
        waits.any(|(from, to)| to.saturating_duration_since(from) > long).then_some(ErrorType::OverloadCpu)
    }
}
