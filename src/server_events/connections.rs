//! Which connections are open, and which one is closed for another. Does no I/O. Called by `receiver`.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::task::AbortHandle;

/// The most connections at once.
pub(super) const CONNECTIONS: usize = 256;
/// The most connections of one peer at once: several servers may be behind one address.
pub(super) const CONNECTIONS_OF_A_PEER: usize = 64;

/// The open connections.
#[derive(Debug, Default)]
pub(super) struct Connections(Vec<OpenPeer>);

#[derive(Debug)]
struct OpenPeer {
    peer: IpAddr,
    /// Set when it has sent a request with the name and secret of a sender.
    is_authenticated: Arc<AtomicBool>,
    task: AbortHandle,
}

impl Connections {
    /// Makes room for a connection of this peer. Where there is none, the oldest one that has sent no request of a sender is
    /// closed: of the same peer if that has too many, else of all. Returns whether there is room.
    pub(super) fn make_room(&mut self, peer: IpAddr) -> bool {
        self.0.retain(|open| !open.task.is_finished());
        let of_peer = self.0.iter().filter(|open| open.peer == peer).count();
        if of_peer >= CONNECTIONS_OF_A_PEER {
            return self.close_unauthenticated(|open| open.peer == peer);
        }
        self.0.len() < CONNECTIONS || self.close_unauthenticated(|_| true)
    }

    fn close_unauthenticated(&mut self, is_candidate: impl Fn(&OpenPeer) -> bool) -> bool {
        let unauthenticated = |open: &OpenPeer| !open.is_authenticated.load(Ordering::Relaxed) && is_candidate(open);
        let Some(at) = self.0.iter().position(unauthenticated) else { return false };
        self.0.remove(at).task.abort();
        true
    }

    /// Adds a connection; `is_authenticated` is set by its task.
    pub(super) fn add(&mut self, peer: IpAddr, is_authenticated: Arc<AtomicBool>, task: AbortHandle) {
        self.0.push(OpenPeer { peer, is_authenticated, task });
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    fn peer(number: usize) -> IpAddr {
        IpAddr::from(std::net::Ipv4Addr::from_bits(0xc000_0200 + u32::try_from(number).unwrap()))
    }

    fn open(connections: &mut Connections, peer: IpAddr, authenticated: bool) -> AbortHandle {
        let task = tokio::spawn(pending::<()>()).abort_handle();
        connections.add(peer, Arc::new(AtomicBool::new(authenticated)), task.clone());
        task
    }

    async fn ended(task: &AbortHandle) {
        while !task.is_finished() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn an_authenticated_connection_is_never_closed_for_another() {
        let mut connections = Connections::default();
        for number in 0..CONNECTIONS {
            assert!(connections.make_room(peer(number)));
            open(&mut connections, peer(number), true);
        }
        assert!(!connections.make_room(peer(CONNECTIONS)));
    }

    #[tokio::test]
    async fn the_oldest_unauthenticated_one_is_closed_of_the_peer_that_has_too_many_or_else_of_all() {
        let mut connections = Connections::default();
        let first = open(&mut connections, peer(1), false);
        let other = open(&mut connections, peer(0), false);
        for _ in 1..CONNECTIONS_OF_A_PEER {
            assert!(connections.make_room(peer(0)));
            open(&mut connections, peer(0), true);
        }
        assert!(connections.make_room(peer(0)));
        ended(&other).await;
        assert!(!first.is_finished());
        open(&mut connections, peer(0), true);
        assert!(!connections.make_room(peer(0)), "all of its connections are authenticated");
        for number in connections.0.len()..CONNECTIONS {
            open(&mut connections, peer(number + 2), true);
        }
        assert!(connections.make_room(peer(2)));
        ended(&first).await;
    }

    #[tokio::test]
    async fn a_connection_that_has_ended_takes_no_room() {
        let mut connections = Connections::default();
        for _ in 0..CONNECTIONS_OF_A_PEER {
            let task = open(&mut connections, peer(0), true);
            task.abort();
            ended(&task).await;
        }
        assert!(connections.make_room(peer(0)));
        assert_eq!(connections.0.len(), 0);
    }
}
