//! SIGINT and SIGTERM to a command that has results to show and to deliver: it ends in order, and within five seconds.
//!
//! The signals are waited for on a thread of its own, if there can be one: the command's thread may be writing to a pipe that
//! is not read. Called by `probe`, `canary` and `replay`.

use std::{
    future::{Future, pending},
    io,
    sync::{Arc, OnceLock, mpsc},
    time::{Duration, Instant},
};

use tokio::{
    runtime,
    signal::unix::SignalKind,
    sync::watch,
    time::{sleep, sleep_until},
};

use crate::{
    agent::{self, StopSignals},
    clock, net,
    probe::Cancel,
};

/// The longest time from the signal to the end of the process.
const END: Duration = Duration::from_secs(5);
/// The part of it that the run in flight has for LOGOUT; the rest is for delivery.
const LOGOUT_TIME: Duration = Duration::from_millis(2500);

/// The signals, caught.
pub(super) struct Signals {
    /// True from the first signal on.
    pub(super) stopped: Cancel,
    first: Arc<OnceLock<(SignalKind, Instant)>>,
}

impl Signals {
    /// From now on the signals do not end the process by themselves.
    pub(super) fn catch() -> io::Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let first = Arc::new(OnceLock::new());
        let (caught, is_caught) = mpsc::channel();
        let (thread_stop, thread_first) = (stop.clone(), first.clone());
        let wait = move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build();
            let started = runtime.and_then(|runtime| {
                let signals = runtime.block_on(async { StopSignals::catch() })?;
                Ok((runtime, signals))
            });
            match started {
                Ok((runtime, signals)) => {
                    drop(caught.send(Ok(())));
                    runtime.block_on(end_by(signals, thread_stop, thread_first));
                }
                Err(error) => drop(caught.send(Err(error))),
            }
        };
        match std::thread::Builder::new().name("signals".to_owned()).spawn(wait) {
            Ok(_) => is_caught.recv().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))?,
            // The signals are late while the command writes to such a pipe. A run that shows which thread it lacks is worth more.
            Err(_) => drop(tokio::spawn(end_by(StopSignals::catch()?, stop, first.clone()))),
        }
        Ok(Self { stopped, first })
    }

    /// The result of `work`; none if a signal comes first.
    pub(super) async fn unless_stopped<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut stopped = self.stopped.clone();
        tokio::select! {
            biased;
            Ok(_) = stopped.wait_for(|stopped| *stopped) => None,
            done = work => Some(done),
        }
    }

    /// Returns when a cancelled run has had its time to end.
    pub(super) async fn overdue(&self) {
        let mut stopped = self.stopped.clone();
        if stopped.wait_for(|stopped| *stopped).await.is_err() {
            return pending().await;
        }
        if let Some((_, at)) = self.first.get() {
            sleep_until((*at + LOGOUT_TIME).into()).await;
        }
    }

    /// The time left until the end, less what the end of the process takes. None without a signal.
    pub(super) fn left(&self) -> Option<Duration> {
        let (_, at) = self.first.get()?;
        Some((*at + END.mul_f64(0.94)).saturating_duration_since(clock::now()))
    }

    /// The exit code of a command that a signal ended, as a shell counts it: as if the signal had not been caught.
    pub(super) fn code(&self) -> Option<u8> {
        self.first.get().map(|(kind, _)| code(*kind))
    }

    /// The exit code of a command that was stopped before it had a result.
    pub(super) fn early_code(&self) -> u8 {
        self.code().unwrap_or_else(|| code(SignalKind::interrupt()))
    }
}

/// Waits for a signal, and ends the process if it has not ended in time after it.
async fn end_by(mut signals: StopSignals, stop: watch::Sender<bool>, first: Arc<OnceLock<(SignalKind, Instant)>>) {
    let (kind, at) = signals.next().await;
    first.get_or_init(|| (kind, at));
    stop.send_replace(true);
    sleep(END.mul_f64(0.97)).await;
    // The command does not end: it writes to a pipe that is not read.
    agent::exit(code(kind), net::remove_roots);
}

fn code(kind: SignalKind) -> u8 {
    u8::try_from(128 + kind.as_raw_value()).unwrap_or(u8::MAX)
}
