//! SIGINT and SIGTERM to a command that has results to show and to deliver: it ends in order, and within five seconds.
//!
//! The signals are waited for on a thread of its own, if there can be one: the one that the command runs on may be writing to a
//! pipe that is not read. Called by `probe`, `canary` and `replay`.

use std::{
    future::pending,
    io,
    sync::{Arc, OnceLock, mpsc},
    time::{Duration, Instant},
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    time::{sleep, sleep_until},
};

use crate::{agent, clock, net, probe::Cancel};

/// All of the end, from the signal on.
const END: Duration = Duration::from_secs(5);
/// Of that, for the run under way to say good-bye; the rest is for delivery.
const GOODBYE: Duration = Duration::from_millis(2500);

/// The signals, caught.
pub(super) struct Signals {
    stopped: Cancel,
    first: Arc<OnceLock<First>>,
}

/// The first signal.
#[derive(Clone, Copy)]
struct First {
    kind: SignalKind,
    at: Instant,
}

impl Signals {
    /// From now on the signals do not end the process by themselves.
    pub(super) fn catch() -> io::Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let first = Arc::new(OnceLock::new());
        let (caught, is_caught) = mpsc::channel();
        let waiting = SignalWaiter { stop, first: first.clone() };
        let on_its_own = waiting.clone();
        let wait = move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return drop(caught.send(Err(error))),
            };
            runtime.block_on(async {
                let signals = match CaughtSignals::catch() {
                    Ok(signals) => signals,
                    Err(error) => return drop(caught.send(Err(error))),
                };
                drop(caught.send(Ok(())));
                on_its_own.end_by(signals).await;
            });
        };
        match std::thread::Builder::new().name("signals".to_owned()).spawn(wait) {
            Ok(_) => is_caught.recv().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))?,
            // Without it they come late when the command writes to such a pipe, and a run that shows why it has no thread
            // either is worth more.
            Err(_) => drop(tokio::spawn(waiting.end_by(CaughtSignals::catch()?))),
        }
        Ok(Self { stopped, first })
    }

    /// True from the first signal on.
    pub(super) fn stopped(&self) -> &Cancel {
        &self.stopped
    }

    /// The exit code of a command that a signal ended before it had anything to show.
    pub(super) fn early_code(&self) -> u8 {
        code(self.first.get().map_or(SignalKind::interrupt(), |first| first.kind))
    }

    /// Returns when a cancelled run has had its time to end.
    pub(super) async fn overdue(&self) {
        let mut stopped = self.stopped.clone();
        if stopped.wait_for(|stopped| *stopped).await.is_err() {
            return pending().await;
        }
        if let Some(first) = self.first.get() {
            sleep_until((first.at + GOODBYE).into()).await;
        }
    }

    /// What is left until the end has to be over, less what the process's own end takes. None without a signal.
    pub(super) fn left(&self) -> Option<Duration> {
        let end = self.first.get()?.at + END.mul_f64(0.94);
        Some(end.saturating_duration_since(clock::now()))
    }

    /// The exit code of a command that a signal ended, as a shell counts it: as if the signal had not been caught.
    pub(super) fn code(&self) -> Option<u8> {
        Some(code(self.first.get()?.kind))
    }
}

/// Whom the first signal is told.
#[derive(Clone)]
struct SignalWaiter {
    stop: watch::Sender<bool>,
    first: Arc<OnceLock<First>>,
}

impl SignalWaiter {
    /// Waits for a signal, and ends the process if it has not ended in time after it.
    async fn end_by(self, mut signals: CaughtSignals) {
        let kind = signals.next().await;
        self.first.get_or_init(|| First { kind, at: clock::now() });
        self.stop.send_replace(true);
        sleep(END.mul_f64(0.97)).await;
        // The command does not end: it writes to what is not read.
        agent::exit(code(kind), net::remove_roots);
    }
}

/// SIGTERM and SIGINT, caught from now on.
struct CaughtSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl CaughtSignals {
    fn catch() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Returns at the next one.
    async fn next(&mut self) -> SignalKind {
        tokio::select! {
            _ = self.terminate.recv() => SignalKind::terminate(),
            _ = self.interrupt.recv() => SignalKind::interrupt(),
        }
    }
}

/// As a shell counts them.
fn code(kind: SignalKind) -> u8 {
    u8::try_from(128 + kind.as_raw_value()).unwrap_or(u8::MAX)
}
