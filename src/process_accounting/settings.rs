//! The settings of process accounting. Built by `config`.

use std::path::PathBuf;

use crate::plan::Glob;

/// Whose sessions are accounted, and where their logins are logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessAccountingSettings {
    /// The users whose `imap` processes are sampled.
    pub users: Vec<Glob>,
    /// Where Dovecot logs logins.
    pub mail_log: MailLog,
}

/// Where Dovecot logs logins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MailLog {
    /// A file, followed over its rotation.
    File(PathBuf),
    /// The journal of systemd.
    Journal,
}

impl ProcessAccountingSettings {
    /// Whether this system has what is needed: `/proc` with the scheduler's statistics of a process.
    pub const SUPPORTED: bool = cfg!(target_os = "linux");

    pub(super) fn is_of_a_user(&self, user: &str) -> bool {
        self.users.iter().any(|glob| glob.matches(user))
    }
}
