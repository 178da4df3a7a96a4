//! Targets from outside of this host: SRV records and Prometheus's HTTP service discovery.
//!
//! Asks the sources on a thread of its own, judges the answers, keeps the last good one of each over restarts, and publishes
//! them. Does not make targets: the configuration is loaded with the published answers, as it is with files of targets, so that
//! accounts, limits and the change of a running agent's targets are the same for all. Called by the agent and by `check`;
//! `config` has its settings.
//!
//! ```text
//! source   the settings of a source
//! follow   one task a source: asks, takes or leaves the answer
//! answer   the forms of answers; refuses single targets
//! http     one request
//! kept     the last good answers in the state directory
//! error    why a source gives no targets
//! ```

mod answer;
mod error;
mod follow;
mod http;
mod kept;
mod source;

use std::{sync::Arc, thread};

use tokio::sync::{oneshot, watch};
use tracing::warn;

use self::follow::{FollowedSources, SharedAnswers, follow};
pub use self::{
    answer::{CheckedAnswer, Discovered, DiscoveredEntry, DiscoveredTargets, RefusedTargets},
    error::SourceError,
    follow::ask_all,
    kept::{GoodAnswer, GoodAnswers, read_kept},
    source::{HttpCredentials, HttpSource, SourceId, SourceKind, TargetSource, is_every_host, last_label},
};
use crate::{plan::Dns, state::StateDir, telemetry::SourceReports};

/// The sources that an agent follows. The thread starts with the first source and ends with this.
pub struct Discovery {
    shared: Arc<SharedAnswers>,
    state: Option<StateDir>,
    wanted: watch::Sender<FollowedSources>,
    answers: watch::Receiver<Discovered>,
    /// Ends the thread when it is dropped.
    thread: Option<oneshot::Sender<()>>,
}

impl Discovery {
    /// Starts from the answers that were kept, which are not published as a change. Saves new ones in the state directory.
    pub fn new(state: Option<StateDir>, reports: SourceReports, kept: GoodAnswers) -> Self {
        let shared = Arc::new(SharedAnswers::new(kept, reports));
        let answers = shared.subscribe();
        Self { shared, state, wanted: watch::Sender::default(), answers, thread: None }
    }

    /// Follows these sources from now on, and no others. Never waits.
    pub fn follow(&mut self, sources: &[TargetSource], dns: &Dns) {
        self.wanted.send_if_modified(|wanted| {
            let is_new = *wanted.sources != *sources || wanted.dns != *dns;
            *wanted = FollowedSources { sources: sources.into(), dns: dns.clone() };
            is_new
        });
        if !sources.is_empty() && self.thread.is_none() {
            self.thread = self.start().map_err(|error| warn!("{}", SourceError::Thread(error))).ok();
        }
    }

    fn start(&self) -> std::io::Result<oneshot::Sender<()>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let following = follow(self.wanted.subscribe(), self.shared.clone(), self.state.clone());
        thread::Builder::new().name("discovery".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    biased;
                    // Dropping the sender is the same as sending.
                    _ = stopped => {}
                    () = following => {}
                }
            });
            runtime.shutdown_background();
        })?;
        Ok(stop)
    }

    /// Completes when an answer has changed since [`Discovery::current`] was called.
    pub async fn changed(&mut self) {
        // The sender is in `shared`.
        let _ = self.answers.changed().await;
    }

    /// The last good answers.
    pub fn current(&mut self) -> Discovered {
        self.answers.borrow_and_update().clone()
    }

    /// Reports how many targets of a source the configuration refuses, such as one whose name is taken.
    pub fn report_invalid(&self, source: &SourceId, targets: u64) {
        self.shared.reports.update(&source.group, &source.name, |report| report.invalid = targets);
    }
}
