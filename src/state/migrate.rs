//! Moves files of an earlier version from the configured directory into our own directory in it.
//!
//! An earlier version used the configured directory even when others could write into it. Only regular files of the agent's
//! user are moved: anyone may have created the others, so they stay. Called by [`state_dir`](super::state_dir), which holds the
//! lock of our own directory.

use std::io;

use super::{
    directory::Directory,
    error::OpenError,
    lock::{LOCK, flock},
};

const FILE: &str = "latency.jsonl";
const DIRECTORIES: [&str; 2] = ["queue", "refused"];
/// The file in `queue` that belongs to the segments there.
const CURSOR: &str = "cursor";
const SEGMENT: &str = ".jsonl.gz";

#[derive(Debug, Default)]
struct Moved {
    files: u64,
    /// Entries with such a name that stay where they are.
    left: u64,
}

/// Moves the files. Only a lock that another agent holds is an error; after any other failure files stay where they are, and a
/// log line reports it.
pub(super) fn migrate(given: &Directory, own: &Directory) -> Result<(), OpenError> {
    let is_there = |name: &&str| given.entry(name).is_ok_and(|entry| entry.is_some());
    if ![FILE].iter().chain(&DIRECTORIES).any(is_there) {
        return Ok(());
    }
    let (from, to) = (given.path().display(), own.path().display());
    match lock_and_move(given, own) {
        Ok(Moved { files: 0, left: 0 }) => {}
        Ok(Moved { files, left: 0 }) => {
            tracing::info!(files, "what an earlier version left in {from} was moved into {to}");
        }
        Ok(Moved { files, left }) => tracing::warn!(
            files,
            left,
            "what an earlier version left in {from} was moved into {to}; what is no regular file of the agent's user alone, or \
             has a name that is taken, stays where it is"
        ),
        Err(OpenError::Io(error)) => tracing::warn!(
            %error,
            "what an earlier version left in {from} stays there and is not delivered; move it into imaptrace/ while no agent runs"
        ),
        Err(refused) => return Err(refused),
    }
    Ok(())
}

fn lock_and_move(given: &Directory, own: &Directory) -> Result<Moved, OpenError> {
    let lock = given.open_or_create(LOCK)?;
    // Another user's lock file would keep the agent from starting.
    if !given.entry(LOCK)?.is_some_and(|entry| entry.is_our_file()) {
        return Err(io::Error::other("its lock is another user's").into());
    }
    let _held = flock(given, lock)?;
    Ok(move_all(given, own)?)
}

fn move_all(given: &Directory, own: &Directory) -> io::Result<Moved> {
    let mut moved = Moved::default();
    match given.entry(FILE)? {
        None => {}
        Some(entry) if entry.is_our_file() && own.entry(FILE)?.is_none() => take(given, FILE, own, FILE, &mut moved)?,
        Some(_) => moved.left += 1,
    }
    for name in DIRECTORIES {
        let Some(entry) = given.entry(name)? else { continue };
        if !entry.is_directory() || !entry.is_ours() {
            moved.left += 1;
            continue;
        }
        let from = given.open_directory(name)?;
        // It may be another by now.
        if !from.metadata()?.is_ours() {
            moved.left += 1;
            continue;
        }
        let to = own.subdirectory(name)?;
        let mut is_new = true;
        to.names(|name| is_new &= !name.ends_with(SEGMENT))?;
        let mut names = Vec::new();
        from.names(|name| names.push(name.to_owned()))?;
        // The segments' numbers are their order.
        names.sort_unstable();
        for name in names {
            let ours = from.entry(&name)?.is_some_and(|entry| entry.is_our_file());
            if !ours {
                moved.left += 1;
            } else if name == CURSOR || name.starts_with("cursor.") {
                // It points into these segments, and into no others that have their numbers.
                if is_new { take(&from, &name, &to, &name, &mut moved)? } else { from.remove(&name)? }
            } else {
                match free(&to, &name)? {
                    Some(new) => take(&from, &name, &to, &new, &mut moved)?,
                    None => moved.left += 1,
                }
            }
        }
        to.sync()?;
        // Fails while something is in it, and then it stays.
        let _ = given.remove_directory(name);
    }
    own.sync()?;
    given.sync()?;
    Ok(moved)
}

/// Moves a file, and checks it again afterwards: others may exchange names in the directory that it comes from.
fn take(from: &Directory, name: &str, to: &Directory, new: &str, moved: &mut Moved) -> io::Result<()> {
    from.rename(name, to, new)?;
    if to.entry(new)?.is_some_and(|entry| entry.is_our_file()) {
        moved.files += 1;
    } else {
        to.quarantine(new)?;
        moved.left += 1;
    }
    Ok(())
}

/// The name that this file gets: its own, or for a segment whose number is taken the next free number.
fn free(to: &Directory, name: &str) -> io::Result<Option<String>> {
    if to.entry(name)?.is_none() {
        return Ok(Some(name.to_owned()));
    }
    let number = |name: &str| name.strip_suffix(SEGMENT).and_then(|number| number.parse::<u64>().ok());
    let Some(mut last) = number(name) else { return to.free(name, ".old").map(Some) };
    to.names(|name| last = last.max(number(name).unwrap_or_default()))?;
    Ok(last.checked_add(1).map(|number| format!("{number:020}{SEGMENT}")))
}
