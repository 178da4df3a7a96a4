//! The tokio runtime of a command, with as many threads as it needs. Called by `main`, and by `check` for the number.

use std::ffi::OsString;

use imaptrace_record::escape;

use super::{
    exit_code::{FAILED, USAGE},
    output::Output,
};
use crate::{agent, clock, net, telemetry::logs};

/// Threads that probe. Export has its own.
#[derive(Clone, Copy)]
pub(super) enum Threads {
    /// For one run after the other: no thread wakes another, which costs more than what it would do then.
    One,
    AsManyAsCores,
}

/// Files that are open once the threads that probe have started and listen to signals.
const TO_START: usize = 6;

/// The name of the threads that probe, for `ps -L` and strace.
const WORKER: &str = "probe";
/// The variable from which tokio takes its number of threads. It panics at what it cannot parse, so it is checked here.
pub(super) const WORKERS: &str = "TOKIO_WORKER_THREADS";
/// More are of no use to a probe, and each is one that the system may not give.
const MOST_WORKERS: usize = 1024;

/// As many as the variable says, else one for each core.
pub(super) fn workers(given: Option<OsString>) -> Result<usize, String> {
    let Some(given) = given.filter(|given| !given.is_empty()) else {
        return Ok(std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(MOST_WORKERS));
    };
    let number = given.to_str().and_then(|text| text.parse().ok()).filter(|number| (1..=MOST_WORKERS).contains(number));
    number.ok_or_else(|| {
        let shown = escape(&given.to_string_lossy().chars().take(40).collect::<String>());
        format!(
            "variable {WORKERS}: \"{shown}\" is not a number of threads: expected 1 to {MOST_WORKERS}\n  help: unset it: \
             there is one for each core then"
        )
    })
}

pub(super) fn in_runtime(threads: Threads, output: &mut Output, run: impl AsyncFnOnce(&mut Output) -> u8) -> u8 {
    net::init_openssl();
    // Parts of what is started here do not fail but fall over.
    if let Err(error) = net::can_open(TO_START) {
        output.error(&format!("cannot open as many files as it takes to start: {error}; raise the limit (ulimit -n)"));
        return FAILED;
    }
    if let Err(error) = logs::start_writer() {
        match threads {
            // A run that says which thread it lacks tells more.
            Threads::One => logs::write_in_place(),
            Threads::AsManyAsCores => {
                output.error(&format!("cannot start the thread that writes to standard error: {error}"));
                return FAILED;
            }
        }
    }
    let mut builder = match threads {
        Threads::One => tokio::runtime::Builder::new_current_thread(),
        Threads::AsManyAsCores => match workers(std::env::var_os(WORKERS)) {
            Ok(number) => {
                let mut builder = tokio::runtime::Builder::new_multi_thread();
                builder.worker_threads(number).thread_name(WORKER);
                builder
            }
            Err(problem) => {
                output.error(&problem);
                return USAGE;
            }
        },
    };
    builder.on_thread_start(agent::enter_thread).on_thread_stop(agent::leave_thread);
    match builder.enable_all().build() {
        Ok(runtime) => {
            let code = runtime.block_on(async {
                let _heartbeat = clock::Heartbeat::start();
                run(output).await
            });
            // What still runs has been given up, and is not waited for.
            runtime.shutdown_background();
            code
        }
        Err(error) => {
            output.error(&format!("cannot start the threads that probe: {error}"));
            FAILED
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_of_threads_that_tokio_would_fall_over_is_refused_by_name() {
        let number = |text: &str| workers(Some(text.into()));
        assert_eq!(number("3"), Ok(3));
        assert_eq!(number("1024"), Ok(1024));
        // Set to nothing is how a unit file unsets it.
        assert_eq!(number(""), workers(None));
        for wrong in ["0", "x", "-1", "1025", "99999999999999999999", "\u{1b}[31m"] {
            let problem = number(wrong).unwrap_err();
            assert!(problem.starts_with("variable TOKIO_WORKER_THREADS: ") && !problem.contains('\u{1b}'), "{problem}");
        }
    }
}
