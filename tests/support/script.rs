//! Servers that know bytes, not IMAP: each plays a script once for each connection, and tells what it heard.
//!
//! A script is one direction a line:
//!
//! ```text
//! S: * OK hello          send the line and CRLF; {tag} is the tag of the line last heard
//! s: * 1 FETCH           send without CRLF; \r \n \0 \xHH are bytes
//! C: LOGIN               wait for a line that holds this word
//! c: 10                  wait for this many bytes
//! tls                    from here on TLS, as a server
//! pause 50               milliseconds
//! nagle                  from here on a small write waits for the acknowledgement of the one before it
//! call WORD              hand the word to the test (Script::play_on)
//! close | reset          end the connection
//! silence                say nothing until the client goes
//! next                   what follows is for the next connection
//! ```

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// A running script.
pub struct Script {
    pub address: SocketAddr,
    task: JoinHandle<Vec<String>>,
}

impl Script {
    /// Plays a script in clear text, with TLS where it says so.
    pub async fn play(script: &str) -> Self {
        Self::start(script, None).await
    }

    /// Plays a script that may turn to TLS with this identity.
    pub async fn play_with(script: &str, pem: &Pem) -> Self {
        Self::start(script, Some(pem.clone())).await
    }

    async fn start(script: &str, pem: Option<Pem>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::play_on(listener.into_std().unwrap(), script, pem, Box::new(|word| panic!("nobody waits for {word}")))
    }

    /// Plays a script on a socket that listens already, wherever that is. `call` gets the words that the script calls.
    pub fn play_on(listener: std::net::TcpListener, script: &str, pem: Option<Pem>, call: Call) -> Self {
        listener.set_nonblocking(true).unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        let address = listener.local_addr().unwrap();
        let parts: Vec<Vec<String>> = script
            .split("\nnext\n")
            .map(|part| part.lines().map(|line| line.trim_start().to_owned()).filter(|line| !line.is_empty()).collect())
            .collect();
        let task = tokio::spawn(async move {
            let mut heard = Vec::new();
            for part in parts {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                Player {
                    stream: Some(Box::new(Tcp(stream))),
                    tag: String::new(),
                    heard: &mut heard,
                    pem: pem.as_ref(),
                    call: &call,
                }
                .play(&part)
                .await;
            }
            heard
        });
        Self { address, task }
    }

    /// What it heard, line by line, once all connections have ended.
    pub async fn heard(self) -> Vec<String> {
        let played = tokio::time::timeout(Duration::from_secs(30), self.task).await;
        played.expect("the script waits for a connection or a line that never came").unwrap()
    }
}

/// What a script can tell the test in its midst.
pub type Call = Box<dyn Fn(&str) + Send + Sync>;

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {
    fn tcp(&self) -> Option<&TcpStream>;
}
struct Tcp(TcpStream);
struct Tls(async_native_tls::TlsStream<Box<dyn Stream>>);

macro_rules! through {
    ($name:ident) => {
        impl AsyncRead for $name {
            fn poll_read(
                mut self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
                buf: &mut tokio::io::ReadBuf<'_>,
            ) -> std::task::Poll<std::io::Result<()>> {
                std::pin::Pin::new(&mut self.0).poll_read(cx, buf)
            }
        }
        impl AsyncWrite for $name {
            fn poll_write(
                mut self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
                buf: &[u8],
            ) -> std::task::Poll<std::io::Result<usize>> {
                std::pin::Pin::new(&mut self.0).poll_write(cx, buf)
            }
            fn poll_flush(
                mut self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
            ) -> std::task::Poll<std::io::Result<()>> {
                std::pin::Pin::new(&mut self.0).poll_flush(cx)
            }
            fn poll_shutdown(
                mut self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
            ) -> std::task::Poll<std::io::Result<()>> {
                std::pin::Pin::new(&mut self.0).poll_shutdown(cx)
            }
        }
    };
}
through!(Tcp);
through!(Tls);
impl Stream for Tcp {
    fn tcp(&self) -> Option<&TcpStream> {
        Some(&self.0)
    }
}
impl Stream for Tls {
    fn tcp(&self) -> Option<&TcpStream> {
        self.0.get_ref().tcp()
    }
}

struct Player<'a> {
    stream: Option<Box<dyn Stream>>,
    tag: String,
    heard: &'a mut Vec<String>,
    pem: Option<&'a Pem>,
    call: &'a Call,
}

impl Player<'_> {
    async fn play(&mut self, script: &[String]) {
        for direction in script {
            if !self.step(direction).await {
                return;
            }
        }
        // A script that ends without a word ends as a server does: it closes.
        if let Some(mut stream) = self.stream.take() {
            drop(stream.shutdown().await);
            drop(tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut Vec::new())).await);
        }
    }

    /// Whether to go on.
    async fn step(&mut self, direction: &str) -> bool {
        let (word, rest) = direction.split_once(' ').unwrap_or((direction, ""));
        match word {
            "S:" => self.send(&[bytes(&rest.replace("{tag}", &self.tag)), b"\r\n".to_vec()].concat()).await,
            "s:" => self.send(&bytes(&rest.replace("{tag}", &self.tag))).await,
            "C:" => self.hear(rest).await,
            "c:" => {
                let mut buffer = vec![0; rest.parse().unwrap()];
                let got = self.stream.as_mut().unwrap().read_exact(&mut buffer).await.is_ok();
                self.heard.push(String::from_utf8_lossy(&buffer).into_owned());
                got
            }
            "tls" => {
                let pem = self.pem.expect("a script with `tls` needs an identity");
                let identity =
                    async_native_tls::Identity::from_pkcs8(pem.certificate.as_bytes(), pem.key.as_bytes()).unwrap();
                let acceptor = async_native_tls::TlsAcceptor::from(native_tls::TlsAcceptor::new(identity).unwrap());
                match acceptor.accept(self.stream.take().unwrap()).await {
                    Ok(stream) => {
                        self.stream = Some(Box::new(Tls(stream)));
                        true
                    }
                    Err(error) => {
                        self.heard.push(format!("tls: {error}"));
                        false
                    }
                }
            }
            "pause" => {
                tokio::time::sleep(Duration::from_millis(rest.parse().unwrap())).await;
                true
            }
            "nagle" => self.stream.as_ref().unwrap().tcp().unwrap().set_nodelay(false).is_ok(),
            "call" => {
                (self.call)(rest);
                true
            }
            "close" => false,
            "reset" => {
                let stream = self.stream.take().unwrap();
                socket2::SockRef::from(stream.tcp().unwrap()).set_linger(Some(Duration::ZERO)).unwrap();
                false
            }
            "silence" => {
                let mut rest = Vec::new();
                drop(self.stream.as_mut().unwrap().read_to_end(&mut rest).await);
                if !rest.is_empty() {
                    self.heard.push(String::from_utf8_lossy(&rest).into_owned());
                }
                false
            }
            other => panic!("no such direction: {other:?}"),
        }
    }

    async fn send(&mut self, bytes: &[u8]) -> bool {
        let stream = self.stream.as_mut().unwrap();
        stream.write_all(bytes).await.is_ok() && stream.flush().await.is_ok()
    }

    async fn hear(&mut self, word: &str) -> bool {
        let mut line = Vec::new();
        while !line.ends_with(b"\n") {
            let mut byte = [0];
            if let Ok(1) = self.stream.as_mut().unwrap().read(&mut byte).await {
                line.push(byte[0]);
            } else {
                self.heard.push(format!("(gone, waiting for {word}) {}", String::from_utf8_lossy(&line)));
                return false;
            }
        }
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        let wanted = line.contains(word);
        line.split(' ').next().unwrap_or_default().clone_into(&mut self.tag);
        self.heard.push(line.clone());
        if !wanted {
            self.heard.push(format!("(wanted {word})"));
        }
        wanted
    }
}

fn bytes(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text.chars();
    while let Some(character) = rest.next() {
        if character != '\\' {
            out.extend(character.encode_utf8(&mut [0; 4]).bytes());
            continue;
        }
        match rest.next() {
            Some('r') => out.push(b'\r'),
            Some('n') => out.push(b'\n'),
            Some('0') => out.push(0),
            Some('x') => {
                let digits: String = rest.by_ref().take(2).collect();
                out.push(u8::from_str_radix(&digits, 16).unwrap());
            }
            Some(other) => out.push(other as u8),
            None => out.push(b'\\'),
        }
    }
    out
}

/// A certificate and its key, in PEM form.
#[derive(Clone)]
pub struct Pem {
    pub certificate: String,
    pub key: String,
}

impl Pem {
    /// A self-signed certificate for these names, valid in these years.
    pub fn self_signed(names: &[&str], from: i32, to: i32) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters =
            rcgen::CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        parameters.not_before = rcgen::date_time_ymd(from, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(to, 1, 1);
        let certificate = parameters.self_signed(&key).unwrap();
        Self { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    /// Writes the certificate to a file that lives as long as what is returned.
    pub fn ca_file(&self) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &self.certificate).unwrap();
        file
    }
}
