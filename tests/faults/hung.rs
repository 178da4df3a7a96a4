//! A file system that takes questions and answers none: FUSE, with nobody behind it but this. Needs root, and `/dev/fuse`.
//!
//! A call into it cannot be broken off, not even by SIGKILL: its question has been taken. It is mounted in a mount namespace of
//! the thread that makes it, so only this thread and programs that it starts see it.

#![expect(unsafe_code, reason = "the call to mount has no wrapper here")]

use std::{
    ffi::CString,
    fs::{File, OpenOptions},
    io::{Read as _, Write as _},
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::fs::OpenOptionsExt as _,
    },
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
};

use nix::{
    poll::{PollFd, PollFlags, poll},
    sched::{CloneFlags, unshare},
};

/// The kernel's first question, and the only one that is answered: without it no other is asked (`linux/fuse.h`).
const INIT: u32 = 26;

/// The file system. Dropped, it answers all that was asked with an error, and is gone.
pub(crate) struct HungMount {
    over: Arc<AtomicBool>,
    taken: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl HungMount {
    /// Mounts it on this directory, for this thread.
    pub(crate) fn on(directory: &Path) -> Self {
        unshare(CloneFlags::CLONE_NEWNS).expect("this test needs root, for a mount namespace of its own");
        mount("none", Path::new("/"), None, libc::MS_REC | libc::MS_PRIVATE, "");
        let device = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/fuse");
        let device = device.expect("this test needs /dev/fuse");
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        mount("hung", directory, Some("fuse"), libc::MS_NOSUID | libc::MS_NODEV, &options);
        let (over, taken) = <(Arc<AtomicBool>, Arc<AtomicUsize>)>::default();
        let shared = (over.clone(), taken.clone());
        let thread = std::thread::spawn(move || take(device, &shared.0, &shared.1));
        Self { over, taken, thread: Some(thread) }
    }

    /// How many questions it has taken.
    pub(crate) fn taken(&self) -> usize {
        self.taken.load(Ordering::SeqCst)
    }
}

impl Drop for HungMount {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        drop(self.thread.take().map(JoinHandle::join));
    }
}

/// Takes questions until it is over. With the device closed the kernel ends all that wait.
fn take(mut device: File, over: &AtomicBool, taken: &AtomicUsize) {
    let mut question = vec![0; 1 << 20];
    while !over.load(Ordering::SeqCst) {
        poll(&mut [PollFd::new(device.as_fd(), PollFlags::POLLIN)], 50_u16).unwrap();
        let Ok(length) = device.read(&mut question) else { continue };
        let word = |at: usize| u32::from_ne_bytes(question[at..at + 4].try_into().unwrap());
        assert!(length >= 40, "a question of {length} bytes");
        if word(4) != INIT {
            taken.fetch_add(1, Ordering::SeqCst);
            continue;
        }
        // Length, no error, the question's number; then version 7.31, and zeros for all that it could have.
        let mut answer = vec![0_u8; 16 + 64];
        answer[..4].copy_from_slice(&80_u32.to_ne_bytes());
        answer[8..16].copy_from_slice(&question[8..16]);
        answer[16..20].copy_from_slice(&7_u32.to_ne_bytes());
        answer[20..24].copy_from_slice(&31_u32.to_ne_bytes());
        device.write_all(&answer).unwrap();
    }
}

fn mount(source: &str, target: &Path, kind: Option<&str>, flags: libc::c_ulong, options: &str) {
    let text = |text: &str| CString::new(text).unwrap();
    let (source, target) = (text(source), text(target.to_str().unwrap()));
    let (kind, options) = (kind.map(text), text(options));
    let kind = kind.as_ref().map_or(std::ptr::null(), |kind| kind.as_ptr());
    // SAFETY: all texts live until the call is over.
    let done = unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind, flags, options.as_ptr().cast()) };
    assert_eq!(done, 0, "mount: {}", std::io::Error::last_os_error());
}
