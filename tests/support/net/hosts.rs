//! A host of a test's own for its names: a network with nothing but a loopback, and an /etc of which the test writes
//! resolv.conf and hosts. Both the library and the C library find them where they always are. Needs root.

use std::{path::PathBuf, process::Command};

use nix::sched::{CloneFlags, unshare};

use super::namespace::Namespace;

/// The host. It has no name and ends with the processes inside.
pub struct Host {
    namespace: Namespace,
    etc: tempfile::TempDir,
}

impl Host {
    /// A host whose C library looks into the hosts file, then asks name servers. There is no resolv.conf, and an empty
    /// hosts file.
    pub fn new() -> Self {
        let etc = tempfile::tempdir().unwrap();
        std::fs::write(etc.path().join("nsswitch.conf"), "hosts: files dns\n").unwrap();
        std::fs::write(etc.path().join("host.conf"), "multi on\n").unwrap();
        std::fs::write(etc.path().join("hosts"), "").unwrap();
        Self { namespace: Namespace::new(), etc }
    }

    /// Where a file of its /etc is outside.
    pub fn etc(&self, name: &str) -> PathBuf {
        self.etc.path().join(name)
    }

    /// Writes a file of its /etc, as programs do that put a new one in the old one's place.
    pub fn write(&self, name: &str, text: &str) {
        let new = self.etc(&format!("{name}.new"));
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.etc(name)).unwrap();
    }

    /// Runs `ip` inside.
    pub fn command(&self, line: &str) {
        self.namespace.command(line);
    }

    /// Waits inside for what `future` makes. Threads and programs that it starts are inside too.
    pub fn wait_for<T: Send, F: Future<Output = T>>(&self, future: impl FnOnce() -> F + Send) -> T {
        self.namespace.wait_for(|| {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            mount(&["--make-rprivate", "/"]);
            mount(&["--bind", self.etc.path().to_str().unwrap(), "/etc"]);
            future()
        })
    }
}

fn mount(arguments: &[&str]) {
    let output = Command::new("mount").args(arguments).output().unwrap();
    assert!(output.status.success(), "mount {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}
