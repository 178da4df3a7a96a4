//! Whose time it was when a step took too long: the server's, which is a failure, or our own, which makes the run void.
//!
//! What the kernel held was read before this is asked. `clock` has the length of a deadline, pauses included; the stamped stream,
//! when the server owed nothing. Called by `driver` and `sasl` when time is up or the connection has ended.

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
    /// What it is that a step did not end in time.
    pub(super) fn time_up(&self, deadline: Deadline, timeout: ErrorType, awaited: Awaited) -> Fault {
        Fault::new(self.own_delay(deadline, awaited).unwrap_or(timeout), clock::now())
    }

    /// The class of a step that is over and in which the server owed us too little of the time to be blamed.
    pub(super) fn own_delay(&self, deadline: Deadline, awaited: Awaited) -> Option<ErrorType> {
        let (wire, begin, end) = (self.wire(), deadline.begin(), deadline.lengthened());
        let since = || wire.last_event().unwrap_or(begin);
        let mut away = wire.not_owed();
        match awaited {
            Awaited::Greeting => {}
            Awaited::Answer => away.push((begin, wire.asked_at().unwrap_or(end))),
            Awaited::Room(sending) => away.push((since(), sending)),
            Awaited::Us => away.push((since(), end)),
        }
        deadline.own_delay(away).map(classify::of_own_delay)
    }

    /// A fault as it is to be judged after we kept the server waiting: servers end what is idle.
    pub(super) fn excused(&self, fault: Fault, deadline: Deadline) -> Fault {
        let ended = matches!(fault.class, ErrorType::Eof | ErrorType::Reset | ErrorType::Bye);
        match self.kept_idle(deadline).filter(|_| ended) {
            Some(class) => Fault { class, ..fault },
            None => fault,
        }
    }

    /// The class of a connection that ended after we let it lie idle.
    pub(super) fn kept_idle(&self, deadline: Deadline) -> Option<ErrorType> {
        let (long, since) = (deadline.tenth().max(IDLE), self.idle_since);
        if !clock::paused(since, clock::now(), long).is_zero() {
            return Some(ErrorType::Suspended);
        }
        let before = self.wire().first_write().map(|sent| (since, sent));
        let mut waits = self.wire().not_owed().into_iter().chain(before);
        waits.any(|(from, to)| to.saturating_duration_since(from) > long).then_some(ErrorType::OverloadCpu)
    }
}
