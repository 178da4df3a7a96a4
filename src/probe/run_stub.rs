//! The record of a run that never comes to an end of its own.

use std::time::Duration;

use imaptrace_imap::Secret;
use imaptrace_record::{ErrorType, Run};

use super::{
    job::{Ids, Job},
    recorder::Recorder,
    target_context::TargetContext,
};
use crate::{clock::Anchor, net::Family, plan::Account};

/// What is known of a run before it begins: its record when it never comes to an end of its own.
#[derive(Debug)]
pub struct RunStub<'a> {
    target: &'a TargetContext,
    account: &'a Account,
    family: Family,
    ids: Ids,
    start_lag: Option<Duration>,
    begin: Anchor,
}

impl<'a> Job<'a> {
    /// What to fall back on should the run never come back. To be called right before it.
    pub fn stub(&self) -> RunStub<'a> {
        let Self { target, account, family, ids, start_lag, .. } = *self;
        RunStub { target, account, family, ids, start_lag, begin: Anchor::now() }
    }
}

impl RunStub<'_> {
    /// A run of this class, up to now, without a step.
    pub fn end(self, class: ErrorType) -> Run {
        let Self { target, account, family, ids, start_lag, begin } = self;
        let secret = Ok(Secret::new(String::new()));
        let job = Job { target, account, family, ids, start_lag, secret, hold_login: None };
        Recorder::new(&job, begin).give_up(class)
    }
}
