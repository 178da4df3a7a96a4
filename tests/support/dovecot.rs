//! A real Dovecot with ports, certificates and mail of its own, ended when it is dropped. Any number at once.
//!
//! Dovecot holds logins from an address back after a wrong password (4, 8, 15 s, right ones too): a test of wrong
//! passwords starts a server that no other test uses.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::program::{free_port, wait_until};

/// Folders with awkward names, [`Options::messages`] messages in INBOX.
pub const USER1: (&str, &str) = ("user1", "pass1");
/// A password with all that IMAP has to quote.
pub const USER2: (&str, &str) = ("user2", r#"two words "quoted" back\slash 100% {5}"#);
/// A password beyond ASCII.
pub const USER3: (&str, &str) = ("user3", "pässwörd-日本");
/// 10,000 messages, if [`Options::big`] is set.
pub const BIG: (&str, &str) = ("big", "big");
/// An empty INBOX.
pub const EMPTY: (&str, &str) = ("empty", "empty");

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/dovecot.sh");

/// What a server is to have.
pub struct Options {
    /// Messages in the INBOX of user1 to user3.
    pub messages: u32,
    /// Fill the mailbox of `big` (made once, then copied).
    pub big: bool,
    /// Users load1, load2, … with password `load` and 25 messages.
    pub load_users: u32,
    /// More lines of Dovecot's configuration, read last.
    pub settings: String,
}

impl Default for Options {
    fn default() -> Self {
        Self { messages: 30, big: false, load_users: 0, settings: String::new() }
    }
}

/// A server that has greeted.
pub struct Dovecot {
    /// The port for clear text and STARTTLS.
    pub plain: u16,
    /// The port for TLS.
    pub tls: u16,
    /// The CA that signed its certificate, which is for `localhost` and 127.0.0.1.
    pub ca: PathBuf,
    directory: tempfile::TempDir,
}

impl Dovecot {
    /// Starts one, and fails the test with the script's own words if that cannot be.
    pub fn start(options: &Options) -> Self {
        let directory = tempfile::Builder::new().prefix("dovecot-").tempdir().unwrap();
        let settings = directory.path().join("settings.conf");
        std::fs::write(&settings, &options.settings).unwrap();
        let mut complaint = String::new();
        // Another program may take a port between our look and Dovecot's start.
        for _ in 0..3 {
            let (plain, tls) = (free_port(), free_port());
            let output = Command::new(SCRIPT)
                .arg("start")
                .arg(directory.path())
                .args([plain.to_string(), tls.to_string()])
                .env("DOVECOT_MESSAGES", options.messages.to_string())
                .env("DOVECOT_BIG", u8::from(options.big).to_string())
                .env("DOVECOT_LOAD_USERS", options.load_users.to_string())
                .env("DOVECOT_EXTRA", &settings)
                .output()
                .unwrap();
            if output.status.success() {
                return Self { plain, tls, ca: directory.path().join("tls/ca.pem"), directory };
            }
            complaint = String::from_utf8_lossy(&output.stderr).into_owned();
            if !complaint.contains("Address already in use") {
                break;
            }
        }
        panic!("no real Dovecot to test against:\n{complaint}");
    }

    /// What it has logged up to now.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap()
    }

    /// The file that it logs into.
    pub fn log_file(&self) -> PathBuf {
        self.directory.path().join("dovecot.log")
    }

    /// The directory of all its files.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Its first process, whose children all others are.
    pub fn master(&self) -> i32 {
        let path = self.directory.path().join("run/master.pid");
        std::fs::read_to_string(path).unwrap().trim().parse().unwrap()
    }

    /// Has it read these settings in place of [`Options::settings`]. Sessions go on.
    pub fn reconfigure(&self, settings: &str) {
        std::fs::write(self.directory.path().join("settings.conf"), settings).unwrap();
        let before = self.log().matches("SIGHUP received").count();
        kill(Pid::from_raw(self.master()), Signal::SIGHUP).unwrap();
        wait_until("Dovecot reads its settings again", || {
            (self.log().matches("SIGHUP received").count() > before).then_some(())
        });
    }

    /// A user's Maildir, for tests that change what is in it.
    pub fn maildir(&self, user: &str) -> PathBuf {
        self.directory.path().join("mail").join(user).join("Maildir")
    }
}

impl Drop for Dovecot {
    fn drop(&mut self) {
        let stopped = Command::new(SCRIPT).arg("stop").arg(self.directory.path()).status();
        // A second panic while a first one unwinds would hide it.
        if !std::thread::panicking() {
            assert!(stopped.unwrap().success(), "Dovecot could not be ended");
        }
    }
}
