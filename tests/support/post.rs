//! A mail server for any number of clients at once, which remembers every session that came to its end.
//!
//! The tag of a command is the id of its span, so what it remembers can be held against what a receiver got. It runs on a
//! runtime of its own.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Instant,
};

use imaptrace::clock;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
};

/// A session that said good-bye.
#[derive(Debug, Clone)]
pub struct Ended {
    /// Who had logged in.
    pub user: String,
    /// The tag of its LOGOUT.
    pub tag: String,
    /// When the answer to that had been written.
    pub at: Instant,
}

/// The server. Dropping it ends all sessions.
pub struct Post {
    pub address: SocketAddr,
    ended: Arc<Mutex<Vec<Ended>>>,
    _runtime: Runtime,
}

impl Post {
    pub fn open() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let ended: Arc<Mutex<Vec<Ended>>> = Arc::default();
        let book = Arc::clone(&ended);
        runtime.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let book = Arc::clone(&book);
                tokio::spawn(async move {
                    if let Some(session) = converse(stream).await {
                        book.lock().unwrap().push(session);
                    }
                });
            }
        });
        Self { address, ended, _runtime: runtime }
    }

    /// The sessions that said good-bye, in order.
    pub fn ended(&self) -> Vec<Ended> {
        self.ended.lock().unwrap().clone()
    }
}

/// One session; none if the client hung up before its LOGOUT was answered.
async fn converse(stream: TcpStream) -> Option<Ended> {
    stream.set_nodelay(true).ok()?;
    let mut stream = BufReader::new(stream);
    stream.write_all(b"* OK [CAPABILITY IMAP4rev1] hi\r\n").await.ok()?;
    let (mut line, mut user) = (String::new(), String::new());
    loop {
        line.clear();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        let mut words = line.trim_end().splitn(3, ' ');
        let (tag, command) = (words.next()?.to_owned(), words.next()?);
        let untagged = match command {
            "LOGIN" => {
                words.next()?.split(' ').next()?.trim_matches('"').clone_into(&mut user);
                ""
            }
            "LIST" => "* LIST () \"/\" INBOX\r\n",
            "SELECT" => "* 30 EXISTS\r\n",
            "FETCH" => "* 30 FETCH (UID 30)\r\n",
            "LOGOUT" => "* BYE\r\n",
            _ => "",
        };
        let answer = format!("{untagged}{tag} OK [CAPABILITY IMAP4rev1] done\r\n");
        let is_last = command == "LOGOUT";
        stream.write_all(answer.as_bytes()).await.ok()?;
        if is_last {
            return Some(Ended { user, tag, at: clock::now() });
        }
    }
}
