//! Servers of bytes, not of IMAP: each plays a script once for each connection, and returns what it received.
//!
//! A script is one direction a line:
//!
//! ```text
//! S: * OK hello          send the line and CRLF
//! s: * 1 FETCH           send without CRLF; \r \n \0 \xHH are bytes
//! C: LOGIN               wait for a line that holds this word
//! c: 10                  wait for this many bytes
//! hello                  wait for a whole TLS record, such as a ClientHello, without understanding it
//! tls                    from here on TLS 1.2, as a server; `tls 1.3`, `tls alpn` (1.2, and `imap` by ALPN), or `tls demand` a
//!                        certificate of the client's
//! drips                  from here on every byte goes in a packet of its own, TLS records too
//! drip 50 * OK           send byte by byte, with this number of milliseconds before each
//! fill 1000000 x         send this number of bytes of this kind
//! times 3 S: * OK        a direction, this number of times
//! forever S: * OK        a direction, until the client goes
//! rekey                  change the keys of TLS 1.3
//! noise                  send a TLS record that no key made, below TLS
//! spoil                  have our TLS library read noise, at which it sends a fatal alert
//! pause 50               milliseconds
//! nagle                  from here on a small write waits for the acknowledgement of the one before it
//! call WORD              hand the word to the test (Script::play_on)
//! close | reset          end the connection
//! silence                say nothing until the client goes
//! deaf                   read nothing until the test asks what was received
//! next                   what follows is for the next connection
//! ```
//!
//! In what is sent `{tag}` is the tag of the line last received, `{past}` that of the line before it, `{part}` the tag
//! without its last character and `{small}` the tag in small letters.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::watch,
    task::JoinHandle,
};
use tokio_rustls::rustls::{
    ServerConfig, crypto,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

use super::wire::{self, Stream, Tcp};

/// A running script.
pub struct Script {
    pub address: SocketAddr,
    task: JoinHandle<(Vec<String>, bool)>,
    wire: wire::Heard,
    /// Whether the test is over.
    over: watch::Sender<bool>,
}

/// What a script received.
pub struct Heard {
    /// Line by line, and in parentheses what did not go as the script has it.
    pub lines: Vec<String>,
    /// What an eavesdropper saw of the client: under TLS its records.
    pub wire: Vec<u8>,
    /// The script's last direction was come to.
    pub to_the_end: bool,
}

impl Script {
    /// Plays a script in clear text, with TLS where it is in the script.
    pub async fn play(script: &str) -> Self {
        Self::start(script, None).await
    }

    /// Plays a script that may turn to TLS with this identity.
    pub async fn play_with(script: &str, pem: &Pem) -> Self {
        Self::start(script, Some(pem.clone())).await
    }

    async fn start(script: &str, pem: Option<Pem>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::play_on(listener.into_std().unwrap(), script, pem, Box::new(|word| panic!("no test waits for {word}")))
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
        let wire = wire::Heard::default();
        let (over, is_over) = watch::channel(false);
        let kept = wire.clone();
        let task = tokio::spawn(async move {
            let (mut heard, mut to_the_end) = (Vec::new(), true);
            for part in parts {
                let (stream, _) = listener.accept().await.unwrap();
                to_the_end &= Player {
                    stream: Some(Box::new(Tcp::new(stream, kept.clone()))),
                    tags: [String::new(), String::new()],
                    heard: &mut heard,
                    pem: pem.as_ref(),
                    call: &call,
                    over: is_over.clone(),
                }
                .play(&part)
                .await;
            }
            (heard, to_the_end)
        });
        Self { address, task, wire, over }
    }

    /// The lines that it received, once all connections have ended.
    pub async fn heard(self) -> Vec<String> {
        self.end().await.lines
    }

    /// All that it received, once all connections have ended.
    pub async fn end(self) -> Heard {
        self.over.send_replace(true);
        let played = tokio::time::timeout(Duration::from_secs(30), self.task).await;
        let (lines, to_the_end) = played.expect("the script waits for a connection or a line that never came").unwrap();
        let wire = std::mem::take(&mut *self.wire.lock().unwrap());
        Heard { lines, wire, to_the_end }
    }
}

/// What a script can report to the test meanwhile.
pub type Call = Box<dyn Fn(&str) + Send + Sync>;

struct Player<'a> {
    stream: Option<Box<dyn Stream>>,
    /// Of the line last received, and of the one before it.
    tags: [String; 2],
    heard: &'a mut Vec<String>,
    pem: Option<&'a Pem>,
    call: &'a Call,
    over: watch::Receiver<bool>,
}

/// What is sent in one go of something that is sent many times.
const CHUNK: usize = 64 << 10;

impl Player<'_> {
    /// Whether it came to the last direction.
    async fn play(&mut self, script: &[String]) -> bool {
        for (number, direction) in script.iter().enumerate() {
            if !self.step(direction).await {
                return number + 1 == script.len();
            }
        }
        // A script that ends without a word ends as a server does: it closes.
        if let Some(mut stream) = self.stream.take() {
            drop(stream.shutdown().await);
            drop(tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut Vec::new())).await);
        }
        true
    }

    /// Whether to go on.
    async fn step(&mut self, direction: &str) -> bool {
        let (word, rest) = direction.split_once(' ').unwrap_or((direction, ""));
        match word {
            "S:" | "s:" => {
                let bytes = self.bytes(word, rest);
                wire::send(self.stream(), &bytes).await
            }
            "C:" => self.hear(rest).await,
            "c:" => {
                let mut buffer = vec![0; rest.parse().unwrap()];
                let got = self.stream().read_exact(&mut buffer).await.is_ok();
                self.heard.push(String::from_utf8_lossy(&buffer).into_owned());
                got
            }
            "hello" => wire::record(self.stream()).await.is_ok(),
            "tls" => {
                let pem = self.pem.expect("a script with `tls` needs an identity");
                match wire::accept(self.stream.take().unwrap(), pem, rest).await {
                    Ok(stream) => {
                        self.stream = Some(stream);
                        true
                    }
                    Err(error) => {
                        self.heard.push(format!("tls: {error}"));
                        false
                    }
                }
            }
            "drips" => {
                self.stream().tcp().drips = true;
                true
            }
            "drip" => {
                let (pause, text) = rest.split_once(' ').unwrap();
                let pause = Duration::from_millis(pause.parse().unwrap());
                for byte in self.bytes("s:", text) {
                    tokio::time::sleep(pause).await;
                    if !wire::send(self.stream(), &[byte]).await {
                        return false;
                    }
                }
                true
            }
            "fill" => {
                let (count, text) = rest.split_once(' ').unwrap();
                let [byte] = self.bytes("s:", text)[..] else { panic!("`fill` takes one byte, not {text:?}") };
                self.repeat(&[byte], count.parse().unwrap()).await
            }
            "times" | "forever" => {
                let (count, inner) = if word == "times" { rest.split_once(' ').unwrap() } else { ("", rest) };
                let count = if word == "times" { count.parse().unwrap() } else { u64::MAX };
                if let Some((word @ ("S:" | "s:"), text)) = inner.split_once(' ') {
                    let bytes = self.bytes(word, text);
                    return self.repeat(&bytes, count).await;
                }
                for _ in 0..count {
                    if !Box::pin(self.step(inner)).await {
                        return false;
                    }
                }
                true
            }
            "rekey" => self.stream().rekey().is_ok() && self.stream().flush().await.is_ok(),
            "spoil" => {
                self.stream().tcp().spoil();
                self.stream().read(&mut [0]).await.is_ok()
            }
            "noise" => wire::noise(self.stream()).await,
            "pause" => {
                tokio::time::sleep(Duration::from_millis(rest.parse().unwrap())).await;
                true
            }
            "nagle" => self.stream().tcp().stream.set_nodelay(false).is_ok(),
            "call" => {
                (self.call)(rest);
                true
            }
            "close" => false,
            "reset" => {
                let mut stream = self.stream.take().unwrap();
                socket2::SockRef::from(&stream.tcp().stream).set_linger(Some(Duration::ZERO)).unwrap();
                false
            }
            "silence" => {
                let mut rest = Vec::new();
                drop(self.stream().read_to_end(&mut rest).await);
                if !rest.is_empty() {
                    self.heard.push(String::from_utf8_lossy(&rest).into_owned());
                }
                false
            }
            "deaf" => self.over.wait_for(|over| *over).await.is_ok_and(|_| false),
            other => panic!("no such direction: {other:?}"),
        }
    }

    fn stream(&mut self) -> &mut Box<dyn Stream> {
        self.stream.as_mut().unwrap()
    }

    /// What `S:` or `s:` sends.
    fn bytes(&self, word: &str, text: &str) -> Vec<u8> {
        let [tag, past] = &self.tags;
        let beginning = tag.get(..tag.len().saturating_sub(1)).unwrap_or_default();
        let text = text.replace("{tag}", tag).replace("{past}", past).replace("{part}", beginning);
        let mut bytes = bytes(&text.replace("{small}", &tag.to_ascii_lowercase()));
        if word == "S:" {
            bytes.extend_from_slice(b"\r\n");
        }
        bytes
    }

    async fn repeat(&mut self, bytes: &[u8], count: u64) -> bool {
        let at_once = (CHUNK / bytes.len()).max(1);
        let chunk = bytes.repeat(at_once);
        let mut left = count;
        while left > 0 {
            let now = left.min(at_once as u64);
            if !wire::send(self.stream(), &chunk[..bytes.len() * usize::try_from(now).unwrap()]).await {
                return false;
            }
            left -= now;
        }
        true
    }

    async fn hear(&mut self, word: &str) -> bool {
        let mut line = Vec::new();
        while !line.ends_with(b"\n") {
            let mut byte = [0];
            if let Ok(1) = self.stream().read(&mut byte).await {
                line.push(byte[0]);
            } else {
                self.heard.push(format!("(gone, waiting for {word}) {}", String::from_utf8_lossy(&line)));
                return false;
            }
        }
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        let wanted = line.contains(word);
        let tag = line.split(' ').next().unwrap_or_default().to_owned();
        self.tags = [tag, std::mem::take(&mut self.tags[0])];
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

    /// What a server needs that shows this certificate and is glad of every client; TLS 1.2 and 1.3.
    pub fn acceptor(&self) -> tokio_rustls::TlsAcceptor {
        let chain = CertificateDer::pem_slice_iter(self.certificate.as_bytes()).map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        Arc::new(config).into()
    }
}
