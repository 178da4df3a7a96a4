//! A directory that is used by its descriptor: names in it are single components, and no link is followed.
//!
//! A path is resolved once, when the directory is opened; replacing a part of that path later changes nothing. Files
//! are opened with `O_NOFOLLOW | O_NONBLOCK` and must be regular, so that neither a link leads elsewhere nor a FIFO holds
//! the caller up. Waits for the disk: called on threads that may wait, by [`state`](super::state), the queue on disk, and
//! the agent's latency history.

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
    unistd::{UnlinkatFlags, fsync, geteuid, unlinkat},
};

/// For everything that is opened: no link is followed, no FIFO waited for, and no child inherits it.
const SAFE: OFlag = OFlag::O_NOFOLLOW.union(OFlag::O_NONBLOCK).union(OFlag::O_CLOEXEC);
/// Names that are tried for what is set aside.
const ASIDE: u32 = 10_000;

/// The name stands for something other than a regular file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is {0}, and only regular files are used here")]
pub struct NotRegularError(&'static str);

impl NotRegularError {
    /// Whether this is the error, or what wraps it.
    pub fn is(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|inner| {
            inner.is::<Located>() && inner.source().is_some_and(<dyn std::error::Error>::is::<Self>)
        })
    }
}

/// An error with the path that it is about.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", path.display())]
struct Located {
    path: PathBuf,
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// The error with the path that it is about.
pub(super) fn about(path: &Path, error: io::Error) -> io::Error {
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

/// What a name stands for, without following a link.
#[derive(Debug, Clone, Copy)]
pub struct Entry(FileStat);

impl Entry {
    /// The file type, in words; none for a regular file.
    fn other(&self) -> Option<&'static str> {
        match SFlag::from_bits_truncate(self.0.st_mode) & SFlag::S_IFMT {
            SFlag::S_IFREG => None,
            SFlag::S_IFLNK => Some("a symbolic link"),
            SFlag::S_IFDIR => Some("a directory"),
            SFlag::S_IFIFO => Some("a FIFO"),
            SFlag::S_IFSOCK => Some("a socket"),
            _ => Some("a device"),
        }
    }

    /// A regular file.
    pub fn is_file(&self) -> bool {
        self.other().is_none()
    }

    /// A directory.
    pub fn is_directory(&self) -> bool {
        SFlag::from_bits_truncate(self.0.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR
    }

    /// A symbolic link.
    pub fn is_link(&self) -> bool {
        SFlag::from_bits_truncate(self.0.st_mode) & SFlag::S_IFMT == SFlag::S_IFLNK
    }

    /// The user that owns it.
    pub fn owner(&self) -> u32 {
        self.0.st_uid
    }

    /// It belongs to the user that this process runs as.
    pub fn is_ours(&self) -> bool {
        self.0.st_uid == geteuid().as_raw()
    }

    /// A regular file of ours that has no second name, which may be in a directory of someone else.
    pub fn is_our_file(&self) -> bool {
        self.is_file() && self.is_ours() && self.0.st_nlink == 1
    }

    /// The permission bits.
    #[allow(clippy::useless_conversion, reason = "not on every system")]
    pub fn mode(&self) -> u32 {
        u32::from(self.0.st_mode) & 0o7777
    }

    /// What it takes on disk, in bytes: its blocks are of 512 bytes, whatever the file system's are (stat(2)).
    pub(super) fn size_on_disk(&self) -> u64 {
        u64::try_from(self.0.st_blocks).unwrap_or_default().saturating_mul(512)
    }

    /// When it was modified, in seconds and nanoseconds since 1970.
    pub(super) fn modified(&self) -> (i64, i64) {
        (self.0.st_mtime, self.0.st_mtime_nsec)
    }

    /// Whether it is this open file.
    #[allow(
        clippy::useless_conversion,
        clippy::unnecessary_cast,
        clippy::cast_sign_loss,
        reason = "not on every system"
    )]
    pub(super) fn is(&self, file: &std::fs::Metadata) -> bool {
        (self.0.st_dev as u64, u64::from(self.0.st_ino)) == (file.dev(), file.ino())
    }

    /// Only its owner (and root) may write into it.
    pub fn is_closed(&self) -> bool {
        self.mode() & 0o022 == 0
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
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let fd = nix::fcntl::open(path, flags, Mode::empty()).map_err(|error| about(path, error.into()))?;
        Ok(Self { fd, path: path.to_owned() })
    }

    /// Opens the directory of this name in here, if it is one.
    #[expect(clippy::disallowed_methods, reason = "on a thread of its own: the disk's")]
    pub(super) fn open_directory(&self, name: &str) -> io::Result<Self> {
        let fd = openat(&self.fd, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY | SAFE, Mode::empty());
        Ok(Self { fd: fd.map_err(|error| self.about(name, error.into()))?, path: self.at(name) })
    }

    /// The directory of this name in here, made if it is not there; only its owner has access to it. What has the
    /// name and is no directory is set aside.
    ///
    /// An error when it belongs to another user.
    pub fn subdirectory(&self, name: &str) -> io::Result<Self> {
        if self.entry(name)?.is_some_and(|entry| !entry.is_directory()) {
            self.set_aside(name)?;
        }
        self.make_directory(name)?;
        // Before it is opened, for another's cannot be.
        if let Some(entry) = self.entry(name)? {
            self.check_owner(name, entry)?;
        }
        let directory = self.open_directory(name)?;
        let entry = directory.itself()?;
        self.check_owner(name, entry)?;
        directory.close_to_others(entry)?;
        Ok(directory)
    }

    fn check_owner(&self, name: &str, entry: Entry) -> io::Result<()> {
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

    /// Makes a directory for its owner alone unless something has the name. The name is on the disk when this comes back.
    pub(super) fn make_directory(&self, name: &str) -> io::Result<()> {
        match mkdirat(&self.fd, name, Mode::S_IRWXU) {
            Err(Errno::EEXIST) => Ok(()),
            // Next time it would be there, and its name would not be synced.
            Ok(()) => self.sync().inspect_err(|_| drop(self.remove_directory(name))),
            Err(error) => Err(self.about(name, error.into())),
        }
    }

    /// Takes every permission from everybody but the owner.
    pub(super) fn close_to_others(&self, entry: Entry) -> io::Result<()> {
        if entry.mode() & 0o077 != 0 {
            fchmod(&self.fd, Mode::S_IRWXU).map_err(|error| about(&self.path, error.into()))?;
        }
        Ok(())
    }

    /// Where it is, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where this name is, for messages.
    pub fn at(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The directory itself.
    pub(super) fn itself(&self) -> io::Result<Entry> {
        fstat(&self.fd).map(Entry).map_err(|error| about(&self.path, error.into()))
    }

    /// It was removed: nothing can be made in it any more.
    pub(super) fn is_gone(&self) -> bool {
        self.itself().is_ok_and(|entry| entry.0.st_nlink == 0)
    }

    /// What a name stands for; none when nothing has it.
    pub fn entry(&self, name: &str) -> io::Result<Option<Entry>> {
        match fstatat(&self.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(found) => Ok(Some(Entry(found))),
            Err(Errno::ENOENT) => Ok(None),
            Err(error) => Err(self.about(name, error.into())),
        }
    }

    /// Opens a regular file to read it. [`NotRegularError`] when the name stands for something else.
    pub fn open_file(&self, name: &str) -> io::Result<File> {
        self.open_with(name, OFlag::O_RDONLY)
    }

    /// Opens a regular file to read and write it, made for its owner alone if it is not there.
    pub(super) fn open_or_create(&self, name: &str) -> io::Result<File> {
        self.open_with(name, OFlag::O_RDWR | OFlag::O_CREAT)
    }

    #[expect(clippy::disallowed_methods, reason = "on a thread of its own: the disk's")]
    fn open_with(&self, name: &str, flags: OFlag) -> io::Result<File> {
        // Before it is opened: for a device that alone may have consequences.
        if let Some(what) = self.entry(name)?.and_then(|entry| entry.other()) {
            return Err(self.about(name, not_regular(what)));
        }
        let fd = match openat(&self.fd, name, flags | SAFE, Mode::S_IRUSR | Mode::S_IWUSR) {
            Ok(fd) => fd,
            Err(Errno::ELOOP) => return Err(self.about(name, not_regular("a symbolic link"))),
            Err(error) => return Err(self.about(name, error.into())),
        };
        match fstat(&fd).map(|found| Entry(found).other()) {
            Ok(None) => Ok(File::from(fd)),
            Ok(Some(what)) => Err(self.about(name, not_regular(what))),
            Err(error) => Err(self.about(name, error.into())),
        }
    }

    /// Makes a file that must not be there yet, for its owner alone.
    #[expect(clippy::disallowed_methods, reason = "on a thread of its own: the disk's")]
    pub fn create(&self, name: &str) -> io::Result<File> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | SAFE;
        let fd = openat(&self.fd, name, flags, Mode::S_IRUSR | Mode::S_IWUSR);
        fd.map(File::from).map_err(|error| self.about(name, error.into()))
    }

    /// Makes a file anew: what had the name goes, or is set aside when it is no file.
    pub fn create_anew(&self, name: &str) -> io::Result<File> {
        match self.entry(name)? {
            Some(entry) if entry.is_directory() => drop(self.set_aside(name)?),
            Some(_) => self.remove(name)?,
            None => {}
        }
        self.create(name)
    }

    /// The content of a regular file of at most so many bytes.
    pub fn read(&self, name: &str, limit: u64) -> io::Result<Vec<u8>> {
        let file = self.open_file(name)?;
        let length = file.metadata().map_err(|error| self.about(name, error))?.len();
        if length > limit {
            return Err(self.about(name, io::ErrorKind::FileTooLarge.into()));
        }
        let mut content = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
        // It may grow meanwhile.
        file.take(limit).read_to_end(&mut content).map_err(|error| self.about(name, error))?;
        Ok(content)
    }

    /// Removes a name that is no directory's.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        unlinkat(&self.fd, name, UnlinkatFlags::NoRemoveDir).map_err(|error| self.about(name, error.into()))
    }

    /// Removes an empty directory.
    pub(super) fn remove_directory(&self, name: &str) -> io::Result<()> {
        unlinkat(&self.fd, name, UnlinkatFlags::RemoveDir).map_err(|error| self.about(name, error.into()))
    }

    /// Gives what has this name another one in another directory, in place of what has that.
    pub fn rename(&self, name: &str, to: &Self, new: &str) -> io::Result<()> {
        renameat(&self.fd, name, &to.fd, new).map_err(|error| self.about(name, error.into()))
    }

    /// Gives what has this name one that is free: `NAME.damaged`, or with a number. Gives the new one.
    pub fn set_aside(&self, name: &str) -> io::Result<String> {
        let new = self.free(name, ".damaged")?;
        self.rename(name, self, &new)?;
        Ok(new)
    }

    /// A name that nothing has: with this ending, or a number before it.
    pub fn free(&self, name: &str, ending: &str) -> io::Result<String> {
        let mut free = format!("{name}{ending}");
        for number in 2..ASIDE {
            if self.entry(&free)?.is_none() {
                return Ok(free);
            }
            free = format!("{name}-{number}{ending}");
        }
        Err(self.about(&free, io::ErrorKind::AlreadyExists.into()))
    }

    /// Brings the names in it to the disk.
    pub fn sync(&self) -> io::Result<()> {
        fsync(&self.fd).map_err(|error| about(&self.path, error.into()))
    }

    /// Shows every name in it that is text.
    pub fn names(&self, mut each: impl FnMut(&str)) -> io::Result<()> {
        let about = |error: Errno| about(&self.path, error.into());
        // A descriptor of its own: the place of reading is the descriptor's.
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
