//! Opens a mailbox over a socket of its own, in clear text, and counts the newest messages.
//!
//! ```text
//! cargo run -p imaptrace-imap --example newest_messages -- HOST:PORT USER PASSWORD
//! ```
//!
//! A caller that uses TLS hands the decrypted bytes in; the session does not see the difference.

use std::{
    env,
    error::Error,
    io::{self, Read, Write},
    net::TcpStream,
    process::ExitCode,
};

use imaptrace_imap::{ChallengeReply, Command, Condition, Event, Limits, Secret, Session};

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [address, user, password] = arguments.as_slice() else {
        return report("usage: newest_messages HOST:PORT USER PASSWORD");
    };
    match run(address, user, password) {
        Ok(summary) => report(&summary),
        Err(error) => report(&error.to_string()),
    }
}

fn report(text: &str) -> ExitCode {
    match writeln!(io::stdout(), "{text}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn run(address: &str, user: &str, password: &str) -> Result<String, Box<dyn Error>> {
    let mut client = Client { stream: TcpStream::connect(address)?, session: Session::new(Limits::default()), next: 0 };
    client.until_greeting()?;
    let password = Secret::new(password.to_owned());
    client.command(&Command::Login { user, password: &password })?;
    let exists = client.command(&Command::Select { mailbox: "INBOX", read_only: true })?.unwrap_or_default();
    if exists > 0 {
        client.command(&Command::Fetch { from: exists.saturating_sub(19).max(1), to: exists, whole: false })?;
    }
    client.command(&Command::Logout)?;
    Ok(format!("INBOX holds {exists} messages"))
}

/// A socket and the session on it.
struct Client {
    stream: TcpStream,
    session: Session,
    next: u32,
}

impl Client {
    fn until_greeting(&mut self) -> Result<(), Box<dyn Error>> {
        let mut greeted = false;
        while !greeted {
            self.receive(|event| greeted |= matches!(event, Event::Greeting(_)))?;
        }
        self.session.take_progress();
        Ok(())
    }

    /// Sends a command and waits for its tagged response. Returns what EXISTS counted.
    fn command(&mut self, command: &Command<'_>) -> Result<Option<u32>, Box<dyn Error>> {
        self.next += 1;
        let parts = self.session.begin(&format!("a{}", self.next), command).parts;
        let last = parts.len().saturating_sub(1);
        for (number, part) in parts.iter().enumerate() {
            self.stream.write_all(&part.bytes)?;
            self.session.sent(part.then_wait, number == last);
            if part.then_wait && self.until_continuation_or_end()?.is_some() {
                break;
            }
        }
        let condition = loop {
            if let Some(condition) = self.until_continuation_or_end()? {
                break condition;
            }
            self.answer_challenge()?;
        };
        let progress = self.session.take_progress();
        if condition == Condition::Ok {
            return Ok(progress.exists);
        }
        Err(format!("{} was refused with {condition}", command.name()).into())
    }

    /// Reads until a `+` (none) or the command's tagged response.
    fn until_continuation_or_end(&mut self) -> Result<Option<Condition>, Box<dyn Error>> {
        let (mut goes_on, mut end) = (false, None);
        while !goes_on && end.is_none() {
            self.receive(|event| match event {
                Event::Continuation => goes_on = true,
                Event::Tagged(status) | Event::Bye(status) => end = Some(status.condition),
                _ => {}
            })?;
        }
        Ok(end)
    }

    /// Sends the reply to a SASL challenge. LOGIN has none; AUTHENTICATE with SCRAM-SHA-256 has two.
    fn answer_challenge(&mut self) -> Result<(), Box<dyn Error>> {
        let mut reply = self.session.answer();
        while let Some(ChallengeReply::Hash(task)) = reply {
            reply = Some(self.session.hashed(task.run()));
        }
        match reply {
            Some(ChallengeReply::Line(part)) => {
                self.stream.write_all(&part.bytes)?;
                self.session.sent(part.then_wait, true);
                Ok(())
            }
            Some(ChallengeReply::Cancel(error)) => Err(error.into()),
            Some(ChallengeReply::Hash(_)) | None => Ok(()),
        }
    }

    /// Reads once, and hands each event of these bytes on.
    fn receive(&mut self, mut handle: impl FnMut(&Event)) -> Result<(), Box<dyn Error>> {
        let mut buffer = [0; 4096];
        let count = self.stream.read(&mut buffer)?;
        if count == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let mut rest = buffer.get(..count).unwrap_or_default();
        while !rest.is_empty() {
            let (taken, event) = self.session.receive(rest)?;
            rest = rest.get(taken..).unwrap_or_default();
            if let Some(event) = event {
                handle(&event);
            }
        }
        Ok(())
    }
}
