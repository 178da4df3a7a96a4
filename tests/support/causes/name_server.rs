//! A name server that answers every question with one address, after a delay that can change.

use std::{
    net::{Ipv4Addr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use crate::support::net::namespace::Namespace;

/// Where it listens, inside its namespace.
pub const NAME_SERVER: &str = "127.0.0.1:5301";

/// The server; it answers until the process ends.
pub struct NameServer {
    delay_ms: Arc<AtomicU64>,
    asked: Arc<AtomicU64>,
}

impl NameServer {
    /// Answers inside with this address.
    pub fn start(inside: &Namespace, address: Ipv4Addr) -> Self {
        let socket = inside.enter(|| UdpSocket::bind(NAME_SERVER)).unwrap();
        let (delay_ms, asked) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let (delay, count) = (Arc::clone(&delay_ms), Arc::clone(&asked));
        thread::spawn(move || {
            let mut question = [0; 512];
            while let Ok((length, asker)) = socket.recv_from(&mut question) {
                count.fetch_add(1, Ordering::Relaxed);
                let Some(answer) = answer(&question[..length], address) else { continue };
                let (socket, delay) = (socket.try_clone().unwrap(), delay.load(Ordering::Relaxed));
                thread::spawn(move || {
                    thread::sleep(Duration::from_millis(delay));
                    // Who asked may be gone by now.
                    drop(socket.send_to(&answer, asker));
                });
            }
        });
        Self { delay_ms, asked }
    }

    /// Every answer takes this long from now on.
    pub fn set_delay(&self, delay: Duration) {
        self.delay_ms.store(u64::try_from(delay.as_millis()).unwrap(), Ordering::Relaxed);
    }

    /// Counts the questions, also after the server is gone.
    pub fn asked(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.asked)
    }
}

/// The answer to a question (RFC 1035 §4): one A record, or none for another type.
fn answer(question: &[u8], address: Ipv4Addr) -> Option<Vec<u8>> {
    const A: [u8; 2] = [0, 1];
    let mut at = 12;
    while *question.get(at)? > 0 {
        at += usize::from(question[at]) + 1;
    }
    let kind = question.get(at + 1..at + 3)?;
    let answers = u8::from(kind == A);
    let mut answer = question[..2].to_vec();
    answer.extend([0x81, 0x80, 0, 1, 0, answers, 0, 0, 0, 0]);
    answer.extend(question.get(12..at + 5)?);
    if answers > 0 {
        // The name of the question, A, IN, 30 s, four bytes.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4]);
        answer.extend(address.octets());
    }
    Some(answer)
}
