//! A TCP proxy that keeps every byte that passes, as an independent count of what went over the wire.
//!
//! It implements no protocol. Under TLS it sees what an eavesdropper would.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinHandle,
};

/// What passed on one connection.
#[derive(Debug, Clone, Default)]
pub struct Conversation {
    /// From the client to the server.
    pub sent: Vec<u8>,
    /// From the server to the client.
    pub received: Vec<u8>,
}

/// A proxy on a port of its own; it accepts until it is dropped.
pub struct Proxy {
    /// Where clients connect.
    pub address: SocketAddr,
    conversations: Arc<Mutex<Vec<Conversation>>>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Starts one in front of `server`.
    pub async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let conversations: Arc<Mutex<Vec<Conversation>>> = Arc::default();
        let kept = Arc::clone(&conversations);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                // A server that refuses: the client is to see the connection end, as it would without us.
                let Ok(server) = TcpStream::connect(server).await else { continue };
                client.set_nodelay(true).unwrap();
                server.set_nodelay(true).unwrap();
                let number = {
                    let mut all = kept.lock().unwrap();
                    all.push(Conversation::default());
                    all.len() - 1
                };
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                let (up, down) = (Arc::clone(&kept), Arc::clone(&kept));
                drop(tokio::spawn(pass(from_client, to_server, move |bytes| {
                    up.lock().unwrap()[number].sent.extend_from_slice(bytes);
                })));
                drop(tokio::spawn(pass(from_server, to_client, move |bytes| {
                    down.lock().unwrap()[number].received.extend_from_slice(bytes);
                })));
            }
        });
        Self { address, conversations, accepting }
    }

    /// All that has passed up to now, one entry per connection in the order of their arrival.
    pub fn conversations(&self) -> Vec<Conversation> {
        self.conversations.lock().unwrap().clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Passes bytes on until either end is closed. Bytes are recorded first: when they have been received, they are recorded.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, note: impl Fn(&[u8])) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        note(&buffer[..length]);
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
    // The other end may be gone before us.
    drop(to.shutdown().await);
}
