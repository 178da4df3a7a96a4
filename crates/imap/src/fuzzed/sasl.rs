//! Logging in: whatever the server offers and says, a password goes out whole, once, and only when its turn has come; and by
//! SCRAM nobody gets us to believe that we are in who does not know it.
//!
//! What is sent is read back by a reader of its own, as strict as RFC 9051 §4.3, RFC 4616 and RFC 5802, and the server's
//! half of SCRAM is reckoned here by other code than the client's.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha2::{Digest as _, Sha256};

use super::{choice, limits};
use crate::{
    Capabilities, ChallengeReply, Command, Condition, Credentials, Encoded, Event, Mechanism, Secret, Session,
};

/// A byte that chooses, then lines: what the server can do, the user's name, the password; the rest is what it says (see
/// [`Talk::say`]).
pub fn sasl(input: &[u8]) {
    let (choice, rest) = choice(input);
    let mut lines = rest.splitn(4, |byte| *byte == b'\n');
    let mut line = || lines.next().unwrap_or_default();
    let (list, user, password, said) = (line(), line(), line(), line());
    let known = Capabilities::parse(list);
    // What no configuration lets through cannot be sent.
    let fits = |text: &str| !text.is_empty() && !text.contains(['\r', '\n', '\0']);
    let (Ok(user), Ok(password)) = (std::str::from_utf8(user), std::str::from_utf8(password)) else { return };
    if !fits(user) || !fits(password) {
        return;
    }
    let secret = Secret::new(password.to_owned());
    let authzid = (choice & 2 != 0).then_some("kurt");
    let credentials = Credentials { authzid, user, password: &secret };
    let by = |mechanism| Command::Authenticate { mechanism, credentials };
    let login = Command::Login { user, password: &secret };

    check_login(&login.encode("T", &known), &known, [user, password]);
    check_plain(&by(Mechanism::Plain).encode("T", &known), &known, [authzid.unwrap_or_default(), user, password]);
    for command in [&login, &by(Mechanism::Plain), &by(Mechanism::External), &by(Mechanism::ScramSha256)] {
        Talk::hold(choice, list, command, password, said);
    }
}

/// Both arguments come out of it as they went in.
fn check_login(encoded: &Encoded, known: &Capabilities, arguments: [&str; 2]) {
    waits_where_it_must(encoded, known);
    let sent = joined(encoded);
    let read = sent.strip_prefix(b"T LOGIN ").and_then(|rest| {
        let (user, rest) = astring(rest)?;
        let (password, rest) = astring(rest.strip_prefix(b" ")?)?;
        (rest == b"\r\n").then_some([user, password])
    });
    assert!(read == Some(arguments.map(|argument| argument.as_bytes().to_vec())), "LOGIN is read otherwise");
}

fn check_plain(encoded: &Encoded, known: &Capabilities, message: [&str; 3]) {
    assert_eq!(encoded.parts.len(), if known.sasl_ir { 1 } else { 2 });
    let head: &[u8] = if known.sasl_ir { b"T AUTHENTICATE PLAIN " } else { b"T AUTHENTICATE PLAIN\r\n" };
    let sent = joined(encoded);
    let read = sent.strip_prefix(head).and_then(|rest| STANDARD.decode(rest.strip_suffix(b"\r\n")?).ok());
    assert!(read == Some(message.join("\0").into_bytes()), "PLAIN is read otherwise");
}

/// All parts in a row.
fn joined(encoded: &Encoded) -> Vec<u8> {
    encoded.parts.iter().flat_map(|part| part.bytes.iter().copied()).collect()
}

/// A part that is followed by another ends a line, and only the last does not wait.
fn waits_where_it_must(encoded: &Encoded, known: &Capabilities) {
    let [before @ .., last] = &encoded.parts[..] else { panic!("there is nothing to send") };
    assert!(!last.then_wait && last.bytes.ends_with(b"\r\n"));
    for part in before {
        assert!(part.then_wait && part.bytes.ends_with(b"}\r\n") && !part.bytes.ends_with(b"+}\r\n"));
    }
    assert!(!known.literal_plus || before.is_empty(), "nobody waits for a server that need not be waited for");
}

/// A quoted string or a literal, and what stands behind it.
fn astring(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let (first, rest) = text.split_first()?;
    if *first == b'{' {
        let close = rest.iter().position(|byte| *byte == b'}')?;
        let size = std::str::from_utf8(rest.get(..close)?).ok()?.trim_end_matches('+').parse().ok()?;
        let (value, rest) = rest.get(close + 1..)?.strip_prefix(b"\r\n")?.split_at_checked(size)?;
        return Some((value.to_vec(), rest));
    }
    (*first == b'"').then_some(())?;
    let (mut value, mut bytes) = (Vec::new(), rest.iter().enumerate());
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => return Some((value, rest.get(at + 1..)?)),
            b'\\' => value.push(*bytes.next().filter(|(_, byte)| matches!(byte, b'"' | b'\\'))?.1),
            b' '..=b'~' => value.push(*byte),
            _ => return None,
        }
    }
    None
}

/// A login at a server that says certain bytes.
struct Talk<'a> {
    session: Session,
    encoded: Encoded,
    sent: usize,
    /// None for another mechanism than SCRAM.
    scram: Option<Scram<'a>>,
    /// It was given up.
    cancelled: bool,
}

/// What was said of SCRAM, decoded.
#[derive(Default)]
struct Scram<'a> {
    password: &'a str,
    client_first: Vec<u8>,
    server_first: Vec<u8>,
    client_final: Vec<u8>,
    /// The last thing that the server said was the signature that it owed us.
    proven: bool,
}

/// More rounds than this are right, and would take all the time that there is for fuzzing.
const FEW_ROUNDS: u32 = 5000;

impl<'a> Talk<'a> {
    fn hold(choice: u8, list: &[u8], command: &Command<'_>, password: &'a str, said: &[u8]) {
        let mut session = Session::new(limits(choice & !1));
        let list: Vec<u8> = list.iter().copied().filter(|byte| !matches!(byte, b'\r' | b']' | b'{')).collect();
        let greeting = [b"* OK [CAPABILITY ", &list[..], b"] hi\r\n"].concat();
        let Ok((_, Some(Event::Greeting(_)))) = session.receive(&greeting) else { return };
        session.take_progress();
        let encoded = session.begin("T", command);
        let is_scram = matches!(command, Command::Authenticate { mechanism: Mechanism::ScramSha256, .. });
        let first = joined(&encoded);
        let first = first.split(|byte| matches!(byte, b' ' | b'\r' | b'\n')).rfind(|word| !word.is_empty());
        let first = STANDARD.decode(first.unwrap_or_default()).unwrap_or_default();
        let scram = is_scram.then(|| Scram { password, client_first: first, ..Scram::default() });
        let mut talk = Self { session, encoded, sent: 0, scram, cancelled: false };
        talk.send();
        for line in said.split_inclusive(|byte| *byte == b'\n') {
            if !talk.say(line) {
                return;
            }
        }
    }

    fn send(&mut self) {
        if let Some(part) = self.encoded.parts.get(self.sent) {
            self.sent += 1;
            self.session.sent(part.then_wait, self.sent == self.encoded.parts.len());
        }
    }

    /// The server says a line. With `FC` before it, it is a challenge, written out as base64; in it, `FE` is our nonce and
    /// `FD` the signature that the server owes us. False when nothing can follow.
    fn say(&mut self, line: &[u8]) -> bool {
        let challenge = line.strip_prefix(b"\xfc").map(|line| {
            let scram = self.scram.as_ref();
            let mut challenge = Vec::new();
            for byte in line.iter().take_while(|byte| !matches!(byte, b'\r' | b'\n')) {
                match byte {
                    0xfe => challenge.extend_from_slice(scram.map(Scram::nonce).unwrap_or_default()),
                    0xfd => challenge.extend(scram.and_then(Scram::signature).unwrap_or_default().bytes()),
                    byte => challenge.push(*byte),
                }
            }
            challenge
        });
        let line = match &challenge {
            Some(challenge) => format!("+ {}\r\n", STANDARD.encode(challenge)).into_bytes(),
            None => line.to_vec(),
        };
        let mut rest = &line[..];
        while !rest.is_empty() {
            let Ok((taken, event)) = self.session.receive(rest) else { return false };
            rest = rest.get(taken..).unwrap_or_default();
            match event {
                Some(Event::Continuation) => {
                    // What came as it was may be a challenge as well: it is taken for one that proves nothing.
                    self.reply(challenge.as_deref().unwrap_or_default());
                }
                Some(Event::Tagged(status)) => {
                    let ok = status.condition == Condition::Ok;
                    assert!(!ok || self.sent == self.encoded.parts.len(), "logged in before the password");
                    assert!(!ok || !self.cancelled, "logged in after it was given up");
                    let proven = self.scram.as_ref().is_none_or(|scram| scram.proven);
                    assert!(!ok || proven, "logged in at a server that does not know the password");
                    return false;
                }
                _ => {}
            }
        }
        true
    }

    fn reply(&mut self, challenge: &[u8]) {
        assert!(!self.cancelled, "a challenge after it was given up");
        let Some(mut answer) = self.session.answer() else {
            assert!(self.sent < self.encoded.parts.len(), "a `+` that nothing follows");
            return self.send();
        };
        assert_eq!(self.sent, self.encoded.parts.len(), "a challenge before all is said");
        let Some(scram) = &mut self.scram else {
            assert!(matches!(answer, ChallengeReply::Cancel(_)), "there is nothing to say to a challenge");
            return self.give_up();
        };
        if let ChallengeReply::Hash(work) = answer {
            assert!(scram.server_first.is_empty() && challenge.starts_with(b"r="), "hashed twice");
            challenge.clone_into(&mut scram.server_first);
            let rounds = scram.rounds();
            assert!(rounds.is_some_and(|rounds| (4096..=600_000).contains(&rounds)), "so many rounds");
            if rounds > Some(FEW_ROUNDS) {
                return self.give_up();
            }
            answer = self.session.hashed(work.run());
            let ChallengeReply::Line(line) = &answer else { panic!("it cannot be computed") };
            scram.client_final = decoded(&line.bytes);
            assert!(scram.knows_the_password(), "the proof is none");
            self.session.sent(false, true);
            return;
        }
        let ChallengeReply::Line(line) = answer else { return self.give_up() };
        assert_eq!(&line.bytes[..], b"\r\n", "there is nothing more to say");
        let signature = scram.signature().map(|signature| format!("v={signature}"));
        let verifier = challenge.split(|byte| *byte == b',').next().unwrap_or_default();
        scram.proven = signature.is_some_and(|signature| verifier == signature.as_bytes());
        assert!(scram.proven || challenge.is_empty() || challenge.starts_with(b"e="), "anything is a proof");
        self.session.sent(false, true);
    }

    fn give_up(&mut self) {
        assert_eq!(self.session.cancel(), b"*\r\n");
        self.cancelled = true;
    }
}

fn decoded(line: &[u8]) -> Vec<u8> {
    line.strip_suffix(b"\r\n").and_then(|line| STANDARD.decode(line).ok()).unwrap_or_default()
}

impl Scram<'_> {
    fn nonce(&self) -> &[u8] {
        let last = self.client_first.rsplit(|byte| *byte == b',').next();
        last.and_then(|last| last.strip_prefix(b"r=")).unwrap_or_default()
    }

    fn rounds(&self) -> Option<u32> {
        let field = self.server_first.split(|byte| *byte == b',').nth(2)?;
        std::str::from_utf8(field.strip_prefix(b"i=")?).ok()?.parse().ok()
    }

    /// The key that both sides know, and what they sign (RFC 5802 §3). None before the client's proof.
    fn keys(&self) -> Option<([u8; 32], Vec<u8>)> {
        // What SASLprep makes of others is not this reader's business.
        if !self.password.bytes().all(|byte| byte.is_ascii_graphic()) {
            return None;
        }
        let salt = self.server_first.split(|byte| *byte == b',').nth(1)?.strip_prefix(b"s=")?;
        let salted = hash(self.password.as_bytes(), &STANDARD.decode(salt).ok()?, self.rounds()?);
        let bare = self.client_first.splitn(3, |byte| *byte == b',').nth(2)?;
        let proof = self.client_final.windows(3).rposition(|window| window == b",p=")?;
        Some((salted, [bare, &self.server_first, self.client_final.get(..proof)?].join(&b',')))
    }

    fn signature(&self) -> Option<String> {
        let (salted, signed) = self.keys()?;
        Some(STANDARD.encode(sign(&sign(&salted, b"Server Key"), &signed)))
    }

    fn knows_the_password(&self) -> bool {
        let Some((salted, signed)) = self.keys() else { return true };
        let key = sign(&salted, b"Client Key");
        let signature = sign(&Sha256::digest(key), &signed);
        let proof: Vec<u8> = key.iter().zip(signature).map(|(key, signature)| key ^ signature).collect();
        self.client_final.ends_with(format!(",p={}", STANDARD.encode(proof)).as_bytes())
    }
}

/// PBKDF2 for one block (RFC 8018 §5.2).
fn hash(password: &[u8], salt: &[u8], rounds: u32) -> [u8; 32] {
    let mut last = sign(password, &[salt, &1_u32.to_be_bytes()].concat());
    let mut sum = last;
    for _ in 1..rounds {
        last = sign(password, &last);
        sum.iter_mut().zip(last).for_each(|(sum, last)| *sum ^= last);
    }
    sum
}

/// HMAC (RFC 2104).
fn sign(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut block = [0; 64];
    let key = if key.len() > block.len() { Sha256::digest(key).to_vec() } else { key.to_vec() };
    block.iter_mut().zip(key).for_each(|(block, key)| *block = key);
    let inner = Sha256::new().chain_update(block.map(|byte| byte ^ 0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(block.map(|byte| byte ^ 0x5c)).chain_update(inner).finalize().into()
}
