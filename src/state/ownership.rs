//! Whether the configured directory is used itself, or our own `imaptrace/` in it; and the warning about that.
//!
//! Looks at names before it opens them: another user's closed directory cannot be opened, and the error must name it all the
//! same. Creates only `imaptrace/`. Called by [`state_dir`](super::state_dir).

use std::{io, path::Path};

use nix::unistd::geteuid;

use super::{
    directory::{Directory, DirectoryEntry},
    error::{OpenError, StateDirError},
    lock::LOCK,
};

/// Our own directory in one that others may write into.
pub(crate) const OWN: &str = "imaptrace";

pub(super) enum Ownership {
    /// Only the agent's user; with a warning if `imaptrace/` in it belongs to another one.
    Private(Option<String>),
    /// Only the agent's user, and an earlier start kept its files in `imaptrace/` in it.
    PrivateWithOwn(Directory),
    /// Others, for the reason in the warning.
    Shared(String),
}

impl Ownership {
    pub(super) fn of(outer: &Directory) -> io::Result<Self> {
        let (entry, ours) = (outer.metadata()?, geteuid());
        let (given, path) = (outer.path().display(), quoted(outer.path()));
        let (why, mend) = if !entry.is_ours() {
            let why = format!("it belongs to user {}, and the agent runs as user {ours}", entry.owner());
            (why, format!("chown {ours} {path} && chmod 0700 {path}"))
        } else if entry.mode() & 0o022 != 0 {
            (format!("others may write into it (mode {:04o})", entry.mode()), format!("chmod 0700 {path}"))
        } else {
            return Self::of_private(outer);
        };
        Ok(Self::Shared(format!(
            "{given} is not the agent's alone: {why}; state is kept in a directory of its own in it, {OWN}/. Name a directory \
             in [state] that is the agent's alone, or give it this one: {mend}"
        )))
    }

    fn of_private(outer: &Directory) -> io::Result<Self> {
        let Some(found) = outer.entry(OWN)?.filter(DirectoryEntry::is_directory) else {
            return Ok(Self::Private(None));
        };
        let (path, owner) = (quoted(&outer.at(OWN)), found.owner());
        if !found.is_ours() {
            return Ok(Self::Private(Some(format!(
                "{path} belongs to user {owner}: what an agent of that user left in it stays there and is not delivered. If it \
                 is yours, stop the agent and give it the directory (chown -R {} {path}); if not, move it away (mv {path} \
                 {path}.old)",
                geteuid()
            ))));
        }
        let own = outer.open_directory(OWN)?;
        let entry = own.metadata()?;
        let is_begun = entry.is_ours() && own.entry(LOCK)?.is_some();
        Ok(if is_begun { Self::PrivateWithOwn(own) } else { Self::Private(None) })
    }
}

fn quoted(path: &Path) -> String {
    shlex::try_quote(&path.to_string_lossy()).map_or_else(|_| path.display().to_string(), std::borrow::Cow::into_owned)
}

/// Our own directory in one that others may write into.
pub(super) fn own(outer: &Directory) -> Result<Directory, OpenError> {
    // Another user's cannot be opened, and the error needs the operator.
    check_own(outer)?;
    Ok(outer.subdirectory(OWN)?)
}

/// Whether what has the name of our own directory, if anything, may be used.
pub(super) fn check_own(outer: &Directory) -> Result<(), OpenError> {
    let (path, ours) = (outer.at(OWN), geteuid());
    let shown = quoted(&path);
    let refused =
        |what: &str, mend: String| Err(StateDirError::Foreign(format!("{} {what}; {mend}", path.display())).into());
    match outer.entry(OWN)? {
        Some(entry) if entry.is_link() => {
            refused("is a symbolic link, which anyone may have made", format!("remove it: rm {shown}"))
        }
        Some(entry) if !entry.is_directory() => {
            refused("is no directory", format!("move it away: mv {shown} {shown}.old"))
        }
        Some(entry) if !entry.is_ours() => refused(
            &format!("belongs to user {}, and the agent runs as user {ours}", entry.owner()),
            format!(
                "if an earlier agent of yours left it: chown -R {ours} {shown}; if not, move it away: mv {shown} {shown}.old"
            ),
        ),
        _ => Ok(()),
    }
}
