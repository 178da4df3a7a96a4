//! A small file system in memory, in a mount namespace of its own. Needs root.

use std::{path::Path, process::Command, thread};

use nix::sched::{CloneFlags, unshare};

/// Runs a program that has to succeed, such as `mount`.
pub fn command(line: &str) {
    let mut words = line.split(' ');
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Calls `inside` with a directory, for its owner alone, on a file system of `size` (of tmpfs: bytes, or with `k` or `m`). It
/// runs on a thread of its own, on which alone the mount is to be seen.
pub fn with_small_disk(size: &str, inside: impl FnOnce(&Path) + Send) {
    let ended = thread::scope(|scope| {
        let inside = || {
            unshare(CloneFlags::CLONE_NEWNS)
                .unwrap_or_else(|error| panic!("this test needs root, for a disk of its own: {error}"));
            command("mount --make-rprivate /");
            let directory = tempfile::tempdir().unwrap();
            command(&format!("mount -t tmpfs -o size={size},mode=0700 tmpfs {}", directory.path().display()));
            inside(directory.path());
            command(&format!("umount -l {}", directory.path().display()));
        };
        scope.spawn(inside).join()
    });
    ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}
