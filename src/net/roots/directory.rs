//! A hashed directory of our own: makes, checks and removes it, and removes those of dead processes.
//!
//! Others may be able to write into the directory that it is in, so it is accessed by descriptor, no link is followed, and only
//! directories of our user with mode 0700 are touched. A live process holds a lock on its directory. Waits for the disk: not
//! for a thread that probes. Called by `roots`.

use std::{
    collections::HashMap,
    ffi::{OsStr, OsString},
    fs::{self, DirBuilder, File, Metadata},
    io::{self, Write as _},
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd},
        unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};

use crate::follow::FileVersion;

/// Prefix of the names; process id and a random word follow. The directories `imaptrace-ca-WORD` of earlier versions are left
/// alone: without a lock, their processes may be alive.
const PREFIX: &str = "imaptrace-ca-";
const TRIES: u32 = 8;

pub(super) type HashedFiles = Vec<(String, Vec<u8>)>;

/// A directory that is removed when this is dropped.
#[derive(Debug)]
pub(super) struct HashedDirectory {
    place: PathBuf,
    name: OsString,
    /// Holds the lock.
    opened: Flock<File>,
    /// As it was when it was complete.
    version: FileVersion,
}

impl HashedDirectory {
    /// Makes one with these files in `place`, for this user only, and removes those of dead processes there.
    #[expect(clippy::disallowed_methods, reason = "inside a call of `blocking`")]
    pub(super) fn make(place: &Path, files: &HashedFiles) -> io::Result<Self> {
        remove_dead(place);
        let (name, opened) = (0..TRIES).find_map(|_| reserve(place).transpose()).unwrap_or_else(|| {
            Err(io::Error::new(io::ErrorKind::AlreadyExists, "every name for a directory is taken there"))
        })?;
        let version = FileVersion::of(&opened.metadata()?);
        let mut made = Self { place: place.to_owned(), name, opened, version };
        for (name, pem) in files {
            let path = by_descriptor(made.opened.as_raw_fd()).join(name);
            let file = File::options().write(true).create_new(true).mode(0o600).open(path);
            file.and_then(|mut file| file.write_all(pem))?;
        }
        made.version = made.now()?;
        Ok(made)
    }

    /// Whether it is unchanged: its times change when a file is added or removed.
    pub(super) fn is_whole(&self) -> bool {
        self.now().is_ok_and(|now| now == self.version)
    }

    pub(super) fn place(&self) -> &Path {
        &self.place
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.opened.as_fd()
    }

    fn now(&self) -> io::Result<FileVersion> {
        Ok(FileVersion::of(&self.opened.metadata()?))
    }
}

impl Drop for HashedDirectory {
    fn drop(&mut self) {
        // Fails if a cleaner removed it.
        drop(remove(&self.place, &self.name, &self.opened));
    }
}

pub(super) fn by_descriptor(number: i32) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{number}"))
}

/// A new directory, open and locked; none if the name is taken, or another process removed it before it was locked.
#[expect(clippy::disallowed_methods, reason = "inside a call of `blocking`")]
fn reserve(place: &Path) -> io::Result<Option<(OsString, Flock<File>)>> {
    let word: u64 = rand::random();
    let name = OsString::from(format!("{PREFIX}{}-{word:016x}", std::process::id()));
    let path = place.join(&name);
    match DirBuilder::new().mode(0o700).create(&path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
        made => made?,
    }
    let Some(opened) = open_own(&path)? else { return Ok(None) };
    let opened = match Flock::lock(opened, FlockArg::LockExclusiveNonblock) {
        Ok(opened) => opened,
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => return Ok(None),
        Err((_, error)) => {
            drop(fs::remove_dir(&path));
            return Err(error.into());
        }
    };
    // Removed before it was locked, it has no name.
    Ok((opened.metadata()?.nlink() > 0 && path.exists()).then_some((name, opened)))
}

/// Opens a directory of our own; none if it belongs to another user, is open to others, or is no directory.
#[expect(clippy::disallowed_methods, reason = "inside a call of `blocking`")]
fn open_own(path: &Path) -> io::Result<Option<File>> {
    let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
    match File::options().read(true).custom_flags(flags).open(path) {
        Ok(opened) => Ok(is_own(&opened.metadata()?).then_some(opened)),
        Err(error)
            if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP | libc::EACCES)) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn is_own(found: &Metadata) -> bool {
    found.is_dir() && found.uid() == nix::unistd::geteuid().as_raw() && found.mode() & 0o777 == 0o700
}

/// Removes the directories of dead processes of this user in `place`.
#[expect(clippy::disallowed_methods, reason = "inside a call of `blocking`")]
pub(super) fn remove_dead(place: &Path) {
    let Ok(entries) = fs::read_dir(place) else { return };
    for name in entries.flatten().map(|entry| entry.file_name()).filter(|name| is_name(name)) {
        let Ok(Some(opened)) = open_own(&place.join(&name)) else { continue };
        // A live process holds the lock.
        let Ok(opened) = Flock::lock(opened, FlockArg::LockExclusiveNonblock) else { continue };
        drop(remove(place, &name, &opened));
    }
}

/// `imaptrace-ca-NUMBER-WORD`.
fn is_name(name: &OsStr) -> bool {
    let Some((number, word)) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split_once('-')) else {
        return false;
    };
    number.parse::<u32>().is_ok() && word.len() == 16 && word.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Removes hashed files, and the directory if it is empty then.
#[expect(clippy::disallowed_methods, reason = "inside a call of `blocking`")]
fn remove(place: &Path, name: &OsStr, opened: &File) -> io::Result<()> {
    let inside = by_descriptor(opened.as_raw_fd());
    for entry in fs::read_dir(&inside)?.flatten() {
        if is_hashed_name(&entry.file_name()) {
            fs::remove_file(inside.join(entry.file_name()))?;
        }
    }
    fs::remove_dir(place.join(name))
}

/// Whether it is a name of a certificate for OpenSSL: the hash of its subject, and a number.
pub(super) fn is_hashed_name(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    let Some((hash, number)) = name.split_at_checked(8) else { return false };
    hash.iter().all(u8::is_ascii_hexdigit)
        && number
            .split_first()
            .is_some_and(|(dot, number)| *dot == b'.' && !number.is_empty() && number.iter().all(u8::is_ascii_digit))
}

/// The certificates of a bundle, as the files of a hashed directory.
pub(super) fn hashed(bundle: &[u8]) -> Result<HashedFiles, openssl::error::ErrorStack> {
    let mut taken: HashMap<u32, u32> = HashMap::new();
    let mut files = Vec::new();
    for certificate in openssl::x509::X509::stack_from_pem(bundle)? {
        let hash = certificate.subject_name_hash();
        let number = taken.entry(hash).or_default();
        files.push((format!("{hash:08x}.{number}"), certificate.to_pem()?));
        *number += 1;
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn certificate(name: &str) -> String {
        let key = rcgen::KeyPair::generate().unwrap();
        rcgen::CertificateParams::new(vec![name.into()]).unwrap().self_signed(&key).unwrap().pem()
    }

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_bundle_becomes_a_hashed_directory_with_every_certificate_and_leaves_nothing() {
        let place = tempfile::tempdir().unwrap();
        // rcgen gives both the same subject: the same hash, two numbers.
        let files = hashed((certificate("a.example") + &certificate("b.example")).as_bytes()).unwrap();
        let made = HashedDirectory::make(place.path(), &files).unwrap();
        let [name] = &names(place.path())[..] else { panic!() };
        let path = place.path().join(name);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o700);
        let inside = names(&path);
        assert_eq!(inside.len(), 2);
        assert!(inside[0].ends_with(".0") && inside[1].ends_with(".1"), "{inside:?}");
        assert_eq!(names(&by_descriptor(made.opened.as_raw_fd())), inside);
        assert!(made.is_whole());
        drop(made);
        assert_eq!(names(place.path()), Vec::<String>::new());
    }

    #[test]
    fn a_directory_that_a_cleaner_took_or_emptied_is_not_whole() {
        let place = tempfile::tempdir().unwrap();
        let files = vec![("01234567.0".to_owned(), b"a".to_vec()), ("01234567.1".to_owned(), b"b".to_vec())];
        let made = HashedDirectory::make(place.path(), &files).unwrap();
        let path = place.path().join(&names(place.path())[0]);
        fs::remove_file(path.join("01234567.1")).unwrap();
        assert!(!made.is_whole(), "a file of it was removed");
        drop(made);
        let made = HashedDirectory::make(place.path(), &files).unwrap();
        let path = place.path().join(&names(place.path())[0]);
        fs::remove_dir_all(path).unwrap();
        assert!(!made.is_whole(), "all of it was removed");
    }

    #[test]
    fn what_a_dead_process_left_goes_and_what_a_live_one_uses_or_another_planted_stays() {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        let files = vec![("01234567.0".to_owned(), b"a".to_vec())];
        let live = HashedDirectory::make(place.path(), &files).unwrap();
        let live_name = names(place.path())[0].clone();
        let leave = |name: &str, mode| {
            fs::create_dir(path(name)).unwrap();
            fs::write(path(name).join("01234567.0"), "a").unwrap();
            fs::set_permissions(path(name), fs::Permissions::from_mode(mode)).unwrap();
        };
        leave("imaptrace-ca-7-0123456789abcdef", 0o700);
        leave("imaptrace-ca-8-0123456789abcdef", 0o755);
        leave("imaptrace-ca-aBc123", 0o700);
        leave("elsewhere", 0o700);
        symlink(path("elsewhere"), path("imaptrace-ca-9-0123456789abcdef")).unwrap();
        leave("imaptrace-ca-6-0123456789abcdef", 0o700);
        fs::write(path("imaptrace-ca-6-0123456789abcdef").join("letter"), "mine").unwrap();
        remove_dead(place.path());
        let mut expected = vec![
            "elsewhere",
            "imaptrace-ca-6-0123456789abcdef",
            "imaptrace-ca-8-0123456789abcdef",
            "imaptrace-ca-9-0123456789abcdef",
            "imaptrace-ca-aBc123",
            &live_name,
        ];
        expected.sort_unstable();
        assert_eq!(names(place.path()), expected);
        assert!(path("elsewhere").join("01234567.0").exists(), "a link was followed");
        assert!(path("imaptrace-ca-6-0123456789abcdef").join("letter").exists(), "what is not ours was removed");
        assert!(live.is_whole());
    }
}
