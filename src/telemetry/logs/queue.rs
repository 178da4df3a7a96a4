//! Standard error, written by a thread of its own behind a bounded queue: logging never waits for the reader.
//!
//! When the queue is full, texts are dropped, and one line in their place has their number. The thread may hang in a write (a
//! pipe that is not read); it holds no lock then, and the process ends without it. Called by the log.

use std::{
    collections::VecDeque,
    io,
    os::fd::AsFd,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

/// Largest size of all texts that wait.
const BUDGET: usize = 1 << 20;
/// Memory of a text beside its bytes.
const OVERHEAD: usize = 64;
/// The interval of checks of the thread's progress.
const CHECK_INTERVAL: Duration = Duration::from_millis(10);
/// Number of checks without progress after which standard error counts as not read.
const UNREAD: u32 = 20;

/// The handle of the thread; clones share it.
#[derive(Clone)]
pub(super) struct LogQueue(Arc<SharedQueue>);

struct SharedQueue {
    state: Mutex<LogState>,
    filled: Condvar,
    /// Signalled when everything is written.
    emptied: Condvar,
}

#[derive(Default)]
struct LogState {
    pieces: VecDeque<QueueItem>,
    bytes: usize,
    /// It was full, and is not half empty yet.
    overflowing: bool,
    /// A piece is being written.
    writing: bool,
    /// Writes that have ended.
    written: u64,
    /// `written` when a wait timed out.
    unread_at: Option<u64>,
    dropped: u64,
    notice: Option<Notice>,
    /// Writes when there is no thread.
    in_place: Option<Write>,
}

type Write = Box<dyn FnMut(&[u8]) -> io::Result<()> + Send>;

enum QueueItem {
    Text(Vec<u8>),
    /// The number of texts that were dropped here.
    Gap(u64),
}

/// Formats the line in place of dropped texts.
pub(super) type Notice = Box<dyn Fn(u64) -> String + Send>;

impl LogQueue {
    /// Starts the thread. `write` writes all of the bytes.
    pub(super) fn start(write: impl FnMut(&[u8]) -> io::Result<()> + Send + 'static) -> io::Result<Self> {
        let shared = SharedQueue { state: Mutex::default(), filled: Condvar::new(), emptied: Condvar::new() };
        let this = Self(Arc::new(shared));
        let shared = this.0.clone();
        thread::Builder::new().name("log".to_owned()).spawn(move || shared.write_all(write))?;
        Ok(this)
    }

    /// Without a thread: the caller of [`Self::push`] writes each text.
    pub(super) fn in_place(write: impl FnMut(&[u8]) -> io::Result<()> + Send + 'static) -> Self {
        let state = LogState { in_place: Some(Box::new(write)), ..LogState::default() };
        Self(Arc::new(SharedQueue { state: Mutex::new(state), filled: Condvar::new(), emptied: Condvar::new() }))
    }

    pub(super) fn set_notice(&self, notice: Notice) {
        self.0.state().notice = Some(notice);
    }

    /// Queues a text, or drops it when there is no room. Waits only without a thread.
    pub(super) fn push(&self, text: &[u8]) {
        if text.is_empty() {
            return;
        }
        let mut state = self.0.state();
        if let Some(write) = &mut state.in_place {
            let outcome = write(text);
            state.dropped += u64::from(outcome.is_err());
            return;
        }
        let size = text.len() + OVERHEAD;
        state.overflowing &= state.bytes > BUDGET / 2;
        if state.overflowing || state.bytes + size > BUDGET {
            state.overflowing = true;
            state.dropped += 1;
            if let Some(QueueItem::Gap(count)) = state.pieces.back_mut() {
                *count += 1;
            } else {
                state.pieces.push_back(QueueItem::Gap(1));
            }
        } else {
            state.bytes += size;
            state.pieces.push_back(QueueItem::Text(text.to_owned()));
        }
        drop(state);
        self.0.filled.notify_one();
    }

    /// Waits until there is room for a text, no longer than 0.2 s when standard error is not read.
    pub(super) fn wait_for_room(&self, text: &[u8]) {
        let size = text.len() + OVERHEAD;
        self.wait(Duration::MAX, |state| !state.overflowing && state.bytes + size <= BUDGET);
    }

    /// Waits until everything is written, no longer than `longest`, and 0.2 s when standard error is not read.
    pub(super) fn flush(&self, longest: Duration) {
        self.wait(longest, |state| state.pieces.is_empty() && !state.writing);
    }

    pub(super) fn dropped(&self) -> u64 {
        self.0.state().dropped
    }

    fn wait(&self, longest: Duration, done: impl Fn(&LogState) -> bool) {
        let mut state = self.0.state();
        let mut checks = longest.as_millis() / CHECK_INTERVAL.as_millis();
        let (mut seen, mut idle) = (state.written, 0);
        while !done(&state) && checks > 0 && state.unread_at != Some(state.written) {
            state = self.0.emptied.wait_timeout(state, CHECK_INTERVAL).unwrap_or_else(PoisonError::into_inner).0;
            state.overflowing &= state.bytes > BUDGET / 2;
            checks -= 1;
            idle = if state.written == seen { idle + 1 } else { 0 };
            seen = state.written;
            if idle == UNREAD {
                state.unread_at = Some(seen);
            }
        }
    }
}

impl SharedQueue {
    fn state(&self) -> MutexGuard<'_, LogState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends with the process.
    fn write_all(&self, mut write: impl FnMut(&[u8]) -> io::Result<()>) {
        let mut state = self.state();
        loop {
            let Some(piece) = state.pieces.pop_front() else {
                state.writing = false;
                self.emptied.notify_all();
                state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let text = match piece {
                QueueItem::Text(text) => {
                    state.bytes -= text.len() + OVERHEAD;
                    text
                }
                QueueItem::Gap(count) => {
                    state.notice.as_ref().map_or_else(|| plain(count), |notice| notice(count)).into()
                }
            };
            state.writing = true;
            drop(state);
            let outcome = write(&text);
            state = self.state();
            state.written += 1;
            // The reader has gone, or the disk is full.
            state.dropped += u64::from(outcome.is_err());
        }
    }
}

pub(super) fn plain(count: u64) -> String {
    let (plural, were) = if count == 1 { ("", "was") } else { ("s", "were") };
    format!("{count} log line{plural} {were} dropped while standard error was not read")
}

/// Writes all of `bytes`. The standard library ignores a closed descriptor, and holds a lock while it writes to standard error.
pub fn write_all(stream: &impl AsFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match nix::unistd::write(stream, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(Errno::EINTR) => {}
            // Another process has set the pipe to non-blocking, and its reader is slow.
            Err(Errno::EAGAIN) => {
                let mut ready = [PollFd::new(stream.as_fd(), PollFlags::POLLOUT)];
                poll(&mut ready, PollTimeout::NONE).map_err(io::Error::from)?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A queue whose writer takes a text for each `()` that it is sent, and what it took.
    fn held() -> (LogQueue, mpsc::Sender<()>, mpsc::Receiver<String>) {
        let (allow, allowed) = mpsc::channel();
        let (took, taken) = mpsc::channel();
        let write = move |text: &[u8]| {
            allowed.recv().map_err(io::Error::other)?;
            took.send(String::from_utf8(text.to_owned()).unwrap()).map_err(io::Error::other)
        };
        (LogQueue::start(write).unwrap(), allow, taken)
    }

    #[test]
    fn without_a_thread_each_text_is_written_as_it_comes() {
        let (sender, taken) = mpsc::channel();
        let queue = LogQueue::in_place(move |text| {
            sender.send(text.to_vec()).unwrap();
            if text == b"bad" { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
        });
        for text in [b"one", b"bad"] {
            queue.wait_for_room(text);
            queue.push(text);
            assert_eq!(taken.try_recv().unwrap(), text);
        }
        queue.flush(Duration::MAX);
        assert_eq!(queue.dropped(), 1);
    }

    #[test]
    fn texts_over_the_budget_are_dropped_and_a_line_in_their_place_has_their_number() {
        let (queue, allow, taken) = held();
        let line = |number: usize| format!("{number:<1000}");
        let most = BUDGET / (1000 + OVERHEAD);
        // One more is with the writer once it has begun.
        queue.push(b"first");
        allow.send(()).unwrap();
        assert_eq!(taken.recv().unwrap(), "first");
        for number in 0..most + 10 {
            queue.push(line(number).as_bytes());
        }
        let dropped = queue.dropped();
        assert!((9..=10).contains(&dropped), "{dropped}");
        let kept = most + 10 - usize::try_from(dropped).unwrap();
        for number in 0..kept {
            allow.send(()).unwrap();
            assert_eq!(taken.recv().unwrap(), line(number), "in order");
            // Not line by line: half of the queue has to be free again.
            if number == 10 {
                queue.push(b"too soon");
            }
        }
        queue.push(b"again");
        allow.send(()).unwrap();
        let said = taken.recv().unwrap();
        assert_eq!(said, format!("{} log lines were dropped while standard error was not read", dropped + 1));
        allow.send(()).unwrap();
        assert_eq!(taken.recv().unwrap(), "again");
        assert_eq!(queue.dropped(), dropped + 1);
    }

    #[test]
    fn a_wait_is_short_and_happens_once_when_standard_error_is_not_read() {
        let (queue, allow, taken) = held();
        queue.push(b"one");
        queue.flush(Duration::MAX);
        assert!(queue.0.state().unread_at.is_some(), "timed out");
        // Would end the test by its harness if it waited for the reader.
        queue.flush(Duration::MAX);
        queue.wait_for_room(&vec![0; BUDGET]);
        allow.send(()).unwrap();
        assert_eq!(taken.recv().unwrap(), "one");
        queue.push(b"two");
        allow.send(()).unwrap();
        queue.flush(Duration::MAX);
        assert_eq!(taken.recv().unwrap(), "two", "and goes on when it is read");
    }

    #[test]
    fn failed_writes_are_counted_and_the_thread_continues() {
        let queue = LogQueue::start(|_| Err(io::ErrorKind::BrokenPipe.into())).unwrap();
        queue.push(b"one");
        queue.push(b"two");
        queue.flush(Duration::MAX);
        assert_eq!(queue.dropped(), 2);
    }
}
