//! What all runs of the process share: the resolver, and what shows a run as it goes. `journey` and `fill` run with it.

use tokio::sync::watch;

use super::{job::CurrentStep, transcript::LineSink};
use crate::{net::Resolver, plan::Dns};

/// Runs journeys. One for the life of the process.
#[derive(Debug)]
pub struct Prober {
    pub(super) resolver: Resolver,
    pub(super) line_sink: Option<LineSink>,
    pub(super) steps: Option<watch::Sender<Option<CurrentStep>>>,
}

impl Prober {
    /// A prober that resolves names so.
    pub fn new(dns: Dns) -> Self {
        Self { resolver: Resolver::new(dns), line_sink: None, steps: None }
    }

    /// The same, with every line of its conversations given to `sink`, redacted: for a person at a terminal, not for an agent.
    #[must_use]
    pub fn with_line_sink(self, sink: LineSink) -> Self {
        Self { line_sink: Some(sink), ..self }
    }

    /// Has each run report the step that it is at. For a process that makes one run at a time and shows it.
    #[must_use]
    pub fn watched(self, steps: watch::Sender<Option<CurrentStep>>) -> Self {
        Self { steps: Some(steps), ..self }
    }
}
