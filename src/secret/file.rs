//! Files with secrets in them: who may have read or changed one, and its bytes.
//!
//! What the bytes may be is [`form`](super::form)'s matter. Called by [`source`](super::source), and by `net` for private keys.

use std::{
    fs::{File, Metadata},
    io::{ErrorKind, Read as _},
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use zeroize::Zeroizing;

use super::{
    LARGEST, Secret, SecretError,
    form::{Extent, take},
    intake::Intake,
};

/// Reads the file of a private key, if it is nobody else's.
pub fn read_key(path: &Path) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    let key = take_in(path, false)?;
    if key.bytes().len() > LARGEST {
        return Err(SecretError::TooLarge(in_words(path)));
    }
    Ok(Zeroizing::new(key.bytes().to_vec()))
}

pub(super) fn read_file(
    path: &Path,
    insecure_mode: bool,
    exact: bool,
    place: impl Fn() -> String,
) -> Result<Secret, SecretError> {
    take(take_in(path, insecure_mode)?.bytes(), Extent::FirstLine, exact, place)
}

/// All of a secret's file, or one byte more than the largest that is taken.
fn take_in(path: &Path, insecure_mode: bool) -> Result<Intake, SecretError> {
    let (mut file, _) = open_file(path, insecure_mode)?;
    let mut value = Intake::new();
    loop {
        match file.read(value.room()) {
            Ok(0) => return Ok(value),
            Ok(count) => value.took(count),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(source) => return Err(unreadable(path, source)),
        }
    }
}

/// Opens a secret's file if it is a file and nobody else's.
fn open_file(path: &Path, insecure_mode: bool) -> Result<(File, Metadata), SecretError> {
    // Opening a pipe would wait for its other end.
    let meta = std::fs::metadata(path).map_err(|source| unreadable(path, source))?;
    if !meta.is_file() {
        return Err(SecretError::NotAFile { path: path.to_owned() });
    }
    // What was opened is examined again, lest it was swapped in between.
    let file = File::open(path).map_err(|source| unreadable(path, source))?;
    let meta = file.metadata().map_err(|source| unreadable(path, source))?;
    if !insecure_mode {
        let me = nix::unistd::geteuid().as_raw();
        if meta.uid() != 0 && meta.uid() != me {
            return Err(SecretError::Owner { path: path.to_owned(), owner: meta.uid() });
        }
        if meta.mode() & 0o026 != 0 {
            return Err(SecretError::Mode { path: path.to_owned(), mode: meta.mode() & 0o7777 });
        }
        // With the sticky bit nobody can take away what is another's.
        let folder = path.parent().map(|folder| if folder == Path::new("") { Path::new(".") } else { folder });
        let folder = folder.map(std::fs::metadata).transpose().map_err(|source| unreadable(path, source))?;
        if folder.is_some_and(|folder| folder.mode() & 0o1002 == 0o002) {
            return Err(SecretError::Folder { path: path.to_owned() });
        }
    }
    Ok((file, meta))
}

fn unreadable(path: &Path, source: std::io::Error) -> SecretError {
    SecretError::File { path: path.to_owned(), source }
}

pub(super) fn in_words(path: &Path) -> String {
    format!("file {}", path.display())
}
