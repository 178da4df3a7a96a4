//! Where mail lies: an ext4 on a loop device, which can be taken out of the kernel's memory and be limited; and a directory
//! over SFTP (sshfs), each of whose replies takes a time that can change.

use std::{
    fs,
    io::{Read as _, Write},
    os::unix::fs::MetadataExt as _,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use imaptrace::clock;

use super::mailbox::{GROUP, OWNER};

/// Runs a program that has to succeed.
pub fn succeed(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?} cannot be run: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Unmounts, as soon as no process has a file open there.
fn unmount(at: &Path) {
    let mut complaint = String::new();
    for _ in 0..200 {
        let output = Command::new("umount").arg(at).output().unwrap();
        if output.status.success() {
            return;
        }
        complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        thread::sleep(Duration::from_millis(100));
    }
    assert!(thread::panicking(), "{complaint}");
}

/// A file system on a loop device, mounted while this is held.
pub struct LoopStorage {
    image: PathBuf,
    at: PathBuf,
}

impl LoopStorage {
    /// Makes and mounts one of 96 MiB.
    pub fn new(directory: &Path) -> Self {
        let this = Self { image: directory.join("disk.img"), at: directory.join("disk") };
        fs::File::create(&this.image).unwrap().set_len(96 << 20).unwrap();
        succeed(Command::new("mkfs.ext4").args(["-q", "-F", "-I", "256", "-b", "4096"]).arg(&this.image));
        fs::create_dir(&this.at).unwrap();
        this.mount();
        this
    }

    fn mount(&self) {
        succeed(Command::new("mount").args(["-o", "loop,noatime"]).arg(&self.image).arg(&self.at));
    }

    /// Where it is mounted.
    pub fn directory(&self) -> &Path {
        &self.at
    }

    /// Takes all of it out of the kernel's memory.
    pub fn make_cold(&self) {
        unmount(&self.at);
        // The image's own pages, too: the loop device reads through them.
        let image = fs::File::open(&self.image).unwrap();
        image.sync_all().unwrap();
        nix::fcntl::posix_fadvise(&image, 0, 0, nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
        self.mount();
    }

    /// Its device, `MAJOR:MINOR`. Another one after [`LoopStorage::make_cold`].
    pub fn device(&self) -> String {
        let device = fs::metadata(&self.at).unwrap().dev();
        format!("{}:{}", nix::sys::stat::major(device), nix::sys::stat::minor(device))
    }
}

impl Drop for LoopStorage {
    fn drop(&mut self) {
        unmount(&self.at);
    }
}

/// A directory over SFTP, mounted while this is held.
pub struct NetworkStorage {
    at: PathBuf,
    mounted: Child,
    server: Child,
    delay_ms: Arc<AtomicU64>,
}

impl NetworkStorage {
    /// Mounts the directory `exported` at `at`. Its server works as the owner of the mail.
    pub fn new(exported: &Path, at: &Path) -> Self {
        fs::create_dir(at).unwrap();
        let mut server = Command::new("/usr/lib/openssh/sftp-server")
            .uid(OWNER)
            .gid(GROUP)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("sftp-server of Debian's openssh-sftp-server cannot be run: {error}"));
        let mut mounted = Command::new("sshfs")
            // Each look at a file is a request: what caches hold for 20 s says nothing about the storage.
            .args(["-f", "-o", "passive,allow_other,default_permissions,dir_cache=no,attr_timeout=0,entry_timeout=0"])
            .arg(format!(":{}", exported.display()))
            .arg(at)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("sshfs of Debian's package sshfs cannot be run: {error}"));
        let delay_ms = Arc::<AtomicU64>::default();
        carry(mounted.stdout.take().unwrap(), server.stdin.take().unwrap(), Arc::default());
        carry(server.stdout.take().unwrap(), mounted.stdin.take().unwrap(), Arc::clone(&delay_ms));
        let outside = fs::metadata(at.parent().unwrap()).unwrap().dev();
        crate::support::program::wait_until("sshfs has mounted", || {
            let mounted = fs::metadata(at).ok()?;
            (mounted.dev() != outside).then_some(())
        });
        Self { at: at.to_owned(), mounted, server, delay_ms }
    }

    /// Every reply takes this long from now on.
    pub fn set_delay(&self, delay: Duration) {
        self.delay_ms.store(u64::try_from(delay.as_millis()).unwrap(), Ordering::Relaxed);
    }
}

impl Drop for NetworkStorage {
    fn drop(&mut self) {
        unmount(&self.at);
        for child in [&mut self.mounted, &mut self.server] {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// Carries bytes, each after the delay of the time at which it came.
fn carry(mut from: ChildStdout, mut to: impl Write + Send + 'static, delay_ms: Arc<AtomicU64>) {
    let (sender, queue) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = vec![0; 64 << 10];
        while let Ok(length @ 1..) = from.read(&mut bytes) {
            let due = clock::now() + Duration::from_millis(delay_ms.load(Ordering::Relaxed));
            if sender.send((due, bytes[..length].to_vec())).is_err() {
                return;
            }
        }
    });
    thread::spawn(move || {
        for (due, bytes) in queue {
            thread::sleep(due.saturating_duration_since(clock::now()));
            if to.write_all(&bytes).and_then(|()| to.flush()).is_err() {
                return;
            }
        }
    });
}
