//! Certificates, good and bad, and a server that shows them: TLS in front of a server in clear text.
//!
//! It is made of another TLS library than the program's own, and sends what a test configures, valid or not.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::{
    LazyConfigAcceptor,
    rustls::{
        ServerConfig, SupportedProtocolVersion,
        pki_types::{CertificateDer, PrivateKeyDer},
        server::Acceptor,
    },
};

/// Who signs.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
    /// The certificates between this and the root, its own first.
    chain: Vec<CertificateDer<'static>>,
}

/// A certificate with its key and chain, to be shown.
pub struct Paper {
    chain: Vec<CertificateDer<'static>>,
    key: KeyPair,
}

/// A certificate is for these years unless a test sets others.
pub fn parameters(name: &str, hosts: &[&str]) -> CertificateParams {
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let mut parameters = CertificateParams::new(hosts).unwrap();
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.not_before = rcgen::date_time_ymd(2020, 1, 1);
    parameters.not_after = rcgen::date_time_ymd(2040, 1, 1);
    parameters
}

fn authority(name: &str) -> CertificateParams {
    let mut parameters = parameters(name, &[]);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters
}

impl Authority {
    /// One without an issuer.
    pub fn root() -> Self {
        Self::root_named("test root")
    }

    /// The same under another name.
    pub fn root_named(name: &str) -> Self {
        let (key, parameters) = (KeyPair::generate().unwrap(), authority(name));
        let certificate = parameters.self_signed(&key).unwrap();
        Self { issuer: Issuer::new(parameters, key), certificate, chain: Vec::new() }
    }

    /// One below this, with a change to its certificate.
    pub fn below(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let (key, mut parameters) = (KeyPair::generate().unwrap(), authority(name));
        change(&mut parameters);
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        let chain = std::iter::once(certificate.der().clone()).chain(self.chain.iter().cloned()).collect();
        Self { issuer: Issuer::new(parameters, key), certificate, chain }
    }

    /// A server's certificate.
    pub fn issue(&self, parameters: &CertificateParams) -> Paper {
        let key = KeyPair::generate().unwrap();
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        let chain = std::iter::once(certificate.der().clone()).chain(self.chain.iter().cloned()).collect();
        Paper { chain, key }
    }

    /// Its certificate in a file that lives as long as what is returned.
    pub fn file(&self) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), self.certificate.pem()).unwrap();
        file
    }
}

impl Paper {
    /// The server's own certificate, as DER.
    pub fn leaf(&self) -> &[u8] {
        self.chain.first().unwrap()
    }

    /// A self-signed one.
    pub fn self_signed(parameters: &CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let chain = vec![parameters.self_signed(&key).unwrap().der().clone()];
        Self { chain, key }
    }

    /// The same without those who signed it.
    pub fn alone(mut self) -> Self {
        self.chain.truncate(1);
        self
    }
}

/// What a client said before the server showed anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// SNI.
    pub name: Option<String>,
    /// ALPN.
    pub protocols: Vec<String>,
}

/// TLS in front of a server in clear text, for one connection after the other.
pub struct Front {
    pub address: SocketAddr,
    heard: Arc<Mutex<Vec<Hello>>>,
    /// Whether each connection ended with the client's `close_notify`.
    ends: Arc<Mutex<Vec<bool>>>,
    task: JoinHandle<()>,
}

impl Front {
    /// Shows `paper` in these versions, and takes one of `protocols` where there are any.
    pub async fn start(
        paper: &Paper,
        versions: &[&'static SupportedProtocolVersion],
        protocols: &[&str],
        behind: SocketAddr,
    ) -> Self {
        let key = PrivateKeyDer::try_from(paper.key.serialize_der()).unwrap();
        let builder = ServerConfig::builder_with_protocol_versions(versions).with_no_client_auth();
        let mut config = builder.with_single_cert(paper.chain.clone(), key).unwrap();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heard: Arc<Mutex<Vec<Hello>>> = Arc::default();
        let kept = Arc::clone(&heard);
        let ends: Arc<Mutex<Vec<bool>>> = Arc::default();
        let ended = Arc::clone(&ends);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // A client that will have none of it is what most tests are about. One that just hangs up is an error.
                let passed = pass(stream, Arc::clone(&config), &kept, behind).await;
                ended.lock().unwrap().push(passed.is_ok());
            }
        });
        Self { address, heard, ends, task }
    }

    /// Whether each connection that is over ended with the client's `close_notify`.
    pub fn ends(&self) -> Vec<bool> {
        self.ends.lock().unwrap().clone()
    }

    /// What clients said, in the order in which they came.
    pub fn heard(&self) -> Vec<Hello> {
        self.heard.lock().unwrap().clone()
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(
    stream: TcpStream,
    config: Arc<ServerConfig>,
    heard: &Mutex<Vec<Hello>>,
    behind: SocketAddr,
) -> std::io::Result<()> {
    let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
    let hello = start.client_hello();
    let protocols = hello.alpn().into_iter().flatten();
    heard.lock().unwrap().push(Hello {
        name: hello.server_name().map(str::to_owned),
        protocols: protocols.map(|protocol| String::from_utf8_lossy(protocol).into_owned()).collect(),
    });
    let mut stream = start.into_stream(config).await?;
    let mut behind = TcpStream::connect(behind).await?;
    copy_bidirectional(&mut stream, &mut behind).await.map(|_| ())
}
