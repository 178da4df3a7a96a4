//! Notifications for systemd (`sd_notify`(3)): ready, reloading, stopping, a line of status, and keep-alives for the watchdog.
//!
//! No call blocks: a message for which systemd's socket is full waits and is sent again, or dropped if it is soon out of
//! date. Without `NOTIFY_SOCKET` nothing is sent. It decides nothing; called by `agent_status`.

use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    io::{self, ErrorKind},
    os::unix::{
        ffi::OsStrExt as _,
        net::{SocketAddr, UnixDatagram},
    },
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tracing::warn;

use crate::clock;

/// The variables that are for this process alone: a password command must not send notifications.
pub const SYSTEMD_VARIABLES: [&str; 3] = [SOCKET, WATCHDOG, WATCHDOG_PID];

const SOCKET: &str = "NOTIFY_SOCKET";
const WATCHDOG: &str = "WATCHDOG_USEC";
const WATCHDOG_PID: &str = "WATCHDOG_PID";

/// The most messages that wait while systemd does not read.
const MOST_WAITING: usize = 16;

/// Notifies systemd, if it started this process.
#[derive(Debug, Default)]
pub struct Notifier {
    pub(super) socket: Option<UnixDatagram>,
    /// systemd ends the agent after this time without [`Notifier::alive`].
    pub(super) watchdog: Option<Duration>,
    /// Messages for which systemd's socket was full, in order.
    waiting: Mutex<VecDeque<String>>,
}

impl Notifier {
    /// From the variables that systemd sets.
    pub fn new(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let Some(name) = variable(SOCKET).filter(|name| !name.is_empty()) else { return Self::default() };
        let socket = match connect(&name) {
            Ok(socket) => socket,
            Err(error) => {
                warn!("cannot notify systemd: {SOCKET} cannot be used: {error}");
                return Self::default();
            }
        };
        let number = |name| variable(name)?.to_str()?.parse::<u64>().ok();
        let ours = number(WATCHDOG_PID).is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number(WATCHDOG).filter(|micros| ours && *micros > 0).map(Duration::from_micros);
        Self { socket: Some(socket), watchdog, waiting: Mutex::default() }
    }

    /// The agent has started, or has finished a reload.
    pub(super) fn ready(&self, status: &str) {
        self.enqueue(format!("READY=1\nSTATUS={status}"));
    }

    /// A reload begins; [`Notifier::ready`] ends it.
    pub(super) fn reloading(&self) {
        self.enqueue(format!("RELOADING=1\nMONOTONIC_USEC={}", clock::monotonic().as_micros()));
    }

    /// The agent is ending.
    pub(super) fn stopping(&self, status: &str) {
        self.enqueue(format!("STOPPING=1\nSTATUS={status}"));
    }

    /// The state of the agent in one line. False when systemd's socket is full.
    #[must_use]
    pub(super) fn status(&self, status: &str) -> bool {
        self.try_send(&format!("STATUS={status}"))
    }

    /// All tasks are alive. False when systemd's socket is full.
    #[must_use]
    pub(super) fn alive(&self) -> bool {
        self.try_send("WATCHDOG=1")
    }

    /// Sends waiting messages until the socket is full. Called from time to time.
    pub(super) fn retry(&self) {
        self.send_waiting(&mut self.waiting());
    }

    /// Sends a message after the waiting ones, now or later.
    fn enqueue(&self, what: String) {
        let mut waiting = self.waiting();
        if waiting.len() == MOST_WAITING {
            waiting.pop_front();
        }
        waiting.push_back(what);
        self.send_waiting(&mut waiting);
    }

    /// Sends a message that is soon out of date: now, or not at all.
    fn try_send(&self, what: &str) -> bool {
        let mut waiting = self.waiting();
        self.send_waiting(&mut waiting);
        waiting.is_empty() && self.send(what)
    }

    fn send_waiting(&self, waiting: &mut VecDeque<String>) {
        while waiting.front().is_some_and(|first| self.send(first)) {
            waiting.pop_front();
        }
    }

    /// False if the socket is full. Without a socket or its peer the message is dropped.
    fn send(&self, what: &str) -> bool {
        let Some(Err(error)) = self.socket.as_ref().map(|socket| socket.send(what.as_bytes())) else { return true };
        error.kind() != ErrorKind::WouldBlock
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<String>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn connect(name: &OsStr) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect_addr(&address(name)?)?;
    Ok(socket)
}

/// A path, or after `@` an abstract name.
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    #[cfg(target_os = "linux")]
    if let Some(name) = name.as_bytes().strip_prefix(b"@") {
        use std::os::linux::net::SocketAddrExt as _;
        return SocketAddr::from_abstract_name(name);
    }
    SocketAddr::from_pathname(OsStr::from_bytes(name.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A socket like systemd's.
    struct Systemd {
        socket: UnixDatagram,
        variables: Vec<(&'static str, OsString)>,
        _dir: Option<tempfile::TempDir>,
    }

    impl Systemd {
        fn at_a_path() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("notify");
            let socket = UnixDatagram::bind(&path).unwrap();
            Self { socket, variables: vec![(SOCKET, path.into())], _dir: Some(dir) }
        }

        fn with(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
            self.variables.push((name, value.into()));
            self
        }

        fn notifier(&self) -> Notifier {
            Notifier::new(|name| {
                self.variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone())
            })
        }

        fn received(&self) -> String {
            let mut buffer = [0; 256];
            let length = self.socket.recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..length].to_vec()).unwrap()
        }
    }

    #[test]
    fn messages_have_the_form_that_systemd_reads() {
        let systemd = Systemd::at_a_path();
        let notifier = systemd.notifier();
        notifier.ready("2 targets");
        assert_eq!(systemd.received(), "READY=1\nSTATUS=2 targets");
        let before = clock::monotonic().as_micros();
        notifier.reloading();
        let received = systemd.received();
        let micros = received.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap().parse::<u128>().unwrap();
        assert!((before..=clock::monotonic().as_micros()).contains(&micros), "{received}");
        notifier.stopping("stopping");
        assert_eq!(systemd.received(), "STOPPING=1\nSTATUS=stopping");
        assert!(notifier.alive() && notifier.status("fine"));
        assert_eq!((systemd.received(), systemd.received()), ("WATCHDOG=1".into(), "STATUS=fine".into()));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_name_without_a_file_is_found() {
        use std::os::linux::net::SocketAddrExt as _;
        let name = format!("imaptrace-test-{}", std::process::id());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let variables = vec![(SOCKET, format!("@{name}").into())];
        let systemd = Systemd { socket, variables, _dir: None };
        assert!(systemd.notifier().alive());
        assert_eq!(systemd.received(), "WATCHDOG=1");
    }

    #[test]
    fn the_watchdog_is_for_the_process_that_systemd_names() {
        let ours = std::process::id().to_string();
        let watchdog = |pid: &str| Systemd::at_a_path().with(WATCHDOG, "30000000").with(WATCHDOG_PID, pid).notifier();
        assert_eq!(watchdog(&ours).watchdog, Some(Duration::from_secs(30)));
        assert_eq!(watchdog("1").watchdog, None);
        let unnamed = Systemd::at_a_path().with(WATCHDOG, "30000000").notifier();
        assert_eq!(unnamed.watchdog, Some(Duration::from_secs(30)));
        assert_eq!(Systemd::at_a_path().with(WATCHDOG, "0").notifier().watchdog, None);
    }

    #[test]
    fn without_systemd_or_with_one_that_is_gone_nothing_is_sent() {
        Notifier::default().ready("not connected");
        assert!(Notifier::new(|_| None).alive());
        let gone = Systemd::at_a_path().with(WATCHDOG, "30000000");
        let notifier = gone.notifier();
        drop(gone);
        assert!(notifier.alive(), "nothing is left to be done about it");
        let nowhere = Notifier::new(|name| (name == SOCKET).then(|| "/nowhere/notify".into()));
        assert!(nowhere.socket.is_none() && nowhere.watchdog.is_none());
    }

    #[test]
    fn a_systemd_that_does_not_read_delays_nothing_and_gets_later_what_counts() {
        let stuck = Systemd::at_a_path();
        let notifier = stuck.notifier();
        // More than its socket takes.
        let taken = (0..2_000).take_while(|_| notifier.status("x")).count();
        assert!(taken < 2_000, "{taken}");
        notifier.ready("old");
        for _ in 0..MOST_WAITING / 2 {
            notifier.reloading();
            notifier.ready("new");
        }
        assert!(!notifier.alive());
        assert_eq!(notifier.waiting().len(), MOST_WAITING);
        for _ in 0..taken {
            assert_eq!(stuck.received(), "STATUS=x");
        }
        // Its socket may hold fewer messages than wait.
        for _ in 0..MOST_WAITING / 2 {
            notifier.retry();
            assert!(stuck.received().starts_with("RELOADING=1"));
            notifier.retry();
            assert_eq!(stuck.received(), "READY=1\nSTATUS=new");
        }
        assert!(notifier.alive());
        assert_eq!(stuck.received(), "WATCHDOG=1");
    }
}
