//! A TCP listener on a thread and a runtime of its own, so that no request delays a probe.
//!
//! Accepts connections and passes each one on; it neither reads nor writes, and does not limit their number. Used by `status` and
//! by `server_events`, which serve HTTP.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::{net::TcpStream, sync::oneshot, task::yield_now, time::sleep};

/// The pause after an accept that failed (no file descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Listens until it is dropped, which also ends all connections.
#[derive(Debug)]
pub struct ListenerThread {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl ListenerThread {
    /// Starts listening, on a thread of this name. `accepted` gets each connection with its peer, inside the thread's runtime; it
    /// must not block. `before_wait` is called each time the thread has nothing to do.
    pub fn start(
        name: &str,
        listen: SocketAddr,
        before_wait: impl Fn() + Send + Sync + 'static,
        accepted: impl FnMut(TcpStream, SocketAddr) + Send + 'static,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(listen)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().on_thread_park(before_wait).build()?;
        let listener = {
            let _entered = runtime.enter();
            tokio::net::TcpListener::from_std(listener)?
        };
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new().name(name.into()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    biased;
                    // Dropping the sender is the same as sending.
                    _ = stopped => {}
                    () = accept(&listener, accepted) => {}
                }
            });
            runtime.shutdown_background();
        })?;
        Ok(Self { address, stop: Some(stop), thread: Some(thread) })
    }

    /// The address it listens on, with the real port if 0 was given.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for ListenerThread {
    fn drop(&mut self) {
        drop(self.stop.take());
        // The thread ends at once; a panic has been reported.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

async fn accept(listener: &tokio::net::TcpListener, mut accepted: impl FnMut(TcpStream, SocketAddr)) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                accepted(stream, peer);
                // What was closed for this one is closed before the next: else a flood of connections opens more than are allowed.
                yield_now().await;
            }
            Err(_) => sleep(ACCEPT_PAUSE).await,
        }
    }
}
