//! Reads what the kernel counts of a process: `/proc/PID/stat` and `/proc/PID/schedstat`. Called by `dovecot` and `sampler`.
//!
//! The files of a process stay open: a read of them fails when the process has ended, also when another one has its number by
//! then.

#![expect(clippy::disallowed_methods, reason = "paths below /proc, on a thread of its own")]

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    str::{self, FromStr},
    time::Duration,
};

use nix::{
    fcntl::{OFlag, openat},
    sys::stat::Mode,
};

use super::series::UsageSample;
use crate::clock;

/// Longer than any line of these files: a name has 15 bytes, a number at most 20.
const LINE: usize = 1_024;
/// `USER_HZ`: the unit of times in `stat` (proc(5)).
const TICKS_A_SECOND: u32 = 100;

/// The file system of processes.
#[derive(Debug, Clone)]
pub(super) struct ProcRoot(PathBuf);

/// A line of `/proc/PID/stat`, as far as it is of use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ProcessStat {
    /// The name of its program, 15 bytes of it.
    pub(super) name: String,
    pub(super) parent: i32,
    /// From boot to its start, in steps of 10 ms.
    pub(super) started: Duration,
    /// Time in which it waited for block devices; zero where the kernel does not count that.
    block_wait: Duration,
}

impl ProcRoot {
    pub(super) fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// The ids of all processes that are visible here.
    pub(super) fn ids(&self) -> io::Result<Vec<i32>> {
        let entries = fs::read_dir(&self.0)?;
        let id = |entry: io::Result<fs::DirEntry>| entry.ok()?.file_name().to_str()?.parse().ok();
        Ok(entries.filter_map(id).collect())
    }

    /// The ids of the children of a process. An error where the kernel has no such list (`CONFIG_PROC_CHILDREN`).
    pub(super) fn children(&self, pid: i32) -> io::Result<Vec<i32>> {
        let text = fs::read_to_string(self.0.join(format!("{pid}/task/{pid}/children")))?;
        Ok(text.split_ascii_whitespace().filter_map(|id| id.parse().ok()).collect())
    }

    /// The name of a process's program.
    pub(super) fn name(&self, pid: i32) -> Option<String> {
        let name = fs::read_to_string(self.0.join(format!("{pid}/comm"))).ok()?;
        Some(name.trim_end().to_owned())
    }

    /// The real user of a process: the one who started it, also where its file is set-user-ID.
    pub(super) fn real_user(&self, pid: i32) -> Option<u32> {
        let status = fs::read_to_string(self.0.join(format!("{pid}/status"))).ok()?;
        let users = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
        users.split_ascii_whitespace().next()?.parse().ok()
    }

    /// The present `stat` of a process.
    pub(super) fn stat(&self, pid: i32) -> Option<ProcessStat> {
        ProcessStat::parse(&fs::read_to_string(self.0.join(format!("{pid}/stat"))).ok()?)
    }

    /// Whether the kernel counts the time in which processes wait for block devices (`kernel.task_delayacct`).
    pub(super) fn counts_block_wait(&self) -> bool {
        let text = fs::read_to_string(self.0.join("sys/kernel/task_delayacct"));
        text.is_ok_and(|text| text.trim() == "1")
    }

    /// The text of a file here, if it can be read.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.0.join(name)).ok()
    }
}

/// A process whose files are open.
#[derive(Debug)]
pub(super) struct OpenProcess {
    pub(super) pid: i32,
    pub(super) stat: ProcessStat,
    schedstat: File,
    /// Open where the wait for block devices is counted.
    stat_file: Option<File>,
    last: Option<UsageSample>,
    /// The last two samples were alike.
    is_idle: bool,
}

impl OpenProcess {
    /// Opens the files of a process. `block_wait`: the kernel counts the wait for block devices, and it is of interest.
    pub(super) fn open(root: &ProcRoot, pid: i32, block_wait: bool) -> io::Result<Self> {
        let directory = File::open(root.0.join(pid.to_string()))?;
        // Below one descriptor of the directory, so all of them are of the same process.
        let open = |name: &str| {
            openat(&directory, name, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
                .map(File::from)
                .map_err(io::Error::from)
        };
        let (schedstat, stat_file) = (open("schedstat")?, open("stat")?);
        let mut line = [0; LINE];
        let stat = ProcessStat::parse(read_line(&stat_file, &mut line)?).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { pid, stat, schedstat, stat_file: block_wait.then_some(stat_file), last: None, is_idle: false })
    }

    /// Reads what the process has used up to now; an error when it has ended.
    pub(super) fn sample(&mut self) -> io::Result<UsageSample> {
        let mut line = [0; LINE];
        let at = clock::wall();
        let (cpu, run_queue) = scheduled(read_line(&self.schedstat, &mut line)?).ok_or(io::ErrorKind::UnexpectedEof)?;
        let last = self.last.filter(|last| (last.cpu, last.run_queue) == (cpu, run_queue));
        let block_wait = match (&self.stat_file, last) {
            // It has not run since, so it has not come back from a wait either.
            (Some(_), Some(last)) if self.is_idle => last.block_wait,
            (Some(file), _) => {
                let stat = ProcessStat::parse(read_line(file, &mut line)?).ok_or(io::ErrorKind::UnexpectedEof)?;
                Some(stat.block_wait)
            }
            (None, _) => None,
        };
        self.is_idle = last.is_some();
        let sample = UsageSample { at, cpu, run_queue, block_wait };
        self.last = Some(sample);
        Ok(sample)
    }
}

/// Reads the first line of a file from its start.
fn read_line<'a>(file: &File, line: &'a mut [u8; LINE]) -> io::Result<&'a str> {
    let size = file.read_at(line, 0)?;
    let text = line.get(..size).unwrap_or_default();
    // A name of a program may be any bytes, but that of none of interest.
    let text = str::from_utf8(text).map_err(|_| io::ErrorKind::InvalidData)?;
    Ok(text.lines().next().unwrap_or_default())
}

/// `schedstat`: nanoseconds on a CPU, and nanoseconds of waiting for one.
fn scheduled(line: &str) -> Option<(Duration, Duration)> {
    let mut numbers = line.split_ascii_whitespace().map(|number| number.parse().ok());
    Some((Duration::from_nanos(numbers.next()??), Duration::from_nanos(numbers.next()??)))
}

impl ProcessStat {
    /// Reads `stat`. The name stands in parentheses and may have parentheses and spaces in it.
    fn parse(line: &str) -> Option<Self> {
        let (before, behind) = line.rsplit_once(") ")?;
        let (_, name) = before.split_once('(')?;
        let fields: Vec<&str> = behind.split_ascii_whitespace().collect();
        // By the numbers of proc(5), where the name is 2.
        let field = |number: usize| fields.get(number - 3);
        Some(Self {
            name: name.to_owned(),
            parent: i32::from_str(field(4)?).ok()?,
            started: ticks(field(22)?)?,
            block_wait: ticks(field(42)?)?,
        })
    }
}

fn ticks(text: &str) -> Option<Duration> {
    let ticks: u64 = text.parse().ok()?;
    let (seconds, rest) = (ticks / u64::from(TICKS_A_SECOND), ticks % u64::from(TICKS_A_SECOND));
    Some(Duration::from_secs(seconds) + Duration::from_millis(rest * 1_000 / u64::from(TICKS_A_SECOND)))
}

/// A `/proc` of files that a test writes.
#[cfg(test)]
pub(super) mod fake {
    use super::*;

    pub(crate) struct FakeProc(tempfile::TempDir);

    impl FakeProc {
        pub(crate) fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        pub(crate) fn root(&self) -> ProcRoot {
            ProcRoot::new(self.0.path())
        }

        pub(crate) fn path(&self) -> &Path {
            self.0.path()
        }

        pub(crate) fn start(&self, pid: i32, name: &str, parent: i32) {
            let directory = self.0.path().join(pid.to_string());
            fs::create_dir_all(directory.join(format!("task/{pid}"))).unwrap();
            fs::write(directory.join("comm"), format!("{name}\n")).unwrap();
            fs::write(directory.join(format!("task/{pid}/children")), "").unwrap();
            fs::write(directory.join("stat"), stat_line(pid, name, parent, 0)).unwrap();
            self.owned(pid, 0);
            self.used(pid, 0, 0);
        }

        pub(crate) fn owned(&self, pid: i32, user: u32) {
            let text = format!("Name:\tx\nUid:\t{user}\t0\t0\t0\n");
            fs::write(self.0.path().join(format!("{pid}/status")), text).unwrap();
        }

        pub(crate) fn children(&self, pid: i32, children: &str) {
            fs::write(self.0.path().join(format!("{pid}/task/{pid}/children")), children).unwrap();
        }

        pub(crate) fn used(&self, pid: i32, cpu_ms: u64, run_queue_ms: u64) {
            let text = format!("{} {} 7\n", cpu_ms * 1_000_000, run_queue_ms * 1_000_000);
            fs::write(self.0.path().join(format!("{pid}/schedstat")), text).unwrap();
        }

        pub(crate) fn blocked(&self, pid: i32, name: &str, parent: i32, ticks: u64) {
            fs::write(self.0.path().join(format!("{pid}/stat")), stat_line(pid, name, parent, ticks)).unwrap();
        }

        pub(crate) fn end(&self, pid: i32) {
            // What is read of an ended process is an error; of these files, nothing.
            self.used(pid, 0, 0);
            fs::write(self.0.path().join(format!("{pid}/schedstat")), "").unwrap();
            fs::remove_dir_all(self.0.path().join(pid.to_string())).unwrap();
        }
    }

    pub(crate) fn stat_line(pid: i32, name: &str, parent: i32, block_wait: u64) -> String {
        format!(
            "{pid} ({name}) S {parent} 812 812 0 -1 4194560 348 0 0 0 1 2 0 0 20 0 1 0 12345 7081984 1321 \
             18446744073709551615 1 1 0 0 0 0 0 4096 1088 0 0 0 17 1 0 0 {block_wait} 0 0 0 0 0 0 0 0 0 0\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::{fake::FakeProc, *};

    #[test]
    fn a_stat_line_is_read_by_its_last_parenthesis() {
        for name in ["imap", "imap-login", "a) S 1 (b", "(sd-pam)", "x y"] {
            let stat = ProcessStat::parse(&fake::stat_line(9, name, 7, 42)).unwrap();
            assert_eq!((stat.name.as_str(), stat.parent), (name, 7));
            assert_eq!((stat.started, stat.block_wait), (Duration::from_millis(123_450), Duration::from_millis(420)));
        }
        for bad in ["", "9 (imap) S 7", "9 imap S 7 8", "9 (imap) S x"] {
            assert_eq!(ProcessStat::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn times_are_read_in_nanoseconds() {
        assert_eq!(scheduled("1500000000 42 7"), Some((Duration::from_millis(1_500), Duration::from_nanos(42))));
        for bad in ["", "1", "x 1", "1 x", "-1 2"] {
            assert_eq!(scheduled(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_process_is_sampled_until_it_ends_and_another_one_with_its_number_is_not() {
        let proc = FakeProc::new();
        proc.start(9, "imap", 7);
        let mut process = OpenProcess::open(&proc.root(), 9, true).unwrap();
        assert_eq!((process.stat.name.as_str(), process.stat.parent), ("imap", 7));
        proc.used(9, 3, 4);
        proc.blocked(9, "imap", 7, 5);
        let sample = process.sample().unwrap();
        let millis = Duration::from_millis;
        assert_eq!((sample.cpu, sample.run_queue, sample.block_wait), (millis(3), millis(4), Some(millis(50))));
        proc.end(9);
        proc.start(9, "imap", 7);
        proc.used(9, 300, 400);
        assert!(process.sample().is_err());
    }

    #[test]
    fn the_wait_for_block_devices_is_read_when_the_process_has_run() {
        let proc = FakeProc::new();
        proc.start(9, "imap", 7);
        let mut process = OpenProcess::open(&proc.root(), 9, true).unwrap();
        let mut waited = || process.sample().unwrap().block_wait.unwrap().as_millis();
        assert_eq!(waited(), 0);
        proc.blocked(9, "imap", 7, 1);
        // It may have come back from a wait since the last line of `schedstat`.
        assert_eq!(waited(), 10);
        proc.blocked(9, "imap", 7, 2);
        assert_eq!(waited(), 10);
        proc.used(9, 1, 0);
        assert_eq!(waited(), 20);
        let mut without = OpenProcess::open(&proc.root(), 9, false).unwrap();
        assert_eq!(without.sample().unwrap().block_wait, None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_very_process_is_read_of_the_real_proc() {
        let me = std::process::id().cast_signed();
        let mut process = OpenProcess::open(&ProcRoot::new(Path::new("/proc")), me, true).unwrap();
        assert_eq!(process.stat.parent, nix::unistd::getppid().as_raw());
        assert!(process.stat.started <= clock::since_boot());
        let sample = process.sample().unwrap();
        assert!(sample.cpu + sample.run_queue > Duration::ZERO, "{sample:?}");
    }
}
