//! Servers that do harm, and one that does none. They know as much IMAP as it takes to be let in.
//!
//! Each set has a thread and a runtime of its own, and ends with it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
        mpsc,
    },
    time::Duration,
};

use imaptrace_record::ErrorType;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use crate::support::script::Pem;

/// What a server does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spoil {
    Nothing,
    /// Says nothing at all.
    Silent,
    /// Says nothing from LOGIN on.
    SilentAtLogin,
    /// A byte of the greeting every 100 ms.
    Drips,
    /// EXISTS without end, in answer to SELECT.
    Exists,
    /// A line without end, in answer to LIST.
    Line,
    /// RST, in answer to LOGIN.
    Reset,
    /// A literal of so many bytes in a row of the answer to FETCH.
    Literal(u64),
}

/// Those that good ones have to live among, and what a run against each comes to.
pub const KINDS: [(Spoil, ErrorType); 6] = [
    (Spoil::Silent, ErrorType::TimeoutGreeting),
    (Spoil::Drips, ErrorType::TimeoutGreeting),
    (Spoil::Exists, ErrorType::LimitResponses),
    (Spoil::Line, ErrorType::LimitLine),
    (Spoil::Reset, ErrorType::Reset),
    (Spoil::Literal(u64::MAX >> 1), ErrorType::LimitBytes),
];

/// Local addresses of each server: together they have ports for as many connections as there are descriptors.
const HOSTS: u8 = 4;
const PIECE: usize = 256 << 10;

/// Running servers, a set of addresses for each kind.
pub struct Servers {
    pub kinds: Vec<Vec<SocketAddr>>,
    /// Connections on which nothing more will be said.
    pub waiting: Arc<AtomicU32>,
    /// Bytes of literals that were sent.
    pub sent: Arc<AtomicU64>,
    _until: oneshot::Sender<()>,
}

#[derive(Clone)]
struct Session {
    spoil: Spoil,
    waiting: Arc<AtomicU32>,
    sent: Arc<AtomicU64>,
}

impl Servers {
    pub fn start(spoils: &[Spoil], pem: Option<&Pem>) -> Self {
        let (waiting, sent) = (Arc::default(), Arc::default());
        let (until, ended) = oneshot::channel::<()>();
        let (sender, received) = mpsc::channel();
        let sessions: Vec<Session> = spoils
            .iter()
            .map(|spoil| Session { spoil: *spoil, waiting: Arc::clone(&waiting), sent: Arc::clone(&sent) })
            .collect();
        let acceptor = pem.map(Pem::acceptor);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut listening = JoinSet::new();
                let mut kinds = Vec::new();
                for session in sessions {
                    let mut addresses = Vec::new();
                    for host in 1..=HOSTS {
                        let listener = TcpListener::bind((std::net::Ipv4Addr::new(127, 0, 0, host), 0)).await.unwrap();
                        addresses.push(listener.local_addr().unwrap());
                        listening.spawn(serve(listener, session.clone(), acceptor.clone()));
                    }
                    kinds.push(addresses);
                }
                sender.send(kinds).unwrap();
                drop(ended.await);
            });
        });
        Self { kinds: received.recv().unwrap(), waiting, sent, _until: until }
    }
}

async fn serve(listener: TcpListener, session: Session, acceptor: Option<TlsAcceptor>) {
    let mut sessions = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        while sessions.try_join_next().is_some() {}
        stream.set_nodelay(true).unwrap();
        let (session, acceptor) = (session.clone(), acceptor.clone());
        // A client that has had enough is what these are made for.
        sessions.spawn(async move {
            match acceptor {
                None if session.spoil == Spoil::Reset => reset(stream).await,
                None => session.hold(stream).await,
                Some(tls) => session.hold(tls.accept(stream).await?).await,
            }
        });
    }
}

/// Greets, hears LOGIN and is gone.
async fn reset(mut stream: TcpStream) -> std::io::Result<()> {
    stream.write_all(b"* OK [CAPABILITY IMAP4rev1] hi\r\n").await?;
    BufReader::new(&mut stream).read_line(&mut String::new()).await?;
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))
}

impl Session {
    async fn hold(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<()> {
        match self.spoil {
            Spoil::Silent => return self.fall_silent(stream).await,
            Spoil::Drips => {
                stream.write_all(b"* OK ").await?;
                loop {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    stream.write_all(b"x").await?;
                }
            }
            _ => {}
        }
        let mut stream = BufReader::with_capacity(256, stream);
        say(&mut stream, "* OK [CAPABILITY IMAP4rev1] hi\r\n").await?;
        let mut line = String::new();
        while stream.read_line(&mut line).await? > 0 {
            let mut words = line.split_ascii_whitespace();
            let (tag, command) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            let mut untagged = String::new();
            match (command, self.spoil) {
                ("LOGIN", Spoil::SilentAtLogin) => return self.fall_silent(stream).await,
                ("LOGIN", _) => "* CAPABILITY IMAP4rev1\r\n".clone_into(&mut untagged),
                ("LIST", Spoil::Line) => return endless(stream, &"x".repeat(PIECE)).await,
                ("LIST", _) => "* LIST () \"/\" INBOX\r\n".clone_into(&mut untagged),
                ("SELECT", Spoil::Exists) => return endless(stream, &"* 1 EXISTS\r\n".repeat(PIECE / 12)).await,
                ("SELECT", _) => "* 20 EXISTS\r\n".clone_into(&mut untagged),
                ("FETCH", Spoil::Literal(bytes)) => {
                    say(&mut stream, &format!("* 1 FETCH (BODY[] {{{bytes}}}\r\n")).await?;
                    self.literal(&mut stream, bytes).await?;
                    ")\r\n".clone_into(&mut untagged);
                }
                ("FETCH", _) => {
                    let row = |number| {
                        format!("* {number} FETCH (UID {number} FLAGS (\\Seen) BODY[] {{400}}\r\n{:400})\r\n", "a")
                    };
                    untagged = (1..=20).map(row).collect();
                }
                _ => {}
            }
            say(&mut stream, &format!("{untagged}{tag} OK done\r\n")).await?;
            line.clear();
        }
        Ok(())
    }

    /// Until the client has gone.
    async fn fall_silent(&self, mut stream: impl AsyncRead + Unpin) -> std::io::Result<()> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let mut heard = [0; 64];
        while stream.read(&mut heard).await? > 0 {}
        Ok(())
    }

    async fn literal(&self, stream: &mut (impl AsyncWrite + Unpin), bytes: u64) -> std::io::Result<()> {
        let piece = vec![b'x'; PIECE];
        let mut left = bytes;
        while left > 0 {
            let part = usize::try_from(left.min(PIECE as u64)).unwrap();
            stream.write_all(piece.get(..part).unwrap()).await?;
            self.sent.fetch_add(part as u64, Ordering::Relaxed);
            left -= part as u64;
        }
        Ok(())
    }
}

async fn endless(mut stream: impl AsyncWrite + Unpin, piece: &str) -> std::io::Result<()> {
    loop {
        say(&mut stream, piece).await?;
    }
}

async fn say(stream: &mut (impl AsyncWrite + Unpin), text: &str) -> std::io::Result<()> {
    stream.write_all(text.as_bytes()).await?;
    stream.flush().await
}
