//! A network namespace, for as long as it is held.

use std::{fs::File, net::TcpListener, process::Command, thread};

use nix::sched::{CloneFlags, setns, unshare};

/// A network with nothing in it but a loopback of its own.
pub struct Namespace(File);

impl Namespace {
    /// Makes one. It has no name and ends when this and the sockets in it are gone.
    pub fn new() -> Self {
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            Ok::<_, nix::Error>(File::open("/proc/thread-self/ns/net").unwrap())
        });
        let namespace = match made.join().unwrap() {
            Ok(file) => Self(file),
            Err(error) => panic!("this test needs root, for a network namespace of its own: {error}"),
        };
        namespace.command("ip link set lo up");
        namespace
    }

    /// Does something on a thread inside. Sockets that it opens, and programs that it starts, are and stay inside.
    pub fn enter<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> T {
        let entered = thread::scope(|scope| {
            let entered = scope.spawn(|| {
                setns(&self.0, CloneFlags::CLONE_NEWNET).unwrap();
                inside()
            });
            entered.join()
        });
        entered.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Waits inside for what `future` makes.
    pub fn wait_for<T: Send, F: Future<Output = T>>(&self, future: impl FnOnce() -> F + Send) -> T {
        self.enter(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(future())
        })
    }

    /// Listens inside, at a port that is free there.
    pub fn listen(&self, address: &str) -> TcpListener {
        self.enter(|| TcpListener::bind((address, 0)).unwrap())
    }

    /// Runs `ip` or `tc` inside.
    pub fn command(&self, line: &str) {
        let mut words = line.split(' ');
        let program = words.next().unwrap();
        let output = self.enter(|| Command::new(program).args(words).output());
        let output =
            output.unwrap_or_else(|error| panic!("{program} of Debian's package iproute2 cannot be run: {error}"));
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
