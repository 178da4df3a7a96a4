//! A directory that is accessed through its descriptor: names in it are single components, and no link is followed.
//!
//! A path is resolved once, when the directory is opened; replacing a part of that path later changes nothing. Files are
//! opened with `O_NOFOLLOW | O_NONBLOCK` and must be regular, so that no link leads elsewhere and no FIFO blocks the caller.
//! Does not lock. Waits for the disk: called on threads that may wait, by [`state_dir`](super::state_dir), the queue on disk,
//! and the agent's latency history.

use std::{
    fs::File,
    io::{self, Read as _},
    os::{fd::OwnedFd, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use nix::{
    dir::Dir,
    errno::Errno,
    fcntl::{AtFlags, OFlag, openat, renameat},
    sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, fstatat, mkdirat},
    unistd::{UnlinkatFlags, fchown, fsync, geteuid, unlinkat},
};

/// For everything that is opened: no link is followed, no FIFO waited for, and no child inherits it.
const SAFE: OFlag = OFlag::O_NOFOLLOW.union(OFlag::O_NONBLOCK).union(OFlag::O_CLOEXEC);
/// Names that are tried before [`Directory::free`] fails.
const NAMES: u32 = 10_000;

/// The name is not that of a regular file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is {0}, and only regular files are used here")]
pub struct NotRegularError(&'static str);

impl NotRegularError {
    /// Whether this error is one, with or without a path.
    pub fn is(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|inner| {
            inner.is::<Located>() && inner.source().is_some_and(<dyn std::error::Error>::is::<Self>)
        })
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", path.display())]
struct Located {
    path: PathBuf,
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// Adds the path to an error, unless it has one.
pub(crate) fn about(path: &Path, error: io::Error) -> io::Error {
    if error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<Located>) {
        return error;
    }
    let kind = error.kind();
    let source = match error.downcast::<NotRegularError>() {
        Ok(error) => error.into(),
        Err(error) => error.into(),
    };
    io::Error::new(kind, Located { path: path.to_owned(), source })
}

/// Metadata of a name; a link is not followed.
#[derive(Debug, Clone, Copy)]
pub struct DirectoryEntry(FileStat);

impl DirectoryEntry {
    /// The file type, in words; none for a regular file.
    fn other(&self) -> Option<&'static str> {
        match self.kind() {
            SFlag::S_IFREG => None,
            SFlag::S_IFLNK => Some("a symbolic link"),
            SFlag::S_IFDIR => Some("a directory"),
            SFlag::S_IFIFO => Some("a FIFO"),
            SFlag::S_IFSOCK => Some("a socket"),
            _ => Some("a device"),
        }
    }

    fn kind(&self) -> SFlag {
        SFlag::from_bits_truncate(self.0.st_mode) & SFlag::S_IFMT
    }

    /// A directory.
    pub fn is_directory(&self) -> bool {
        self.kind() == SFlag::S_IFDIR
    }

    /// A symbolic link.
    pub fn is_link(&self) -> bool {
        self.kind() == SFlag::S_IFLNK
    }

    /// The user that owns it.
    pub fn owner(&self) -> u32 {
        self.0.st_uid
    }

    /// It belongs to the user that this process runs as.
    pub fn is_ours(&self) -> bool {
        self.0.st_uid == geteuid().as_raw()
    }

    /// A regular file of the agent's user without a second name (hard link), which may be in another user's directory.
    pub fn is_our_file(&self) -> bool {
        self.other().is_none() && self.is_ours() && self.0.st_nlink == 1
    }

    /// The permission bits.
    #[allow(clippy::useless_conversion, reason = "not on every system")]
    pub fn mode(&self) -> u32 {
        u32::from(self.0.st_mode) & 0o7777
    }

    /// Allocated bytes: `st_blocks` counts blocks of 512 bytes on every file system (stat(2)).
    pub(crate) fn size_on_disk(&self) -> u64 {
        u64::try_from(self.0.st_blocks).unwrap_or_default().saturating_mul(512)
    }

    /// When it was modified, in seconds and nanoseconds since 1970.
    pub(crate) fn modified(&self) -> (i64, i64) {
        (self.0.st_mtime, self.0.st_mtime_nsec)
    }

    /// Whether it is this open file.
    #[allow(
        clippy::useless_conversion,
        clippy::unnecessary_cast,
        clippy::cast_sign_loss,
        reason = "not on every system"
    )]
    pub(crate) fn is(&self, file: &std::fs::Metadata) -> bool {
        (self.0.st_dev as u64, u64::from(self.0.st_ino)) == (file.dev(), file.ino())
    }
}

/// An open directory.
#[derive(Debug)]
pub struct Directory {
    fd: OwnedFd,
    /// For messages alone.
    path: PathBuf,
}

impl Directory {
    /// Opens the directory at this path, through links: the path is the operator's.
    #[expect(clippy::disallowed_methods, reason = "on a thread of its own: the disk's")]
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let fd = nix::fcntl::open(path, flags, Mode::empty()).map_err(|error| about(path, error.into()))?;
        Ok(Self { fd, path: path.to_owned() })
    }

    #[expect(clippy::disallowed_methods, reason = "on a thread of its own: the disk's")]
    pub(crate) fn open_directory(&self, name: &str) -> io::Result<Self> {
        let fd = openat(&self.fd, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY | SAFE, Mode::empty());
        Ok(Self { fd: fd.map_err(|error| self.about(name, error.into()))?, path: self.at(name) })
    }

    /// The directory of this name in this one, created if it does not exist; only its owner has access to it. A file with the
    /// name is quarantined.
    ///
    /// An error when it belongs to another user.
    pub fn subdirectory(&self, name: &str) -> io::Result<Self> {
        if self.entry(name)?.is_some_and(|entry| !entry.is_directory()) {
            self.quarantine(name)?;
        }
        self.make_directory(name)?;
        // Before it is opened: another user's cannot be opened.
        if let Some(entry) = self.entry(name)? {
            self.check_owner(name, entry)?;
        }
        let directory = self.open_directory(name)?;
        let entry = directory.metadata()?;
        self.check_owner(name, entry)?;
        directory.close_to_others(entry)?;
        Ok(directory)
    }

    fn check_owner(&self, name: &str, entry: DirectoryEntry) -> io::Result<()> {
        if entry.is_ours() {
            return Ok(());
        }
        let text = format!(
            "this directory belongs to user {}, not to the agent's user {}; give it to that user with chown -R, or move it \
             away",
            entry.owner(),
            geteuid()
        );
        Err(self.about(name, io::Error::new(io::ErrorKind::PermissionDenied, text)))
    }

    /// Creates a directory with mode 0700 unless the name is taken, and syncs its name.
    pub(crate) fn make_directory(&self, name: &str) -> io::Result<()> {
        match mkdirat(&self.fd, name, Mode::S_IRWXU) {
            Err(Errno::EEXIST) => Ok(()),
            // Else it would exist the next time, and its name would not be synced.
            Ok(()) => self.sync().inspect_err(|_| drop(self.remove_directory(name))),
            Err(error) => Err(self.about(name, error.into())),
        }
    }

    pub(crate) fn close_to_others(&self, entry: DirectoryEntry) -> io::Result<()> {
        if entry.mode() & 0o077 != 0 {
            fchmod(&self.fd, Mode::S_IRWXU).map_err(|error| about(&self.path, error.into()))?;
        }
        Ok(())
    }

    /// Gives a file that root made in it to its owner, who has to read it. Does nothing for other users.
    pub(crate) fn give_to_its_owner(&self, file: &File) -> io::Result<()> {
        let entry = self.metadata()?;
        if !geteuid().is_root() || entry.is_ours() {
            return Ok(());
        }
        fchown(file, Some(entry.0.st_uid.into()), Some(entry.0.st_gid.into()))
            .map_err(|error| about(&self.path, error.into()))
    }

    /// Its path, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a name in it, for messages.
    pub fn at(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub(crate) fn metadata(&self) -> io::Result<DirectoryEntry> {
        fstat(&self.fd).map(DirectoryEntry).map_err(|error| about(&self.path, error.into()))
    }

    /// Whether it was removed: nothing can be created in it any more.
    pub(crate) fn is_gone(&self) -> bool {
        self.metadata().is_ok_and(|entry| entry.0.st_nlink == 0)
    }

    /// Metadata of a name in it; none when the name is free.
    pub fn entry(&self, name: &str) -> io::Result<Option<DirectoryEntry>> {
        match fstatat(&self.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(found) => Ok(Some(DirectoryEntry(found))),
            Err(Errno::ENOENT) => Ok(None),
            Err(error) => Err(self.about(name, error.into())),
        }
    }

    /// Opens a regular file to read it. [`NotRegularError`] when the name is that of something else.
    pub fn open_file(&self, name: &str) -> io::Result<File> {
        self.open_with(name, OFlag::O_RDONLY)
    }

    /// Opens a regular file to read and write it, created with mode 0600 if it does not exist.
    pub(crate) fn open_or_create(&self, name: &str) -> io::Result<File> {
        self.open_with(name, OFlag::O_RDWR | OFlag::O_CREAT)
    }

    #[expect(clippy::disallowed_methods, reason = "on a thread of its own: the disk's")]
    fn open_with(&self, name: &str, flags: OFlag) -> io::Result<File> {
        let open = || -> io::Result<File> {
            // Before it is opened: opening a device may have side effects.
            if let Some(what) = self.entry(name)?.and_then(|entry| entry.other()) {
                return Err(not_regular(what));
            }
            let fd = openat(&self.fd, name, flags | SAFE, Mode::S_IRUSR | Mode::S_IWUSR);
            let fd = fd.map_err(|error| match error {
                Errno::ELOOP => not_regular("a symbolic link"),
                error => error.into(),
            })?;
            match DirectoryEntry(fstat(&fd)?).other() {
                None => Ok(File::from(fd)),
                Some(what) => Err(not_regular(what)),
            }
        };
        open().map_err(|error| self.about(name, error))
    }

    /// Creates a file with mode 0600. An error when the name is taken.
    #[expect(clippy::disallowed_methods, reason = "on a thread of its own: the disk's")]
    pub fn create(&self, name: &str) -> io::Result<File> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | SAFE;
        let fd = openat(&self.fd, name, flags, Mode::S_IRUSR | Mode::S_IWUSR);
        fd.map(File::from).map_err(|error| self.about(name, error.into()))
    }

    /// Creates a file: what had the name is removed, or quarantined when it is a directory.
    pub fn create_anew(&self, name: &str) -> io::Result<File> {
        match self.entry(name)? {
            Some(entry) if entry.is_directory() => drop(self.quarantine(name)?),
            Some(_) => self.remove(name)?,
            None => {}
        }
        self.create(name)
    }

    /// The content of a regular file of at most `limit` bytes.
    pub fn read(&self, name: &str, limit: u64) -> io::Result<Vec<u8>> {
        let file = self.open_file(name)?;
        let length = file.metadata().map_err(|error| self.about(name, error))?.len();
        if length > limit {
            return Err(self.about(name, io::ErrorKind::FileTooLarge.into()));
        }
        let mut content = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
        // The file may grow between the two calls.
        file.take(limit).read_to_end(&mut content).map_err(|error| self.about(name, error))?;
        Ok(content)
    }

    /// Removes a file.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        unlinkat(&self.fd, name, UnlinkatFlags::NoRemoveDir).map_err(|error| self.about(name, error.into()))
    }

    pub(crate) fn remove_directory(&self, name: &str) -> io::Result<()> {
        unlinkat(&self.fd, name, UnlinkatFlags::RemoveDir).map_err(|error| self.about(name, error.into()))
    }

    /// Renames a file to `new` in the directory `to`, in place of the file that has that name.
    pub fn rename(&self, name: &str, to: &Self, new: &str) -> io::Result<()> {
        renameat(&self.fd, name, &to.fd, new).map_err(|error| self.about(name, error.into()))
    }

    /// Replaces the content of `name` atomically: `write` gets the new file `temporary`, which is then renamed. A directory with
    /// the name is quarantined. Does not sync.
    pub fn replace<T>(&self, name: &str, temporary: &str, write: impl FnOnce(File) -> io::Result<T>) -> io::Result<T> {
        let written = write(self.create_anew(temporary)?)?;
        if self.entry(name)?.is_some_and(|entry| entry.is_directory()) {
            self.quarantine(name)?;
        }
        self.rename(temporary, self, name)?;
        Ok(written)
    }

    /// Renames a file or directory to a free name, `NAME.damaged` or `NAME-2.damaged` and so on, and returns that.
    pub fn quarantine(&self, name: &str) -> io::Result<String> {
        let new = self.free(name, ".damaged")?;
        self.rename(name, self, &new)?;
        Ok(new)
    }

    /// A free name: with this ending, or with a number before the ending.
    pub fn free(&self, name: &str, ending: &str) -> io::Result<String> {
        let mut free = format!("{name}{ending}");
        for number in 2..NAMES {
            if self.entry(&free)?.is_none() {
                return Ok(free);
            }
            free = format!("{name}-{number}{ending}");
        }
        Err(self.about(&free, io::ErrorKind::AlreadyExists.into()))
    }

    /// Syncs the names in it to the disk.
    pub fn sync(&self) -> io::Result<()> {
        fsync(&self.fd).map_err(|error| about(&self.path, error.into()))
    }

    /// Calls `each` with every name in it that is UTF-8.
    pub fn names(&self, mut each: impl FnMut(&str)) -> io::Result<()> {
        let about = |error: Errno| about(&self.path, error.into());
        // A descriptor of its own, since the read position belongs to the descriptor.
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | SAFE;
        let mut directory = Dir::openat(&self.fd, ".", flags, Mode::empty()).map_err(about)?;
        for entry in directory.iter() {
            let entry = entry.map_err(about)?;
            match entry.file_name().to_str() {
                Ok("." | "..") | Err(_) => {}
                Ok(name) => each(name),
            }
        }
        Ok(())
    }

    fn about(&self, name: &str, error: io::Error) -> io::Error {
        about(&self.at(name), error)
    }
}

fn not_regular(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, NotRegularError(what))
}
