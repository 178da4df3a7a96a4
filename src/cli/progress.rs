//! The progress line of a terminal: what is under way, and for how many seconds.
//!
//! A thread of its own makes it and the log's thread writes it: a terminal that is held (Ctrl-S) must not delay a run. It is
//! erased at the end, without escape sequences. Called by `probe`.

use std::{
    sync::mpsc::{self, RecvTimeoutError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::sync::watch;

use crate::{clock, probe::CurrentStep, telemetry::logs};

/// Shorter work shows no line.
const FIRST: Duration = Duration::from_millis(300);
const EACH: Duration = Duration::from_millis(100);
/// From here on the line shows how to end the run.
const LONG: Duration = Duration::from_secs(3);
/// Columns of the echo of Ctrl-C after the line.
const ECHOED: usize = 4;

/// Shows the line until it is dropped.
pub(super) struct ProgressLine {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl ProgressLine {
    /// Shows the current step of a run, after `run`, which may be empty.
    pub(super) fn of_run(width: usize, run: String, steps: watch::Receiver<Option<CurrentStep>>) -> Self {
        Self::start(width, move || {
            let current = steps.borrow().clone();
            current.map(|step| (format!("{run}{}", step.name), step.since, "  Ctrl-C ends it and shows what there is"))
        })
    }

    /// Shows other work.
    pub(super) fn of(width: usize, what: &'static str) -> Self {
        let since = clock::now();
        Self::start(width, move || Some((what.to_owned(), since, "")))
    }

    fn start(
        width: usize,
        mut state: impl FnMut() -> Option<(String, Instant, &'static str)> + Send + 'static,
    ) -> Self {
        let (stop, stopped) = mpsc::channel::<()>();
        let thread = thread::Builder::new().name("progress".to_owned()).spawn(move || {
            let mut shown = 0_usize;
            let mut wait = FIRST;
            while stopped.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
                wait = EACH;
                let Some((what, since, hint)) = state() else { continue };
                let text = line(&what, clock::now().saturating_duration_since(since), hint, width);
                logs::write_at_once(format!("\r{text:shown$}").as_bytes());
                shown = text.len();
            }
            if shown > 0 {
                let blank = (shown + ECHOED).min(width.saturating_sub(1));
                logs::write_at_once(format!("\r{:blank$}\r", "").as_bytes());
            }
        });
        Self { stop: Some(stop), thread: thread.ok() }
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// `FETCH 12.3 s`, in ASCII, and one column less than the terminal has, so that it does not wrap.
fn line(what: &str, lasts: Duration, hint: &str, width: usize) -> String {
    let hint = if lasts >= LONG { hint } else { "" };
    let text = format!("{what} {:.1} s{hint}", lasts.as_secs_f64());
    text.chars().take(width.saturating_sub(1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_has_step_and_time_and_never_reaches_the_last_column() {
        assert_eq!(line("FETCH", Duration::from_millis(2_340), "  Ctrl-C", 80), "FETCH 2.3 s");
        assert_eq!(line("FETCH", Duration::from_secs(3), "  Ctrl-C", 80), "FETCH 3.0 s  Ctrl-C");
        assert_eq!(line("run 3 of 10: AUTHENTICATE", Duration::from_secs(3), "", 12), "run 3 of 10");
    }
}
