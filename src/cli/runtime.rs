//! The tokio runtime of a command, with as many threads as it needs. Called by `cli`, and by `check` for the number.

use std::ffi::OsString;

use imaptrace_record::escape;
use tokio::runtime::{Builder, Runtime};

use super::{
    exit_code::{FAILED, USAGE},
    output::Output,
};
use crate::{agent, clock, net, telemetry::logs};

/// Threads that probe. Export has its own.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Threads {
    /// For runs one after another: waking a second thread costs more than the work that it would do.
    One,
    AsManyAsCores,
}

/// Files that are open once the threads that probe have started and signals are caught.
const TO_START: usize = 6;
/// The name of the threads that probe, for `ps -L` and strace.
const WORKER: &str = "probe";
/// The variable from which tokio takes its number of threads. It panics at an invalid one, so it is checked here.
pub(super) const WORKERS: &str = "TOKIO_WORKER_THREADS";
/// More are of no use to probes, and the system may not provide them.
const MOST_WORKERS: usize = 1024;

/// The number in the variable, else one for each core.
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

/// Runs a command in a runtime of its own.
pub(super) fn in_runtime(threads: Threads, output: &mut Output, run: impl AsyncFnOnce(&mut Output) -> u8) -> u8 {
    net::init_openssl();
    let runtime = match build(threads) {
        Ok(runtime) => runtime,
        Err((problem, code)) => {
            output.error(&problem);
            return code;
        }
    };
    let code = runtime.block_on(async {
        let _heartbeat = clock::Heartbeat::start();
        run(output).await
    });
    // Tasks that still run have been given up.
    runtime.shutdown_background();
    code
}

/// Starts the threads. The error comes with its exit code.
fn build(threads: Threads) -> Result<Runtime, (String, u8)> {
    // Without files, some of the code that is called here panics.
    net::can_open(TO_START).map_err(|error| {
        (format!("cannot open as many files as it takes to start: {error}; raise the limit (ulimit -n)"), FAILED)
    })?;
    match logs::start_writer() {
        Ok(()) => {}
        // A run that reports which thread it lacks is worth more.
        Err(_) if threads == Threads::One => logs::write_in_place(),
        Err(error) => {
            return Err((format!("cannot start the thread that writes to standard error: {error}"), FAILED));
        }
    }
    let mut builder = Builder::new_current_thread();
    if threads == Threads::AsManyAsCores {
        let number = workers(std::env::var_os(WORKERS)).map_err(|problem| (problem, USAGE))?;
        builder = Builder::new_multi_thread();
        builder.worker_threads(number).thread_name(WORKER);
    }
    builder.on_thread_start(agent::enter_thread).on_thread_stop(agent::leave_thread).enable_all();
    builder.build().map_err(|error| (format!("cannot start the threads that probe: {error}"), FAILED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_of_threads_that_makes_tokio_panic_is_refused_by_name() {
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
