//! Follows the mail log in the journal of systemd, by `journalctl`. Called by `sampler`, on its thread.
//!
//! The journal's own library is C, and its file format has no maintained crate; `journalctl` is on every host that has a
//! journal. It runs for as long as the agent does, which programs that print a secret (`secret`) do not. It gets none of
//! this process's variables, since they may be secrets.

use std::{
    io::{self, Read as _},
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tracing::{info, warn};

use super::lines::LineSplitter;

const PROGRAM: &str = "journalctl";
/// Of Dovecot's unit alone: any user may write lines with its identifier, which is the `instance_name` of its configuration.
const ARGUMENTS: &[&str] =
    &["--follow", "--lines=0", "--output=cat", "--quiet", "--no-pager", "_SYSTEMD_UNIT=dovecot.service"];
/// Bytes that are read at once.
const BLOCK: usize = 64 << 10;
/// The most reads of a poll.
const BLOCKS: usize = 4;
/// The pause before it is started again: twice the last one, up to a minute.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A program that has run for this long starts with the first pause again when it ends.
const STEADY: Duration = Duration::from_secs(60);

/// See the module's head.
#[derive(Debug)]
pub(super) struct Journal {
    program: String,
    running: Option<RunningJournal>,
    lines: LineSplitter,
    block: Vec<u8>,
    pause: Duration,
    next_start: Instant,
    /// Why it did not run, as it was logged.
    problem: Option<String>,
}

#[derive(Debug)]
struct RunningJournal {
    child: Child,
    output: ChildStdout,
    since: Instant,
}

impl Journal {
    pub(super) fn new(now: Instant) -> Self {
        Self::of(PROGRAM, now)
    }

    fn of(program: &str, now: Instant) -> Self {
        Self {
            program: program.to_owned(),
            running: None,
            lines: LineSplitter::default(),
            block: vec![0; BLOCK],
            pause: FIRST_PAUSE,
            next_start: now,
            problem: None,
        }
    }

    /// Passes on the lines that were written since the last poll. Starts the program if it does not run.
    pub(super) fn poll(&mut self, now: Instant, on_line: &mut dyn FnMut(&[u8])) {
        if self.running.is_none() && now >= self.next_start {
            match RunningJournal::start(&self.program, now) {
                Ok(running) => self.running = Some(running),
                Err(error) => self.failed(now, format!("cannot be started: {error}")),
            }
        }
        let Some(running) = &mut self.running else { return };
        for _ in 0..BLOCKS {
            match running.output.read(&mut self.block) {
                Ok(size @ 1..) => self.lines.add(self.block.get(..size).unwrap_or_default(), on_line),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => {
                    let Some(running) = self.running.take() else { return };
                    let (since, how) = (running.since, running.end());
                    if now.saturating_duration_since(since) >= STEADY {
                        self.pause = FIRST_PAUSE;
                    }
                    return self.failed(now, how);
                }
            }
        }
        if running_for(running, now) >= STEADY && self.problem.take().is_some() {
            info!("journalctl runs");
        }
    }

    fn failed(&mut self, now: Instant, problem: String) {
        self.lines.clear();
        self.next_start = now + self.pause;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        if self.problem.as_ref() != Some(&problem) {
            warn!(
                "journalctl, which reads the mail log, {problem}: no session is accounted until it runs; it is started again \
                 after 1 to 60 s. To read the journal a user must be in the group systemd-journal"
            );
        }
        self.problem = Some(problem);
    }
}

fn running_for(running: &RunningJournal, now: Instant) -> Duration {
    now.saturating_duration_since(running.since)
}

impl RunningJournal {
    #[expect(clippy::disallowed_methods, reason = "on a thread of its own")]
    fn start(program: &str, now: Instant) -> io::Result<Self> {
        let mut command = Command::new(program);
        command.args(ARGUMENTS).env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn()?;
        let output = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let running = Self { child, output, since: now };
        let flags = OFlag::from_bits_truncate(fcntl(&running.output, FcntlArg::F_GETFL)?);
        fcntl(&running.output, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        Ok(running)
    }

    /// Ends the program if it has not ended by itself, and returns how it ended.
    fn end(mut self) -> String {
        let status = self.child.try_wait();
        match status {
            Ok(Some(status)) => format!("has ended ({status})"),
            Ok(None) | Err(_) => "has closed its output".to_owned(),
        }
    }
}

impl Drop for RunningJournal {
    fn drop(&mut self) {
        // Fails when it has ended. Killed, it ends at once.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _, thread};

    use super::*;
    use crate::clock;

    fn script(text: &str) -> tempfile::TempPath {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), format!("#!/bin/sh\n{text}\n")).unwrap();
        let path = file.into_temp_path();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        path
    }

    /// Polls until there are lines or a problem.
    fn poll(journal: &mut Journal, now: Instant) -> Vec<String> {
        let mut lines = Vec::new();
        for _ in 0..2_000 {
            journal.poll(now, &mut |line| lines.push(String::from_utf8_lossy(line).into_owned()));
            if !lines.is_empty() || journal.problem.is_some() {
                break;
            }
            thread::sleep(Duration::from_millis(5));
        }
        lines
    }

    #[test]
    fn lines_of_the_journal_are_read_until_the_follower_is_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let pid = directory.path().join("pid");
        let program = script(&format!(
            "echo $$ >{pid}; echo \"imap-login: $* $HOME\"; echo other; exec sleep 1000",
            pid = pid.display()
        ));
        let now = clock::now();
        let mut journal = Journal::of(program.to_str().unwrap(), now);
        assert_eq!(poll(&mut journal, now), [format!("imap-login: {} ", ARGUMENTS.join(" "))]);
        drop(journal);
        let pid: i32 = fs::read_to_string(pid).unwrap().trim().parse().unwrap();
        assert!(nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None).is_err(), "it runs on");
    }

    #[test]
    fn a_program_that_ends_or_is_missing_is_started_again_after_ever_longer_pauses() {
        let program = script("exit 3");
        let mut now = clock::now();
        let mut journal = Journal::of(program.to_str().unwrap(), now);
        assert!(poll(&mut journal, now).is_empty());
        assert!(journal.problem.as_ref().is_some_and(|problem| problem.starts_with("has")), "{:?}", journal.problem);
        assert_eq!(journal.next_start - now, Duration::from_secs(1));
        let mut missing = Journal::of("/nowhere/journalctl", now);
        for pause in [1, 2, 4, 8, 16, 32, 60, 60] {
            missing.poll(now, &mut |_| {});
            assert!(missing.problem.as_ref().is_some_and(|problem| problem.starts_with("cannot be started")));
            assert_eq!(missing.next_start - now, Duration::from_secs(pause));
            now = missing.next_start;
        }
    }
}
