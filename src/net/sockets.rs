//! Opens the sockets of look-ups as tokio does, and counts those that could not be opened for want of something of this
//! machine's: the library that asks name servers keeps the reason to itself. Called by it, on behalf of `resolve`.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hickory_resolver::net::runtime::{RuntimeProvider, TokioRuntimeProvider};

use super::{Trouble, trouble};

/// See the module's head. Its copies count together.
#[derive(Clone, Default)]
pub(super) struct Sockets {
    tokio: TokioRuntimeProvider,
    short: Arc<AtomicU64>,
}

type Opening<T> = Pin<Box<dyn Send + Future<Output = io::Result<T>>>>;

impl Sockets {
    /// How many could not be opened so far.
    pub(super) fn short(&self) -> u64 {
        self.short.load(Ordering::Relaxed)
    }

    fn watch<T: 'static>(&self, opening: Opening<T>) -> Opening<T> {
        let short = Arc::clone(&self.short);
        Box::pin(async move {
            let opened = opening.await;
            if opened.as_ref().is_err_and(|error| trouble(error) == Some(Trouble::Exhausted)) {
                short.fetch_add(1, Ordering::Relaxed);
            }
            opened
        })
    }
}

impl RuntimeProvider for Sockets {
    type Handle = <TokioRuntimeProvider as RuntimeProvider>::Handle;
    type Timer = <TokioRuntimeProvider as RuntimeProvider>::Timer;
    type Udp = <TokioRuntimeProvider as RuntimeProvider>::Udp;
    type Tcp = <TokioRuntimeProvider as RuntimeProvider>::Tcp;

    fn create_handle(&self) -> Self::Handle {
        self.tokio.create_handle()
    }

    fn connect_tcp(
        &self,
        server: SocketAddr,
        source: Option<SocketAddr>,
        timeout: Option<Duration>,
    ) -> Opening<Self::Tcp> {
        self.watch(self.tokio.connect_tcp(server, source, timeout))
    }

    fn bind_udp(&self, source: SocketAddr, server: SocketAddr) -> Opening<Self::Udp> {
        self.watch(self.tokio.bind_udp(source, server))
    }
}

impl std::fmt::Debug for Sockets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sockets({} not opened)", self.short())
    }
}
