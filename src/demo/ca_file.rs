//! The root certificate as a file: the client's setting is a path.
//!
//! It is a temporary file, which other programs can read too. Without a writable directory, as in a container with a read-only
//! root, it is a file in memory on Linux, which only this process can read by its path. Called by `server`.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

/// A file with a certificate, removed on drop.
pub(super) struct CaFile {
    path: PathBuf,
    /// Keeps a file in memory, which has no name in a directory.
    memory: Option<File>,
}

/// The certificate could not be written.
#[derive(Debug, thiserror::Error)]
#[error("the demo server's certificate cannot be written to {}; set TMPDIR to a directory that can be", path.display())]
pub struct CaFileError {
    path: PathBuf,
    source: io::Error,
}

impl CaFile {
    pub(super) fn new(pem: &str) -> Result<Self, CaFileError> {
        on_disk(pem).or_else(|error| in_memory(pem).map_err(|_| error))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for CaFile {
    #[expect(clippy::disallowed_methods, reason = "before anything is probed")]
    fn drop(&mut self) {
        if self.memory.is_none() {
            // Nothing can be done about a failure.
            fs::remove_file(&self.path).unwrap_or(());
        }
    }
}

#[cfg(target_os = "linux")]
#[expect(clippy::disallowed_methods, reason = "before anything is probed")]
fn in_memory(pem: &str) -> io::Result<CaFile> {
    use std::os::fd::AsRawFd as _;

    use nix::sys::memfd::{MFdFlags, memfd_create};

    let mut file = File::from(memfd_create(c"imaptrace-demo.pem", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(pem.as_bytes())?;
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    // Without /proc nothing can be opened by this name.
    File::open(&path)?;
    Ok(CaFile { path, memory: Some(file) })
}

#[cfg(not(target_os = "linux"))]
fn in_memory(_pem: &str) -> io::Result<CaFile> {
    Err(io::ErrorKind::Unsupported.into())
}

#[expect(clippy::disallowed_methods, reason = "before anything is probed")]
fn on_disk(pem: &str) -> Result<CaFile, CaFileError> {
    let name = format!("imaptrace-demo-{}-{:016x}.pem", std::process::id(), rand::random::<u64>());
    let path = std::env::temp_dir().join(name);
    // Only a new file: in a shared directory there may be a link of this name.
    match File::create_new(&path).and_then(|mut file| file.write_all(pem.as_bytes())) {
        Ok(()) => Ok(CaFile { path, memory: None }),
        Err(source) => Err(CaFileError { path, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_on_disk_holds_the_certificate_until_it_is_dropped() {
        let file = on_disk("planted").unwrap();
        let path = file.path().to_owned();
        assert_eq!(fs::read_to_string(&path).unwrap(), "planted");
        drop(file);
        assert!(!path.exists());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_file_in_memory_can_be_read_again_and_again() {
        let file = in_memory("planted").unwrap();
        for _ in 0..2 {
            assert!(fs::metadata(file.path()).unwrap().is_file());
            assert_eq!(fs::read_to_string(file.path()).unwrap(), "planted");
        }
    }
}
