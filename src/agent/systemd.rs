//! What systemd is told (`sd_notify`(3)): ready, reloading, stopping, a line of status, and that the watchdog need not
//! bite.
//!
//! Nothing here waits: what systemd's socket has no room for is kept and sent again, or given up if it is soon out of date.
//! Without `NOTIFY_SOCKET` all of it is nothing. Decides nothing; called by [`status`](super::status).

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

/// The variables that are for this process alone: a password command must not speak for it.
pub(super) const VARIABLES: [&str; 3] = [SOCKET, WATCHDOG, WATCHDOG_PID];

const SOCKET: &str = "NOTIFY_SOCKET";
const WATCHDOG: &str = "WATCHDOG_USEC";
const WATCHDOG_PID: &str = "WATCHDOG_PID";

/// As many messages that must not be lost wait while systemd does not read.
const KEPT: usize = 16;

/// The way to systemd, if it started us.
#[derive(Debug, Default)]
pub struct Notifier {
    socket: Option<UnixDatagram>,
    watchdog: Option<Duration>,
    /// Those that systemd's socket had no room for, in order.
    waiting: Mutex<VecDeque<String>>,
}

impl Notifier {
    /// By the variables that systemd sets.
    pub fn new(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let Some(name) = variable(SOCKET).filter(|name| !name.is_empty()) else { return Self::default() };
        let socket = match connect(&name) {
            Ok(socket) => socket,
            Err(error) => {
                warn!("systemd cannot be told anything: {SOCKET} cannot be used: {error}");
                return Self::default();
            }
        };
        let number = |name| variable(name)?.to_str()?.parse::<u64>().ok();
        let ours = number(WATCHDOG_PID).is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number(WATCHDOG).filter(|micros| ours && *micros > 0).map(Duration::from_micros);
        Self { socket: Some(socket), watchdog, waiting: Mutex::default() }
    }

    /// Whether there is anybody to tell.
    pub(super) fn is_heard(&self) -> bool {
        self.socket.is_some()
    }

    /// systemd ends us when it has not heard [`Notifier::alive`] for so long.
    pub(super) fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// The agent is up, or has done with a reload.
    pub(super) fn ready(&self, status: &str) {
        self.tell(format!("READY=1\nSTATUS={status}"));
    }

    /// A reload begins; [`Notifier::ready`] ends it.
    pub(super) fn reloading(&self) {
        self.tell(format!("RELOADING=1\nMONOTONIC_USEC={}", clock::monotonic().as_micros()));
    }

    /// The agent is ending.
    pub(super) fn stopping(&self, status: &str) {
        self.tell(format!("STOPPING=1\nSTATUS={status}"));
    }

    /// How the agent is, in one line. False when systemd has no room for it now.
    #[must_use]
    pub(super) fn status(&self, status: &str) -> bool {
        self.tell_now(&format!("STATUS={status}"))
    }

    /// The agent's loops turn. False when systemd has no room for it now.
    #[must_use]
    pub(super) fn alive(&self) -> bool {
        self.tell_now("WATCHDOG=1")
    }

    /// Sends what waits, as far as there is room. To be called now and then.
    pub(super) fn retry(&self) {
        self.send_waiting(&mut self.waiting());
    }

    /// Tells it behind all that waits, now or later.
    fn tell(&self, what: String) {
        let mut waiting = self.waiting();
        if waiting.len() == KEPT {
            waiting.pop_front();
        }
        waiting.push_back(what);
        self.send_waiting(&mut waiting);
    }

    /// Tells what is soon out of date: now, or not at all.
    fn tell_now(&self, what: &str) -> bool {
        let mut waiting = self.waiting();
        self.send_waiting(&mut waiting);
        waiting.is_empty() && self.send(what)
    }

    fn send_waiting(&self, waiting: &mut VecDeque<String>) {
        while waiting.front().is_some_and(|first| self.send(first)) {
            waiting.pop_front();
        }
    }

    /// Whether there is nothing left to be done about it.
    fn send(&self, what: &str) -> bool {
        // Who does not listen any more need not be told.
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

/// A path, or behind an `@` a name without a file.
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

    /// A socket as systemd has it, and what it is told.
    struct Systemd {
        socket: UnixDatagram,
        variables: Vec<(&'static str, OsString)>,
        _folder: Option<tempfile::TempDir>,
    }

    impl Systemd {
        fn at_a_path() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("notify");
            let socket = UnixDatagram::bind(&path).unwrap();
            Self { socket, variables: vec![(SOCKET, path.into())], _folder: Some(folder) }
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

        fn heard(&self) -> String {
            let mut buffer = [0; 256];
            let length = self.socket.recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..length].to_vec()).unwrap()
        }
    }

    #[test]
    fn everything_is_told_as_systemd_reads_it() {
        let systemd = Systemd::at_a_path();
        let notifier = systemd.notifier();
        notifier.ready("2 targets");
        assert_eq!(systemd.heard(), "READY=1\nSTATUS=2 targets");
        let before = clock::monotonic().as_micros();
        notifier.reloading();
        let heard = systemd.heard();
        let micros = heard.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap().parse::<u128>().unwrap();
        assert!((before..=clock::monotonic().as_micros()).contains(&micros), "{heard}");
        notifier.stopping("stopping");
        assert_eq!(systemd.heard(), "STOPPING=1\nSTATUS=stopping");
        assert!(notifier.alive() && notifier.status("fine"));
        assert_eq!((systemd.heard(), systemd.heard()), ("WATCHDOG=1".into(), "STATUS=fine".into()));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_name_without_a_file_is_found() {
        use std::os::linux::net::SocketAddrExt as _;
        let name = format!("imaptrace-test-{}", std::process::id());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let variables = vec![(SOCKET, format!("@{name}").into())];
        let systemd = Systemd { socket, variables, _folder: None };
        assert!(systemd.notifier().alive());
        assert_eq!(systemd.heard(), "WATCHDOG=1");
    }

    #[test]
    fn the_watchdog_is_for_the_process_that_systemd_names() {
        let ours = std::process::id().to_string();
        let watchdog = |pid: &str| Systemd::at_a_path().with(WATCHDOG, "30000000").with(WATCHDOG_PID, pid).notifier();
        assert_eq!(watchdog(&ours).watchdog(), Some(Duration::from_secs(30)));
        assert_eq!(watchdog("1").watchdog(), None);
        let unnamed = Systemd::at_a_path().with(WATCHDOG, "30000000").notifier();
        assert_eq!(unnamed.watchdog(), Some(Duration::from_secs(30)));
        assert_eq!(Systemd::at_a_path().with(WATCHDOG, "0").notifier().watchdog(), None);
    }

    #[test]
    fn without_systemd_or_with_one_that_is_gone_it_is_nothing() {
        Notifier::default().ready("nobody hears");
        assert!(Notifier::new(|_| None).alive());
        let gone = Systemd::at_a_path().with(WATCHDOG, "30000000");
        let notifier = gone.notifier();
        drop(gone);
        assert!(notifier.alive(), "nothing is left to be done about it");
        let nowhere = Notifier::new(|name| (name == SOCKET).then(|| "/nowhere/notify".into()));
        assert!(nowhere.socket.is_none() && nowhere.watchdog().is_none());
    }

    #[test]
    fn a_systemd_that_does_not_read_holds_nothing_up_and_is_told_later_what_counts() {
        let deaf = Systemd::at_a_path();
        let notifier = deaf.notifier();
        // More than its socket takes.
        let taken = (0..2_000).take_while(|_| notifier.status("x")).count();
        assert!(taken < 2_000, "{taken}");
        notifier.ready("old");
        for _ in 0..KEPT / 2 {
            notifier.reloading();
            notifier.ready("new");
        }
        assert!(!notifier.alive());
        assert_eq!(notifier.waiting().len(), KEPT);
        for _ in 0..taken {
            assert_eq!(deaf.heard(), "STATUS=x");
        }
        // Its room may be less than what waits.
        for _ in 0..KEPT / 2 {
            notifier.retry();
            assert!(deaf.heard().starts_with("RELOADING=1"));
            notifier.retry();
            assert_eq!(deaf.heard(), "READY=1\nSTATUS=new");
        }
        assert!(notifier.alive());
        assert_eq!(deaf.heard(), "WATCHDOG=1");
    }
}
