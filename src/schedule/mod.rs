//! When each run starts, and how many are under way at once.
//!
//! Every slot has a phase of its own, spread over its interval by a stable hash of its name, and starts on a fixed grid
//! from there, which no reload moves. Runs of one slot never overlap; a start that cannot happen waits a little for its
//! turn, then is skipped and told of, never made up for in a burst. It knows no probe: it starts what it is handed, and a
//! panic or a hang in there touches no other slot. Called by `agent`.
//!
//! ```text
//! grid     where the starts of a slot stand
//! pace     limits, and logins at an even distance
//! book     what is due, what waits, what runs: every decision, and no clock
//! keeper   the task that does what the book decides
//! ```

mod book;
mod grid;
mod keeper;
mod pace;

use std::{future::Future, sync::Arc, time::Duration};

use tokio::{
    sync::mpsc::{UnboundedSender, unbounded_channel},
    task::JoinHandle,
};

pub use self::keeper::Pulse;
use self::keeper::{Keeper, Order};
use crate::clock;
pub use crate::plan::RunLimits as Limits;

/// Something to start again and again.
#[derive(Debug)]
pub struct Slot<T> {
    /// What it is known by, over reloads too; tells the phase. Unique.
    pub name: Arc<str>,
    /// Whose limits it counts to.
    pub server: Arc<str>,
    /// Start to start.
    pub interval: Duration,
    /// A run that has not ended by then is given up.
    pub patience: Duration,
    /// How often a run logs in; at least 1.
    pub logins: u32,
    /// What to start.
    pub work: Arc<T>,
}

/// Why a start was skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skip {
    /// The slot's last run was still under way.
    Running,
    /// Its turn did not come in time: as many runs as allowed were under way, or as many logins began.
    Limit,
    /// It is in a maintenance window.
    Window,
    /// This process did not get to run in time.
    Overload,
}

/// How a run got lost by a fault of its own code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// It panicked.
    Panicked,
    /// It stayed longer than its slot's patience. Its place is free; its slot waits until it has really ended.
    Overstayed,
}

/// Who does the work.
pub trait Runner: Send + Sync + 'static {
    /// What a slot starts.
    type Work: Send + Sync + 'static;

    /// A run of this work, so late after its planned start.
    fn run(&self, work: Arc<Self::Work>, lag: Duration) -> impl Future<Output = ()> + Send + 'static;

    /// Whether work that is due now is in a maintenance window.
    fn is_closed(&self, work: &Self::Work) -> bool;

    /// So many planned starts did not happen.
    fn skipped(&self, work: &Self::Work, why: Skip, count: u64);

    /// A run did not end by itself.
    fn lost(&self, work: &Self::Work, how: Lost);
}

/// A schedule that goes on, without slots at first.
#[derive(Debug)]
pub struct Schedule<T> {
    orders: UnboundedSender<Order<T>>,
    keeping: JoinHandle<()>,
    pulse: Pulse,
}

impl<T: Send + Sync + 'static> Schedule<T> {
    /// Starts it. All grids begin now.
    pub fn start<R: Runner<Work = T>>(runner: Arc<R>) -> Self {
        let (orders, wanted) = unbounded_channel();
        let pulse = Pulse::new(clock::now());
        let keeper = Keeper::new(runner, Limits::default(), pulse.clone());
        Self { orders, keeping: tokio::spawn(keeper.keep(wanted)), pulse }
    }

    /// Goes over to these slots and limits. A slot that is as before (the same work, not an equal one) goes on as if
    /// nothing had been; a removed one ends with its run; one that changed takes the new work from its next start on.
    ///
    /// Comes back at once. The schedule goes over step by step, and starts what is due in between.
    pub fn apply(&self, slots: Vec<Slot<T>>, limits: Limits) {
        self.apply_and_drop(slots, limits, ());
    }

    /// The same, and drops what was kept for the plan before when that is no longer in use, on a thread that starts nothing.
    pub fn apply_and_drop(&self, slots: Vec<Slot<T>>, limits: Limits, before: impl Send + 'static) {
        // It is gone only when it panicked, which the pulse tells.
        drop(self.orders.send(Order::Apply(slots, limits, Box::new(before))));
    }

    /// Tells whether it still goes round.
    pub fn pulse(&self) -> Pulse {
        self.pulse.clone()
    }

    /// Starts nothing more, and waits for the runs under way to end. Those that have not after so long are dropped.
    /// Returns whether all ended.
    pub async fn stop(self, within: Duration) -> bool {
        drop(self.orders.send(Order::Stop));
        let mut keeping = self.keeping;
        let ended = tokio::time::timeout(within, &mut keeping).await.is_ok();
        keeping.abort();
        ended
    }
}

#[cfg(test)]
mod property;
#[cfg(test)]
mod tests;
