//! SCRAM-SHA-256 for a client (RFC 5802, RFC 7677), without channel binding.
//!
//! The arithmetic is rsasl's. What the server sends is read here first, and rsasl sees nothing that is not well formed: it
//! has no limit on iterations, and takes the length of some parts for granted. The one thing that takes long, hashing the
//! password, is [`HashTask`] for the caller to do where it holds nobody up.

use std::sync::Arc;

use rsasl::{
    callback::{Context, Request, SessionCallback, SessionData},
    config::SASLConfig,
    mechanisms::scram::SCRAM_SHA256,
    mechname::Mechname,
    prelude::{Mechanism, Registry, SASLClient, Session, SessionError},
    property::{AuthId, AuthzId, Password},
};
use zeroize::Zeroizing;

use super::sasl::{ChallengeReply, Credentials, SaslError, line};
use crate::Secret;

/// How often the password may be hashed. RFC 7677 §4 wants 4096 at least; what is more than this is an attempt to keep us
/// busy (CVE-2026-42256).
const ITERATIONS: std::ops::RangeInclusive<u64> = 4096..=600_000;

/// Of the server's own word for what is wrong, as much is kept.
const ERROR_KEPT: usize = 64;

static MECHANISMS: &[Mechanism] = &[SCRAM_SHA256];

/// An exchange under way.
pub(super) struct Scram {
    stage: ScramState,
    /// What we said, decoded: who hears it can guess at the password for as long as they like.
    spoken: Vec<Zeroizing<Vec<u8>>>,
}

enum ScramState {
    /// The client's first message is said.
    First {
        session: Box<Session>,
        /// Our nonce.
        nonce: Vec<u8>,
    },
    /// Somebody hashes.
    Working,
    /// The proof is said.
    Final(Box<Session>),
    Ended(ScramOutcome),
}

/// How it ended.
#[derive(Debug)]
pub(super) enum ScramOutcome {
    /// The server has proved that it knows the password.
    Proven,
    /// `e=`, and what the server calls it.
    Failed(Vec<u8>),
}

/// Hashing a password: milliseconds of a processor, or up to half a second where a server wants that.
pub struct HashTask {
    session: Box<Session>,
    challenge: Vec<u8>,
}

/// What came of it.
pub struct HashResult {
    session: Box<Session>,
    message: Option<Zeroizing<Vec<u8>>>,
}

/// What rsasl is told, when it asks.
struct ScramProperties {
    authzid: Option<String>,
    user: String,
    password: Secret,
}

impl SessionCallback for ScramProperties {
    fn callback(&self, _: &SessionData, _: &Context<'_>, request: &mut Request<'_>) -> Result<(), SessionError> {
        request.satisfy::<AuthId>(&self.user)?.satisfy::<Password>(self.password.expose().as_bytes())?;
        if let Some(authzid) = &self.authzid {
            request.satisfy::<AuthzId>(authzid)?;
        }
        Ok(())
    }
}

impl Scram {
    /// Begins, and says what the first message is. None for names that no message can carry.
    pub(super) fn begin(credentials: Credentials<'_>) -> Option<(Self, Zeroizing<Vec<u8>>)> {
        let Credentials { authzid, user, password } = credentials;
        let prepared = ScramProperties {
            authzid: authzid.map(str::to_owned),
            user: prepare(user),
            password: Secret::new(prepare(password.expose())),
        };
        let config: Arc<SASLConfig> =
            SASLConfig::builder().with_registry(Registry::with_mechanisms(MECHANISMS)).with_callback(prepared).ok()?;
        let name = Mechname::parse(super::Mechanism::ScramSha256.as_str().as_bytes()).ok()?;
        let mut session = Box::new(SASLClient::new(config).start_suggested(&[name]).ok()?);
        let message = step(&mut session, None).ok()?;
        // `n,[a=…],n=…,r=NONCE`: a comma in a name is written otherwise, and in a nonce there is none.
        let nonce = message.rsplit(|byte| *byte == b',').next()?.strip_prefix(b"r=")?.to_vec();
        let scram = Self { stage: ScramState::First { session, nonce }, spoken: vec![message.clone()] };
        Some((scram, message))
    }

    /// What to do about a challenge.
    pub(super) fn challenge(&mut self, message: &[u8]) -> Result<ChallengeReply, SaslError> {
        match std::mem::replace(&mut self.stage, ScramState::Working) {
            ScramState::First { .. } | ScramState::Final(_) if message.starts_with(b"e=") => {
                let error = message.get(2..).unwrap_or_default();
                let error = error.split(|byte| *byte == b',').next().unwrap_or_default();
                let kept = error.get(..ERROR_KEPT).unwrap_or(error).to_vec();
                self.stage = ScramState::Ended(ScramOutcome::Failed(kept));
                // The server says by its tagged answer what becomes of it.
                Ok(ChallengeReply::Line(line(b"")))
            }
            ScramState::First { session, nonce } => {
                check_first(message, &nonce)?;
                Ok(ChallengeReply::Hash(Box::new(HashTask { session, challenge: message.to_vec() })))
            }
            ScramState::Final(mut session) => {
                check_final(message)?;
                step(&mut session, Some(message)).map_err(|_| SaslError::Signature)?;
                self.stage = ScramState::Ended(ScramOutcome::Proven);
                Ok(ChallengeReply::Line(line(b"")))
            }
            ScramState::Working | ScramState::Ended(_) => Err(SaslError::Unasked),
        }
    }

    /// What to do now that the work is done.
    pub(super) fn worked(&mut self, worked: HashResult) -> Result<ChallengeReply, SaslError> {
        let HashResult { session, message } = worked;
        let message = message.ok_or(SaslError::Computation)?;
        self.stage = ScramState::Final(session);
        let answer = line(&message);
        self.spoken.push(message);
        Ok(ChallengeReply::Line(answer))
    }

    /// How it ended, if it has.
    pub(super) fn ended(&self) -> Option<&ScramOutcome> {
        match &self.stage {
            ScramState::Ended(ended) => Some(ended),
            ScramState::First { .. } | ScramState::Working | ScramState::Final(_) => None,
        }
    }

    pub(super) fn spoken(&self) -> &[Zeroizing<Vec<u8>>] {
        &self.spoken
    }
}

impl HashTask {
    /// Does it. Takes a processor for as long as it lasts, and waits for nothing.
    pub fn run(mut self) -> HashResult {
        let message = step(&mut self.session, Some(&self.challenge)).ok();
        HashResult { session: self.session, message }
    }
}

fn step(session: &mut Session, input: Option<&[u8]>) -> Result<Zeroizing<Vec<u8>>, SessionError> {
    let mut message = Zeroizing::new(Vec::with_capacity(512));
    session.step(input, &mut *message)?;
    Ok(message)
}

/// RFC 4013, which rsasl leaves to whom it asks. A text that it forbids goes as it is: it may be right.
fn prepare(text: &str) -> String {
    match stringprep::saslprep(text) {
        Ok(prepared) if !prepared.is_empty() => prepared.into_owned(),
        _ => text.to_owned(),
    }
}

/// Reads the server's first message (RFC 5802 §7):
///
/// ```text
/// server-first-message = [reserved-mext ","] nonce "," salt "," iteration-count ["," extensions]
/// ```
fn check_first(message: &[u8], ours: &[u8]) -> Result<(), SaslError> {
    let mut fields = message.split(|byte| *byte == b',');
    let mut field = |name: &[u8], missing| {
        let field = fields.next().unwrap_or_default();
        if field.starts_with(b"m=") {
            return Err(SaslError::Mandatory);
        }
        field.strip_prefix(name).ok_or(SaslError::Malformed(missing))
    };
    let nonce = field(b"r=", "it does not begin with a nonce")?;
    let salt = field(b"s=", "there is no salt behind the nonce")?;
    let iterations = field(b"i=", "there is no iteration count behind the salt")?;
    if salt.is_empty() || !is_base64(salt) {
        return Err(SaslError::Malformed("its salt is not base64"));
    }
    let digits = std::str::from_utf8(iterations).ok();
    let digits = digits.filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0'));
    let digits = match digits {
        Some(digits) if !digits.is_empty() => digits,
        _ if iterations == b"0" => "0",
        _ => return Err(SaslError::Malformed("its iteration count is not a number")),
    };
    if !digits.parse().is_ok_and(|count| ITERATIONS.contains(&count)) {
        return Err(SaslError::Iterations(digits.chars().take(20).collect()));
    }
    let theirs = nonce.strip_prefix(ours).ok_or(SaslError::Nonce)?;
    if theirs.is_empty() || !theirs.iter().all(u8::is_ascii_graphic) {
        return Err(SaslError::Nonce);
    }
    match fields.next() {
        None => Ok(()),
        Some(field) if field.starts_with(b"m=") => Err(SaslError::Mandatory),
        // It would have to be signed, and rsasl would leave it out; no server is known that sends any.
        Some(_) => Err(SaslError::Malformed("it holds an extension")),
    }
}

/// Reads the server's last message: `verifier ["," extensions]`, where the verifier is `v=` and 32 bytes in base64.
fn check_final(message: &[u8]) -> Result<(), SaslError> {
    let verifier = message.split(|byte| *byte == b',').next().unwrap_or_default();
    let verifier = verifier.strip_prefix(b"v=").ok_or(SaslError::Malformed("there is no signature in its last"))?;
    if is_base64(verifier) { Ok(()) } else { Err(SaslError::Malformed("its signature is not base64")) }
}

fn is_base64(text: &[u8]) -> bool {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    STANDARD.decode(text).is_ok()
}

impl std::fmt::Debug for Scram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scram")
    }
}

impl std::fmt::Debug for HashTask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HashTask")
    }
}

impl std::fmt::Debug for HashResult {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HashResult")
    }
}

#[cfg(test)]
mod tests;
