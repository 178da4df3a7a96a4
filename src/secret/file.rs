//! Files with secrets in them: who may have read or changed one, and its bytes.
//!
//! What the bytes may be is [`form`](super::form)'s matter. Called by [`source`](super::source), and by `net` for private keys.

use std::{
    ffi::OsString,
    fs::{File, Metadata},
    io::{self, ErrorKind, Read as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Component, Path, PathBuf},
    time::Duration,
};

use zeroize::Zeroizing;

use imaptrace_imap::Secret;

use super::{
    buffer::{LARGEST, WipedBuffer},
    error::SecretError,
    form::{Extent, take},
};
use crate::{blocking, clock};

/// How long a run waits for its secret's file.
const FILE_DEADLINE: Duration = Duration::from_secs(5);
/// How long each file is waited for that is only checked.
const CHECK_DEADLINE: Duration = Duration::from_secs(2);
/// Links that the kernel follows on one path (`path_resolution(7)`).
const MOST_LINKS: u32 = 40;

/// The secret on the file's first line. `place` is what errors call it.
pub(super) async fn load(path: &Path, insecure_mode: bool, exact: bool, place: String) -> Result<Secret, SecretError> {
    let read = move |path: &Path| read_file(path, insecure_mode, exact, &place);
    let loaded = blocking::with_path(path, clock::now() + FILE_DEADLINE, read).await;
    loaded.unwrap_or_else(|source| Err(SecretError::Unanswered { path: path.to_owned(), source }))
}

/// Whether [`load`] would succeed now.
pub(super) fn check(path: &Path, insecure_mode: bool, exact: bool) -> Result<(), SecretError> {
    let place = in_words(path);
    let read = move |path: &Path| read_file(path, insecure_mode, exact, &place).map(drop);
    let checked = blocking::with_path_sync(path, clock::now() + CHECK_DEADLINE, read);
    checked.unwrap_or_else(|source| Err(SecretError::Unanswered { path: path.to_owned(), source }))
}

/// Reads the file of a private key, if no other user owns or may change it. Blocks.
pub fn read_key(path: &Path) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    let key = take_in(path, false)?;
    if key.filled().len() > LARGEST {
        return Err(SecretError::TooLarge(in_words(path)));
    }
    Ok(Zeroizing::new(key.filled().to_vec()))
}

pub(super) fn in_words(path: &Path) -> String {
    format!("file {}", path.display())
}

fn read_file(path: &Path, insecure_mode: bool, exact: bool, place: &str) -> Result<Secret, SecretError> {
    take(take_in(path, insecure_mode)?.filled(), Extent::FirstLine, exact, || place.to_owned())
}

/// All of a secret's file, or one byte more than the largest that is taken.
fn take_in(path: &Path, insecure_mode: bool) -> Result<WipedBuffer, SecretError> {
    let mut file = open_file(path, insecure_mode)?;
    let mut value = WipedBuffer::new();
    loop {
        match file.read(value.unfilled()) {
            Ok(0) => return Ok(value),
            Ok(count) => value.advance(count),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(source) => return Err(unreadable(path, source)),
        }
    }
}

/// Opens a secret's file if it is a regular file that no other user owns or may read or change.
#[expect(clippy::disallowed_methods, reason = "inside a call of `blocking`")]
fn open_file(path: &Path, insecure_mode: bool) -> Result<File, SecretError> {
    let unreadable = |source| unreadable(path, source);
    let found = if insecure_mode { std::fs::metadata(path).map_err(unreadable)? } else { examined(path, is_trusted)? };
    if !found.is_file() {
        return Err(SecretError::NotAFile { path: path.to_owned() });
    }
    // Not to wait for the other end of a FIFO that has taken its place.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path);
    let file = file.map_err(unreadable)?;
    // What was opened is examined again: it may have been swapped in between.
    let meta = file.metadata().map_err(unreadable)?;
    if !meta.is_file() {
        return Err(SecretError::NotAFile { path: path.to_owned() });
    }
    if !insecure_mode {
        if !is_trusted(&meta) {
            return Err(SecretError::Owner { path: path.to_owned(), owner: meta.uid() });
        }
        if meta.mode() & 0o026 != 0 {
            let mode = meta.mode() & 0o7777;
            return Err(SecretError::Mode { path: path.to_owned(), mode, is_mounted: is_mounted(path) });
        }
    }
    Ok(file)
}

/// Whether it is in a volume that kubelet made: it puts every file there behind the link `..data`, which it swaps.
#[expect(clippy::disallowed_methods, reason = "inside a call of `blocking`")]
fn is_mounted(path: &Path) -> bool {
    path.ancestors().skip(1).any(|folder| folder.join("..data").is_symlink())
}

/// What the path leads to, if no other user can make it lead elsewhere: each directory on the way to a link, and to what that
/// links to, is root's or ours, and others may not write into it unless it is sticky: there they can add a link, but take away
/// nothing that is another's. What a directory's group may do is left to who made the group.
#[expect(clippy::disallowed_methods, reason = "inside a call of `blocking`")]
pub(super) fn examined(path: &Path, is_trusted: impl Fn(&Metadata) -> bool) -> Result<Metadata, SecretError> {
    let unreadable = |source| unreadable(path, source);
    let look = |at: &Path| std::fs::symlink_metadata(at).map_err(unreadable);
    let mut ahead = names(&std::path::absolute(path).map_err(unreadable)?);
    let mut links = 0;
    let mut way = PathBuf::from("/");
    let mut found = look(&way)?;
    while let Some(name) = ahead.pop() {
        if !is_trusted(&found) {
            return Err(SecretError::DirectoryOwner { path: path.to_owned(), directory: way, owner: found.uid() });
        }
        let open_to_all = found.mode() & 0o002 != 0;
        if open_to_all && found.mode() & 0o1000 == 0 {
            return Err(SecretError::WritableDirectory { path: path.to_owned(), directory: way });
        }
        let next = way.join(&name);
        let there = look(&next)?;
        if !there.is_symlink() {
            way = if name == ".." { way.parent().unwrap_or(&way).to_owned() } else { next };
            found = there;
            continue;
        }
        if open_to_all && !is_trusted(&there) {
            return Err(SecretError::DirectoryOwner { path: path.to_owned(), directory: next, owner: there.uid() });
        }
        links += 1;
        if links > MOST_LINKS {
            return Err(unreadable(io::Error::from_raw_os_error(libc::ELOOP)));
        }
        let target = std::fs::read_link(&next).map_err(unreadable)?;
        ahead.extend(names(&target));
        if target.is_absolute() {
            way = "/".into();
            found = look(&way)?;
        }
    }
    Ok(found)
}

/// A path's names, the last first. A link's `..` counts: it leads out of the directory that the link is in.
fn names(path: &Path) -> Vec<OsString> {
    let name = |component: Component<'_>| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().rev().filter_map(name).collect()
}

/// Whether it is root's or ours.
fn is_trusted(found: &Metadata) -> bool {
    found.uid() == 0 || found.uid() == nix::unistd::geteuid().as_raw()
}

fn unreadable(path: &Path, source: io::Error) -> SecretError {
    SecretError::File { path: path.to_owned(), source }
}
