//! A value without a printable form, and where to get it.
//!
//! Configuration holds a [`SecretSource`], a reference. The value is loaded just before a run needs it and is wiped
//! when it is dropped, and so is every copy that is made on the way. This file promises "never in an output", not "never
//! in memory": the TLS library, the kernel and the environment have copies that it cannot reach (SECURITY.md).

mod command;
mod dumps;
mod ending;
mod file;
mod form;
mod intake;
mod source;

pub use command::{end_commands, share_terminal};
pub use dumps::no_dumps;
pub use file::read_key;
pub use form::Edge;
pub use source::{SecretSource, shown_variable};

use std::path::PathBuf;

use imaptrace_imap::Secret;

use self::form::remedy;
use crate::blocking::Unfinished;

/// Makes the build fail when a type can be displayed or serialised: then there is more than one answer to `_`.
macro_rules! unprintable {
    ($($hidden:ty),+) => {
        const _: () = {
            trait Answer<Which> {
                const ONE: () = ();
            }
            impl<T: ?Sized> Answer<()> for T {}
            impl<T: ?Sized + std::fmt::Display> Answer<u8> for T {}
            impl<T: ?Sized + serde::Serialize> Answer<u16> for T {}
            $(let () = <$hidden as Answer<_>>::ONE;)+
        };
    };
}
pub(crate) use unprintable;

unprintable!(Secret, SecretSource);

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

/// The largest that is taken, in bytes.
const LARGEST: usize = 64 << 10;

#[cfg(test)]
mod tests;
