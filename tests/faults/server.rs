//! A server that does all right, in the thread of the run: so that it can say, at each moment, which step of the run the
//! next read or write belongs to. Of a name server it plays the part too.

use std::{cell::RefCell, net::SocketAddr, sync::Arc};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream, UdpSocket},
    task::JoinSet,
};

use crate::{
    kernel::{self, Stage},
    support::script::Pem,
};

/// How the connection is secured, and what else is special about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// In clear text, from a source address, with a PROXY header before all.
    Proxied,
    Clear,
    /// TLS 1.2, in which the server has the last word of a handshake.
    StartTls,
    /// TLS 1.3, in which the client has it.
    Tls,
}

/// The server's two ways to speak TLS.
pub(crate) struct Acceptors {
    old: async_native_tls::TlsAcceptor,
    new: tokio_rustls::TlsAcceptor,
}

impl Acceptors {
    pub(crate) fn new(pem: &Pem) -> Self {
        let identity = native_tls::Identity::from_pkcs8(pem.certificate.as_bytes(), pem.key.as_bytes()).unwrap();
        let old = native_tls::TlsAcceptor::builder(identity)
            .max_protocol_version(Some(native_tls::Protocol::Tlsv12))
            .build()
            .unwrap();
        Self { old: old.into(), new: pem.acceptor() }
    }
}

impl Way {
    /// The steps from the connection on, in their order.
    fn steps(self) -> &'static [&'static str] {
        match self {
            Self::Clear | Self::Proxied => {
                &["greeting", "ID", "AUTHENTICATE", "CAPABILITY", "NAMESPACE", "LIST", "SELECT", "FETCH", "LOGOUT"]
            }
            Self::StartTls => &[
                "greeting",
                "STARTTLS",
                "tls",
                "CAPABILITY",
                "ID",
                "AUTHENTICATE",
                "CAPABILITY",
                "NAMESPACE",
                "LIST",
                "SELECT",
                "FETCH",
                "LOGOUT",
            ],
            Self::Tls => &[
                "tls",
                "greeting",
                "ID",
                "AUTHENTICATE",
                "CAPABILITY",
                "NAMESPACE",
                "LIST",
                "SELECT",
                "FETCH",
                "LOGOUT",
            ],
        }
    }

    /// Before the server has said anything.
    pub(crate) fn before(self) -> Stage {
        match self {
            // The header is part of the connection.
            Self::Proxied => Stage { reading: "greeting", writing: "connect" },
            Self::Clear | Self::StartTls => Stage { reading: "greeting", writing: "ID" },
            Self::Tls => Stage { reading: "tls", writing: "tls" },
        }
    }
}

/// The server. It and all its connections end when it is dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    _sessions: JoinSet<()>,
}

impl Server {
    pub(crate) async fn start(way: Way, acceptors: Arc<Acceptors>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut sessions = JoinSet::new();
        sessions.spawn(async move {
            let mut sessions = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                let acceptors = Arc::clone(&acceptors);
                // A client that leaves is what this is about.
                sessions.spawn(async move { drop(session(way, stream, &acceptors).await) });
            }
        });
        Self { address, _sessions: sessions }
    }
}

/// Where a conversation is.
struct Place {
    steps: &'static [&'static str],
    at: usize,
}

impl Place {
    /// The step is being answered, and what is written next belongs to the one after it.
    fn answers(&mut self, step: &str) {
        let rest = self.steps.get(self.at..).unwrap_or_default();
        let skipped = rest.iter().position(|known| *known == step).unwrap_or_else(|| panic!("{step} out of turn"));
        self.at += skipped + 1;
        let writing = self.steps.get(self.at).copied().unwrap_or_default();
        kernel::stage(Stage { reading: self.steps[self.at - 1], writing });
    }

    /// The step has more to be written yet.
    fn asks(&self) {
        let step = self.steps[self.at];
        kernel::stage(Stage { reading: step, writing: step });
    }
}

async fn session(way: Way, mut stream: TcpStream, acceptors: &Acceptors) -> std::io::Result<()> {
    let mut place = Place { steps: way.steps(), at: 0 };
    match way {
        Way::Clear => converse(stream, &mut place, true).await,
        Way::Proxied => {
            let mut line = String::new();
            let mut reader = BufReader::new(&mut stream);
            reader.read_line(&mut line).await?;
            assert!(line.starts_with("PROXY TCP4 127.0.0.1 "), "{line:?}");
            converse(stream, &mut place, true).await
        }
        Way::StartTls => {
            place.answers("greeting");
            stream.write_all(b"* OK [CAPABILITY IMAP4rev1 STARTTLS] hi\r\n").await?;
            let mut line = String::new();
            BufReader::new(&mut stream).read_line(&mut line).await?;
            let Some(tag) = line.strip_suffix(" STARTTLS\r\n") else { return Ok(()) };
            place.answers("STARTTLS");
            stream.write_all(format!("{tag} OK go\r\n").as_bytes()).await?;
            stream.peek(&mut [0]).await?;
            place.asks();
            let stream = acceptors.old.accept(stream).await.map_err(std::io::Error::other)?;
            place.answers("tls");
            converse(stream, &mut place, false).await
        }
        Way::Tls => {
            place.asks();
            let stream = acceptors.new.accept(stream).await?;
            place.answers("tls");
            converse(stream, &mut place, true).await
        }
    }
}

/// From the greeting, if there is still to be one, to LOGOUT.
async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin, place: &mut Place, greets: bool) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let capabilities = "CAPABILITY IMAP4rev1 ID NAMESPACE AUTH=PLAIN";
    if greets {
        place.answers("greeting");
        say(&mut stream, &format!("* OK [{capabilities}] hi\r\n")).await?;
    }
    let mut line = String::new();
    loop {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let mut words = line.split_whitespace();
        let (tag, name) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let untagged = match name {
            "CAPABILITY" => format!("* {capabilities}\r\n"),
            "ID" => "* ID (\"name\" {4}\r\ngood)\r\n".to_owned(),
            "AUTHENTICATE" => {
                place.asks();
                say(&mut stream, "+ \r\n").await?;
                stream.read_line(&mut String::new()).await?;
                String::new()
            }
            "NAMESPACE" => "* NAMESPACE ((\"\" \"/\")) NIL NIL\r\n".to_owned(),
            "LIST" => "* LIST () \"/\" INBOX\r\n".to_owned(),
            "SELECT" => "* 2 EXISTS\r\n".to_owned(),
            "FETCH" => "* 1 FETCH (UID 1 BODY[] {4}\r\na\r\n\n)\r\n* 2 FETCH (UID 2 BODY[] {1}\r\nb)\r\n".to_owned(),
            "LOGOUT" => "* BYE\r\n".to_owned(),
            other => panic!("{other:?}"),
        };
        place.answers(name);
        if name == "SELECT" {
            // In two packets, with the client's turn between them.
            say(&mut stream, &untagged).await?;
            for _ in 0..4 {
                tokio::task::yield_now().await;
            }
            say(&mut stream, &format!("{tag} OK done\r\n")).await?;
        } else {
            say(&mut stream, &format!("{untagged}{tag} OK done\r\n")).await?;
        }
    }
}

async fn say(stream: &mut (impl AsyncWrite + Unpin), text: &str) -> std::io::Result<()> {
    stream.write_all(text.as_bytes()).await?;
    stream.flush().await
}

/// A name server that knows one name, whatever it is asked for: 127.0.0.1.
pub(crate) struct Names {
    pub(crate) address: SocketAddr,
    _answering: JoinSet<()>,
}

impl Names {
    pub(crate) async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let mut answering = JoinSet::new();
        answering.spawn(async move {
            let mut question = [0u8; 512];
            while let Ok((length, peer)) = socket.recv_from(&mut question).await {
                if let Some(answer) = question.get(..length).and_then(answer) {
                    drop(socket.send_to(&answer, peer).await);
                }
            }
        });
        Self { address, _answering: answering }
    }
}

/// The question comes back with one A record of it (RFC 1035 §4.1); of any other type there is none.
fn answer(question: &[u8]) -> Option<Vec<u8>> {
    let end = 12 + question.get(12..)?.iter().position(|byte| *byte == 0)? + 5;
    let wants_v4 = question.get(end - 4..end - 2)? == [0, 1];
    let mut answer = question.get(..end)?.to_vec();
    (answer[2], answer[3]) = (0x81, 0x80);
    answer[6..12].copy_from_slice(&[0, u8::from(wants_v4), 0, 0, 0, 0]);
    if wants_v4 {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
    }
    Some(answer)
}

thread_local! {
    /// See [`hole`].
    static HOLE: RefCell<Option<(TcpListener, Vec<TcpStream>)>> = const { RefCell::new(None) };
}

/// An address whose queue is full: it answers no SYN.
pub(crate) async fn hole() -> SocketAddr {
    if let Some(address) = HOLE.with_borrow(|hole| hole.as_ref().map(|(listener, _)| listener.local_addr().unwrap())) {
        return address;
    }
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let first = TcpStream::connect(address).await.unwrap();
    HOLE.set(Some((listener, vec![first])));
    address
}
