//! The listener: loopback, a free port, a certificate made at start.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use async_native_tls::TlsAcceptor;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::{
    DemoSettings,
    ca_file::{CaFile, CaFileError},
    session::{ByteStream, DemoSession},
};

/// A running server. It ends, with all its connections, when this is dropped.
pub struct DemoServer {
    address: SocketAddr,
    ca: CaFile,
    /// The listener; dropping the set aborts it.
    _tasks: JoinSet<()>,
}

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// No port on loopback.
    #[error("the demo server cannot listen on loopback")]
    Listen(#[source] io::Error),
    /// No certificate.
    #[error("the demo server cannot make its certificate")]
    Certificate(#[from] rcgen::Error),
    /// The TLS library refused the certificate.
    #[error("the TLS library refuses the demo server's certificate")]
    Tls(#[from] native_tls::Error),
    /// The certificate could not be written for the client.
    #[error(transparent)]
    CaFile(#[from] CaFileError),
}

impl DemoServer {
    /// Starts on loopback, on a free port, inside the current tokio runtime.
    pub async fn start(settings: DemoSettings) -> Result<Self, DemoError> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(DemoError::Listen)?;
        let address = listener.local_addr().map_err(DemoError::Listen)?;
        let (ca, acceptor) = certificate()?;
        let ca = CaFile::new(&ca)?;
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, acceptor, Arc::new(settings)));
        Ok(Self { address, ca, _tasks: tasks })
    }

    /// Where it listens: 127.0.0.1. The certificate is valid for that address and for `localhost`.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A PEM file with the root to trust; it exists as long as the server does.
    pub fn ca_file(&self) -> &Path {
        self.ca.path()
    }
}

/// A root (as PEM) and an acceptor with a certificate that it signed.
fn certificate() -> Result<(String, TlsAcceptor), DemoError> {
    // Fixed dates: nothing here reads a clock. They begin before July 2019: macOS refuses later certificates of more than
    // 825 days.
    let valid = |mut params: CertificateParams, name: &str| {
        params.not_before = date_time_ymd(2019, 1, 1);
        params.not_after = date_time_ymd(2049, 12, 31);
        params.distinguished_name.push(DnType::CommonName, name);
        params
    };
    let mut root = valid(CertificateParams::default(), "imaptrace demo root");
    root.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    root.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let root = CertifiedIssuer::self_signed(root, KeyPair::generate()?)?;
    let names = ["localhost".to_owned(), Ipv4Addr::LOCALHOST.to_string()];
    let key = KeyPair::generate()?;
    let mut leaf = valid(CertificateParams::new(names)?, "imaptrace demo server");
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let leaf = leaf.signed_by(&key, &root)?;
    let identity = native_tls::Identity::from_pkcs8(leaf.pem().as_bytes(), key.serialize_pem().as_bytes())?;
    let acceptor =
        native_tls::TlsAcceptor::builder(identity).min_protocol_version(Some(native_tls::Protocol::Tlsv12)).build()?;
    Ok((root.pem(), acceptor.into()))
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, settings: Arc<DemoSettings>) {
    let mut sessions = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    sessions.spawn(handle(stream, acceptor.clone(), Arc::clone(&settings)));
                }
                // No descriptor is free: one may be soon.
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            },
            Some(_) = sessions.join_next() => {}
        }
    }
}

/// One connection to its end. The client reports its errors.
async fn handle(stream: TcpStream, acceptor: TlsAcceptor, settings: Arc<DemoSettings>) {
    // Rows are sent when they are ready, not when the client's acknowledgement arrives.
    stream.set_nodelay(true).unwrap_or(());
    let mut stream: Box<dyn ByteStream> = Box::new(stream);
    let mut tls = settings.tls;
    let mut greet = true;
    loop {
        if tls {
            let Ok(secured) = acceptor.accept(stream).await else { return };
            stream = Box::new(secured);
        }
        match DemoSession::new(stream, Arc::clone(&settings), !tls).run(greet).await {
            Ok(Some(plain)) => (stream, tls, greet) = (plain, true, false),
            Ok(None) | Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use async_native_tls::{Certificate, TlsConnector, TlsStream};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::demo::Delays;

    async fn started(tls: bool) -> DemoServer {
        DemoServer::start(DemoSettings { tls, delays: Delays::NONE, ..DemoSettings::default() }).await.unwrap()
    }

    async fn handshake(server: &DemoServer, stream: TcpStream) -> TlsStream<TcpStream> {
        let root = Certificate::from_pem(&fs::read(server.ca_file()).unwrap()).unwrap();
        TlsConnector::new().add_root_certificate(root).connect("127.0.0.1", stream).await.unwrap()
    }

    /// Sends all at once and reads to the end: the server takes its time to answer each.
    async fn talk(mut stream: impl ByteStream, lines: &str) -> String {
        stream.write_all(lines.as_bytes()).await.unwrap();
        let mut answers = String::new();
        stream.read_to_string(&mut answers).await.unwrap();
        answers
    }

    #[tokio::test]
    async fn implicit_tls_is_trusted_by_its_own_root() {
        let server = started(true).await;
        let stream = TcpStream::connect(server.address()).await.unwrap();
        let answers = talk(handshake(&server, stream).await, "a LOGIN demo demo\r\nb LOGOUT\r\n").await;
        assert!(answers.contains("\r\na OK ") && answers.ends_with("b OK Logout completed.\r\n"), "{answers}");
        assert!(!answers.contains("STARTTLS"), "{answers}");
    }

    #[tokio::test]
    async fn starttls_goes_on_without_a_second_greeting_and_forgets_what_came_before_it() {
        let server = started(false).await;
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        stream.write_all(b"a STARTTLS\r\nb NOOP\r\n").await.unwrap();
        let mut clear = Vec::new();
        while !clear.ends_with(b"now.\r\n") {
            clear.push(stream.read_u8().await.unwrap());
        }
        let answers = talk(handshake(&server, stream).await, "c CAPABILITY\r\nd LOGOUT\r\n").await;
        assert!(answers.starts_with("* CAPABILITY IMAP4rev1 "), "{answers}");
        assert!(!answers.contains("STARTTLS") && !answers.contains("b OK"), "{answers}");
    }

    #[tokio::test]
    async fn clear_text_serves_many_at_once_and_one_that_is_silent_holds_up_none() {
        let server = started(false).await;
        let _silent = TcpStream::connect(server.address()).await.unwrap();
        let mut clients = JoinSet::new();
        for _ in 0..64 {
            let stream = TcpStream::connect(server.address()).await.unwrap();
            clients.spawn(talk(stream, "a LOGIN demo demo\r\nb SELECT INBOX\r\nc FETCH 4181:* UID\r\nd LOGOUT\r\n"));
        }
        for answers in clients.join_all().await {
            assert_eq!(answers.matches(" FETCH (UID ").count(), 20, "{answers}");
        }
    }

    #[tokio::test]
    async fn dropping_the_server_takes_its_connections_and_its_file_along() {
        let server = started(false).await;
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        stream.read_u8().await.unwrap();
        let path = server.ca_file().to_owned();
        let certificate = fs::read(&path).unwrap();
        drop(server);
        // Another test may have the number of the descriptor by now.
        assert_ne!(fs::read(&path).ok(), Some(certificate));
        let mut rest = Vec::new();
        // An orderly end or a reset, but an end.
        let _ended = stream.read_to_end(&mut rest).await;
        assert!(rest.starts_with(b" OK [CAPABILITY"));
    }
}
