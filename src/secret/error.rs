//! Why a secret could not be had. Built by all readers of secrets; shown by `cli` and recorded by `agent` and `probe`.

use std::path::PathBuf;

use super::edge::{Edge, remedy};
use crate::blocking::Unfinished;

/// A secret that could not be had. Says where it was looked for, never what was found.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read.
    #[error("cannot read the secret file {path}: {source}", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Others can read or change the file.
    #[error("the secret file {path} has mode {mode:04o}: others can read or change it; {remedy}", path = path.display(), remedy = mode_remedy(*is_mounted))]
    Mode {
        /// Which.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// It is in a volume that kubelet made, whose modes are set elsewhere.
        is_mounted: bool,
    },
    /// Somebody else owns the file.
    #[error("the secret file {path} belongs to user {owner}, neither to root nor to the user that runs imaptrace", path = path.display())]
    Owner {
        /// Which.
        path: PathBuf,
        /// Its owner's id.
        owner: u32,
    },
    /// Anybody can put another file in its place.
    #[error("others can write into the directory {directory} on the way to the secret file {path}, and so put another file in its place; run `chmod o-w` on the directory", directory = directory.display(), path = path.display())]
    WritableDirectory {
        /// Which file.
        path: PathBuf,
        /// The directory on its way, or on the way to what it links to.
        directory: PathBuf,
    },
    /// Somebody else can put another file in its place.
    #[error("{directory} on the way to the secret file {path} belongs to user {owner}, neither to root nor to the user that runs imaptrace, and so can be replaced; run `chown` on it", directory = directory.display(), path = path.display())]
    DirectoryOwner {
        /// Which file.
        path: PathBuf,
        /// The directory on its way, or the link.
        directory: PathBuf,
        /// Its owner's id.
        owner: u32,
    },
    /// Its file system did not answer.
    #[error("cannot read the secret file {path}: {source}", path = path.display())]
    Unanswered {
        /// Which.
        path: PathBuf,
        /// What it waited for.
        source: Unfinished,
    },
    /// It is a directory, a device, or the like.
    #[error("the secret file {path} is not a regular file", path = path.display())]
    NotAFile {
        /// Which.
        path: PathBuf,
    },
    /// The variable is not set or not UTF-8.
    #[error("the environment variable {} is not set, or is not UTF-8", shown_variable(.0))]
    Env(String),
    /// The program could not be started.
    #[error("the password command {program:?} cannot be started: {source}")]
    Start {
        /// Its first word.
        program: String,
        /// Why.
        source: std::io::Error,
    },
    /// The program ended badly, or not in time.
    #[error("the password command {program:?} {problem}")]
    Command {
        /// Its first word.
        program: String,
        /// What went wrong.
        problem: String,
    },
    /// systemd gave this process no credentials.
    #[error("$CREDENTIALS_DIRECTORY is not set: is imaptrace run by systemd with LoadCredential={0}:…?")]
    NoCredentials(String),
    /// It is empty.
    #[error("the secret from {0} is empty")]
    Empty(String),
    /// It begins or ends with a blank or a byte order mark, and nothing says that this is meant.
    #[error("the secret from {place} {edge}: {}", remedy(*.edge))]
    Edge {
        /// Where it is from.
        place: String,
        /// What stands there.
        edge: Edge,
    },
    /// CR, LF or NUL: no IMAP command can carry it.
    #[error("the secret from {0} holds CR, LF or NUL, which no IMAP command can carry")]
    Control(String),
    /// Not UTF-8.
    #[error("the secret from {0} is not UTF-8: save it as UTF-8")]
    NotUtf8(String),
    /// UTF-16.
    #[error("the secret from {0} is in UTF-16, not UTF-8: save it as UTF-8 without a byte order mark")]
    Utf16(String),
    /// Over 64 KiB.
    #[error("the secret from {0} is larger than 64 KiB: is it the right one?")]
    TooLarge(String),
    /// What TLS needs of files cannot be had: the password is not sent without.
    #[error("{problem}")]
    Tls {
        /// What is missing, and why.
        problem: String,
        /// This process or the machine may open no more files.
        is_exhausted: bool,
    },
}

fn mode_remedy(is_mounted: bool) -> &'static str {
    if is_mounted {
        "set `defaultMode: 0440` for this volume in the pod, and `fsGroup` to a group of the user that runs imaptrace"
    } else {
        "run `chmod 600` on it"
    }
}

impl SecretError {
    /// Whether descriptors have run out, of this process or of the machine: that says nothing of the secret.
    pub fn is_descriptor_shortage(&self) -> bool {
        match self {
            Self::File { source, .. } | Self::Start { source, .. } => {
                matches!(source.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
            }
            Self::Tls { is_exhausted, .. } => *is_exhausted,
            _ => false,
        }
    }
}

/// The name of a variable as it may be shown. The secret itself may have been written in its place, and that is seldom all
/// capitals.
pub fn shown_variable(name: &str) -> &str {
    let is_usual = name.bytes().all(|byte| matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'_'));
    if is_usual && name.len() <= 64 { name } else { "(not shown: its name is not in capitals)" }
}
