//! Files with secrets: who can read or change one, and its bytes.
//!
//! [`form`](super::form) checks the bytes. Called by [`source`](super::source), and by `net` for private keys.

use std::{
    ffi::OsString,
    fs::{File, Metadata},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Component, Path, PathBuf},
    time::Duration,
};

use zeroize::Zeroizing;

use imaptrace_imap::Secret;

use super::{
    buffer::{LARGEST, WipedBuffer},
    error::SecretError,
    form::{Extent, take, too_large},
};
use crate::{blocking, clock};

const FILE_DEADLINE: Duration = Duration::from_secs(5);
const CHECK_DEADLINE: Duration = Duration::from_secs(2);
const MOST_LINKS: u32 = 40;

/// The secret on the file's first line. `place` names it in errors.
pub(super) async fn load(path: &Path, insecure_mode: bool, exact: bool, place: String) -> Result<Secret, SecretError> {
    let read = move |path: &Path| read_file(path, insecure_mode, exact, &place);
    let loaded = blocking::with_path(path, clock::now() + FILE_DEADLINE, read).await;
    loaded.unwrap_or_else(|source| Err(SecretError::Unanswered(path.to_owned(), source)))
}

/// Whether [`load`] would succeed now.
pub(super) fn check(path: &Path, insecure_mode: bool, exact: bool) -> Result<(), SecretError> {
    let place = in_words(path);
    let read = move |path: &Path| read_file(path, insecure_mode, exact, &place).map(drop);
    let checked = blocking::with_path_sync(path, clock::now() + CHECK_DEADLINE, read);
    checked.unwrap_or_else(|source| Err(SecretError::Unanswered(path.to_owned(), source)))
}

/// Reads the file of a private key, if no other user owns or may change it. Blocks.
pub fn read_key(path: &Path) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    let key = take_in(path, false)?;
    if key.filled().len() > LARGEST {
        return Err(too_large(&in_words(path)));
    }
    Ok(Zeroizing::new(key.filled().to_vec()))
}

pub(super) fn in_words(path: &Path) -> String {
    format!("file {}", path.display())
}

fn read_file(path: &Path, insecure_mode: bool, exact: bool, place: &str) -> Result<Secret, SecretError> {
    take(take_in(path, insecure_mode)?.filled(), Extent::FirstLine, exact, || place.to_owned())
}

/// The bytes of a secret's file, or one byte more than the largest secret.
fn take_in(path: &Path, insecure_mode: bool) -> Result<WipedBuffer, SecretError> {
    let mut file = open_file(path, insecure_mode)?;
    let mut value = WipedBuffer::new();
    value.read(&mut file).map_err(|source| unreadable(path, source))?;
    Ok(value)
}

/// Opens a secret's file if it is a regular file that no other user owns or may read or change.
#[expect(clippy::disallowed_methods, reason = "inside a call of `blocking`")]
fn open_file(path: &Path, insecure_mode: bool) -> Result<File, SecretError> {
    let unreadable = |source| unreadable(path, source);
    let found = if insecure_mode { std::fs::metadata(path).map_err(unreadable)? } else { examined(path, is_trusted)? };
    if !found.is_file() {
        return Err(no_file(path));
    }
    // Non-blocking: a FIFO may have replaced it.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path);
    let file = file.map_err(unreadable)?;
    // Checked again: it may have been replaced in between.
    let meta = file.metadata().map_err(unreadable)?;
    if !meta.is_file() {
        return Err(no_file(path));
    }
    if !insecure_mode {
        if !is_trusted(&meta) {
            return Err(SecretError::Owner(format!("the secret file {} {}", path.display(), belongs_to(&meta))));
        }
        if meta.mode() & 0o026 != 0 {
            let remedy = if is_mounted(path) {
                "set `defaultMode: 0440` for this volume in the pod, and `fsGroup` to a group of the user that runs imaptrace"
            } else {
                "run `chmod 600` on it"
            };
            return Err(SecretError::Mode(format!(
                "the secret file {} has mode {:04o}: others can read or change it; {remedy}",
                path.display(),
                meta.mode() & 0o7777
            )));
        }
    }
    Ok(file)
}

/// Whether it is in a volume made by kubelet, whose modes are set elsewhere: the link `..data` leads to its files.
#[expect(clippy::disallowed_methods, reason = "inside a call of `blocking`")]
fn is_mounted(path: &Path) -> bool {
    path.ancestors().skip(1).any(|directory| directory.join("..data").is_symlink())
}

/// Metadata of the file, links followed, if no other user can replace it: every directory on the way, and on the way to a link's
/// target, belongs to root or to us and is not writable for others, unless it is sticky: then others can add a link, but not
/// remove a file of another user. A directory's group is trusted.
#[expect(clippy::disallowed_methods, reason = "inside a call of `blocking`")]
pub(super) fn examined(path: &Path, is_trusted: impl Fn(&Metadata) -> bool) -> Result<Metadata, SecretError> {
    let unreadable = |source| unreadable(path, source);
    let look = |at: &Path| std::fs::symlink_metadata(at).map_err(unreadable);
    let mut remaining = names(&std::path::absolute(path).map_err(unreadable)?);
    let mut links = 0;
    let mut way = PathBuf::from("/");
    let mut found = look(&way)?;
    while let Some(name) = remaining.pop() {
        if !is_trusted(&found) {
            return Err(replaceable(path, &way, &found));
        }
        let open_to_all = found.mode() & 0o002 != 0;
        if open_to_all && found.mode() & 0o1000 == 0 {
            return Err(SecretError::Directory(format!(
                "others can write into the directory {} on the way to the secret file {}, and so put another file in its \
                 place; run `chmod o-w` on the directory",
                way.display(),
                path.display()
            )));
        }
        let next = way.join(&name);
        let there = look(&next)?;
        if !there.is_symlink() {
            way = if name == ".." { way.parent().unwrap_or(&way).to_owned() } else { next };
            found = there;
            continue;
        }
        if open_to_all && !is_trusted(&there) {
            return Err(replaceable(path, &next, &there));
        }
        links += 1;
        if links > MOST_LINKS {
            return Err(unreadable(io::Error::from_raw_os_error(libc::ELOOP)));
        }
        let target = std::fs::read_link(&next).map_err(unreadable)?;
        remaining.extend(names(&target));
        if target.is_absolute() {
            way = "/".into();
            found = look(&way)?;
        }
    }
    Ok(found)
}

/// The components of a path in reverse, `..` included.
fn names(path: &Path) -> Vec<OsString> {
    let name = |component: Component<'_>| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().rev().filter_map(name).collect()
}

fn is_trusted(found: &Metadata) -> bool {
    found.uid() == 0 || found.uid() == nix::unistd::geteuid().as_raw()
}

fn belongs_to(found: &Metadata) -> String {
    format!("belongs to user {}, neither to root nor to the user that runs imaptrace", found.uid())
}

fn replaceable(path: &Path, directory: &Path, found: &Metadata) -> SecretError {
    SecretError::Directory(format!(
        "{} on the way to the secret file {} {}, and so can be replaced; run `chown` on it",
        directory.display(),
        path.display(),
        belongs_to(found)
    ))
}

fn no_file(path: &Path) -> SecretError {
    SecretError::Source(format!("the secret file {} is not a regular file", path.display()))
}

fn unreadable(path: &Path, source: io::Error) -> SecretError {
    SecretError::File(path.to_owned(), source)
}
