//! An HTTP server of targets: it answers each request with what the test gives, rightly or not, and remembers all of them.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
    time::timeout,
};

/// The bytes of a response to the head of a request; none is silence.
type Respond = dyn Fn(&str) -> Option<Vec<u8>> + Send;

/// The server; it answers until it is dropped.
pub struct TargetApi {
    pub address: SocketAddr,
    respond: Arc<Mutex<Box<Respond>>>,
    asked: watch::Receiver<Vec<String>>,
    task: JoinHandle<()>,
}

/// A response with this status line, these header lines and this body.
pub fn response(status: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}").into_bytes()
}

/// A good response.
pub fn json(body: &str) -> Vec<u8> {
    response("200 OK", "Content-Type: application/json\r\n", body)
}

impl TargetApi {
    /// Starts one that answers each request so.
    pub async fn start(respond: impl Fn(&str) -> Option<Vec<u8>> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let respond: Arc<Mutex<Box<Respond>>> = Arc::new(Mutex::new(Box::new(respond)));
        let (notes, asked) = watch::channel(Vec::new());
        let shared = respond.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // A client may hang up at any time: that is for the test to judge.
                drop(tokio::spawn(converse(stream, notes.clone(), shared.clone())));
            }
        });
        Self { address, respond, asked, task }
    }

    /// Answers so from now on.
    pub fn set(&self, respond: impl Fn(&str) -> Option<Vec<u8>> + Send + 'static) {
        *self.respond.lock().unwrap() = Box::new(respond);
    }

    /// Answers with these targets from now on.
    pub fn targets(&self, body: String) {
        self.set(move |_| Some(json(&body)));
    }

    pub fn url(&self) -> String {
        format!("http://{}/targets", self.address)
    }

    /// The heads of all requests up to now.
    pub fn asked(&self) -> Vec<String> {
        self.asked.borrow().clone()
    }

    /// Waits for this many requests that `fit`.
    pub async fn wait_for(&mut self, times: usize, fit: impl Fn(&str) -> bool) {
        let enough = |asked: &Vec<String>| asked.iter().filter(|head| fit(head)).count() >= times;
        let waited = timeout(Duration::from_secs(60), self.asked.wait_for(enough)).await;
        drop(waited.unwrap_or_else(|_| panic!("no {times} such requests")).unwrap());
    }
}

impl Drop for TargetApi {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn converse(mut stream: TcpStream, notes: watch::Sender<Vec<String>>, respond: Arc<Mutex<Box<Respond>>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let response = respond.lock().unwrap()(&head);
    notes.send_modify(|notes| notes.push(head));
    match response {
        Some(response) => drop(stream.write_all(&response).await),
        None => drop(stream.read_u8().await),
    }
}
