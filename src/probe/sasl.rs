//! The turns of a SASL exchange: sends the replies to challenges, has the password hashed off the threads that carry bytes,
//! and cancels an exchange that breaks the mechanism's rules.
//!
//! Not here: the replies (`imap`), and which mechanism is used (`login`).

use std::sync::{Arc, LazyLock};

use imaptrace_imap::{ChallengeReply, Condition, HashResult, HashTask, SaslError, StatusResponse};
use imaptrace_record::ErrorType;
use tokio::sync::Semaphore;

use super::{
    driver::Driver,
    exchange::{Awaited, Exchange, Fault},
    wait::Waited,
};
use crate::{blocking, clock};

/// Passwords hashed at one time: as many as half of the processors, so that the other half carries bytes and reads clocks.
/// A thousand servers that ask for 600,000 iterations delay only those that hash, too.
static HASH_PERMITS: LazyLock<Arc<Semaphore>> = LazyLock::new(|| {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Arc::new(Semaphore::new((processors / 2).max(1)))
});

impl Driver {
    /// Replies to a challenge, if the `+` was one.
    pub(super) async fn reply(&mut self, exchange: &mut Exchange) -> Result<(), Fault> {
        let Some(mut answer) = self.session.answer() else { return Ok(()) };
        loop {
            answer = match answer {
                ChallengeReply::Line(line) => {
                    if let Some(transcript) = &mut self.transcript {
                        transcript.sending_sasl(&line.bytes);
                    }
                    self.send(&line.bytes, exchange).await?;
                    self.session.sent(false, true);
                    return Ok(());
                }
                ChallengeReply::Hash(task) => match self.hash(*task, exchange).await? {
                    Some(result) => self.session.hashed(result),
                    None => ChallengeReply::Cancel(SaslError::Slow),
                },
                ChallengeReply::Cancel(error) => return Err(self.cancel(&error, exchange).await),
            };
        }
    }

    /// Has the password hashed. None when that took too long.
    async fn hash(&mut self, task: HashTask, exchange: &mut Exchange) -> Result<Option<HashResult>, Fault> {
        let deadline = exchange.deadline;
        let until = deadline.part(self.hashing);
        let asked = until.begin();
        let permit = match self.watch.until(until, || (), HASH_PERMITS.clone().acquire_owned()).await {
            Waited::Done(permit) => permit.ok(),
            // Other runs held all permits: no fault of the server or the password.
            Waited::TimeUp => {
                let text = b"no processor was free to hash the password".to_vec();
                return Err(Fault::now(ErrorType::Internal).with_text(text));
            }
            Waited::Cancelled => return Err(Fault::now(ErrorType::Cancelled)),
        };
        let began = clock::now();
        exchange.waited += began.saturating_duration_since(asked);
        // It runs to its end even if the run has gone on, and keeps its permit until then.
        let hashing = blocking::work(move || {
            let result = task.run();
            drop(permit);
            result
        });
        let until = deadline.part(self.hashing);
        match self.watch.until(until, || (), hashing).await {
            Waited::Done(result) => result.map(Some).map_err(|_| Fault::now(ErrorType::Internal)),
            Waited::TimeUp if until.end() < until.begin() + self.hashing => {
                Err(self.time_up(deadline, ErrorType::TimeoutCommand, Awaited::Nothing))
            }
            Waited::TimeUp => Ok(None),
            Waited::Cancelled => Err(Fault::now(ErrorType::Cancelled)),
        }
    }

    /// Sends `*`, which a BAD should answer (RFC 9051 §6.2.2): then LOGOUT can follow. The class is that of the violation.
    async fn cancel(&mut self, error: &SaslError, exchange: &mut Exchange) -> Fault {
        let line = self.session.cancel();
        let is_answered = self.send(line, exchange).await.is_ok()
            && matches!(self.until_continuation_or_tagged(exchange).await, Ok(Some(_)));
        let fault = Fault::now(ErrorType::AuthProtocol).with_text(error.to_string().into_bytes());
        Fault { can_logout: is_answered, ..fault }
    }

    /// A refusal that the mechanism itself explains, and not by the password, is no refusal of the password.
    pub(super) fn with_complaint(&self, response: StatusResponse) -> Result<StatusResponse, Fault> {
        let complaint =
            self.session.complaint().filter(|_| response.condition == Condition::Bad || response.code.is_none());
        let Some(complaint) = complaint else { return Ok(response) };
        let text = [b"the server ended SCRAM with the error ".as_slice(), complaint].concat();
        Err(Fault { can_logout: true, ..Fault::now(ErrorType::AuthProtocol).with_text(text) })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use imaptrace_imap::{Command, Credentials, Limits, Mechanism, Secret};
    use imaptrace_testkit::ScramPeer as Peer;
    use tokio::{
        io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
        net::{TcpListener, TcpStream},
        sync::{OwnedSemaphorePermit, watch},
    };

    use super::*;
    use crate::{clock::Deadline, net::StampedStream, plan::Timing};

    const LONG: Duration = Duration::from_secs(30);

    /// All permits to hash are held.
    async fn all_permits() -> OwnedSemaphorePermit {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        HASH_PERMITS.clone().acquire_many_owned((processors / 2).max(1).try_into().unwrap()).await.unwrap()
    }

    /// A login by SCRAM-SHA-256 at a server that keeps to the rules. `hashing` is called when the password is about to be
    /// hashed. The exchange, and the lines that the server received.
    async fn login(deadline: Duration, hashing: impl FnOnce(watch::Sender<bool>)) -> (Exchange, usize) {
        login_with(deadline, 4096, None, hashing).await
    }

    /// With as many iterations, and another limit for the hashing.
    async fn login_with(
        deadline: Duration,
        iterations: u32,
        limit: Option<Duration>,
        hashing: impl FnOnce(watch::Sender<bool>),
    ) -> (Exchange, usize) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let wire = StampedStream::default();
        wire.attach(stream.into_std().unwrap(), clock::now(), false, Timing::default()).unwrap();
        let (cancel, cancelled) = watch::channel(false);
        let mut driver = Driver::new(wire, None, Limits::default(), cancelled);
        driver.hashing = limit.unwrap_or(driver.hashing);
        let (stream, _) = listener.accept().await.unwrap();
        let server = async {
            let mut stream = BufReader::new(stream);
            stream.write_all(b"* OK [CAPABILITY IMAP4rev1 SASL-IR] hi\r\n").await.unwrap();
            let (mut received, mut lines) = (String::new(), 0);
            stream.read_line(&mut received).await.unwrap();
            let first = received.trim_end().rsplit(' ').next().unwrap();
            let mut peer = Peer::new(std::str::from_utf8(&STANDARD.decode(first).unwrap()).unwrap());
            let challenge = format!("+ {}\r\n", STANDARD.encode(peer.first("x", b"salt", iterations)));
            stream.write_all(challenge.as_bytes()).await.unwrap();
            hashing(cancel);
            loop {
                received.clear();
                if stream.read_line(&mut received).await.unwrap_or_default() == 0 {
                    return lines;
                }
                lines += 1;
                if received == "*\r\n" {
                    stream.write_all(b"t1 BAD cancelled\r\n").await.unwrap();
                    continue;
                }
                let last = STANDARD.decode(received.trim_end()).unwrap();
                let answer = match std::str::from_utf8(&last).unwrap() {
                    "" => "t1 OK in\r\n".to_owned(),
                    last => format!("+ {}\r\n", STANDARD.encode(peer.last(last, "pencil").unwrap())),
                };
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        };
        let client = async {
            assert!(driver.greeting(Deadline::after(clock::now(), LONG)).await.is_ok());
            let password = Secret::new("pencil".into());
            let credentials = Credentials { authzid: None, user: "user", password: &password };
            let command = Command::Authenticate { mechanism: Mechanism::ScramSha256, credentials };
            let exchange = driver.exchange("t1", &command, Deadline::after(clock::now(), deadline), LONG).await;
            driver.close(clock::now()).await;
            drop(driver);
            exchange
        };
        tokio::join!(client, server)
    }

    #[tokio::test]
    async fn hashing_waits_for_a_permit_within_the_steps_deadline_and_can_be_cancelled() {
        let (exchange, lines) = login(LONG, |_| ()).await;
        assert_eq!(exchange.result.unwrap().condition, Condition::Ok);
        assert_eq!((lines, exchange.continuations.len(), exchange.sasl_messages.len()), (2, 2, 2));

        let permits = all_permits().await;
        let (exchange, lines) = login(Duration::from_millis(300), |_| ()).await;
        let fault = exchange.result.unwrap_err();
        assert_eq!((fault.class, fault.can_logout, lines), (ErrorType::Internal, false, 0), "it is our own fault");

        // A waiting server is owed a line, so that no LOGOUT can follow.
        let (exchange, lines) = login(LONG, |cancel| assert!(!cancel.send_replace(true))).await;
        let fault = exchange.result.unwrap_err();
        assert_eq!((fault.class, fault.can_logout, lines), (ErrorType::Cancelled, false, 0));

        // How long it had to wait is known.
        let wait = Duration::from_millis(10);
        let (exchange, _) = login(LONG, move |_| {
            tokio::spawn(async move {
                tokio::time::sleep(wait).await;
                drop(permits);
            });
        })
        .await;
        assert!(exchange.result.is_ok() && exchange.waited >= wait, "{:?}", exchange.waited);
        assert!(exchange.waited < exchange.end - exchange.start);

        // Last, since it holds its permit to the end: what takes too long is cancelled by `*`.
        let (exchange, lines) = login_with(LONG, 100_000, Some(Duration::from_millis(1)), |_| ()).await;
        let fault = exchange.result.unwrap_err();
        assert_eq!((fault.class, fault.can_logout, lines), (ErrorType::AuthProtocol, true, 1));
        assert_eq!(fault.response.unwrap().text, SaslError::Slow.to_string().into_bytes());
    }
}
