//! SCRAM-SHA-256 for a client (RFC 5802, RFC 7677), without channel binding.
//!
//! The arithmetic is rsasl's. The server's messages are checked here first: rsasl has no limit on iterations, and assumes the
//! length of some parts. Hashing takes long: a [`HashTask`] for the caller to run where it blocks nothing. Called by `exchange`.

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

use super::{Credentials, SaslError};
use crate::Secret;

/// Accepted iteration counts. RFC 7677 §4 asks for 4096 at least; more than the upper bound is treated as denial of service
/// (CVE-2026-42256).
const ITERATIONS: std::ops::RangeInclusive<u64> = 4096..=600_000;

/// How many bytes of the server's error value are kept.
pub(super) const ERROR_KEPT: usize = 64;

static MECHANISMS: &[Mechanism] = &[SCRAM_SHA256];

/// rsasl's state of an exchange.
pub(super) type ScramSession = Box<Session>;

/// Hashing a password: milliseconds of a processor, or up to half a second at the highest iteration count.
pub struct HashTask {
    session: ScramSession,
    challenge: Vec<u8>,
}

/// The result of a [`HashTask`].
pub struct HashResult {
    pub(super) session: ScramSession,
    pub(super) message: Option<Zeroizing<Vec<u8>>>,
}

/// The properties that rsasl asks for.
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

/// Begins; with our nonce and the first message. None for names that no message can carry.
pub(super) fn begin(credentials: Credentials<'_>) -> Option<(ScramSession, Vec<u8>, Zeroizing<Vec<u8>>)> {
    let Credentials { authzid, user, password } = credentials;
    let properties = ScramProperties {
        authzid: authzid.map(str::to_owned),
        user: prepare(user),
        password: Secret::new(prepare(password.expose())),
    };
    let config: Arc<SASLConfig> =
        SASLConfig::builder().with_registry(Registry::with_mechanisms(MECHANISMS)).with_callback(properties).ok()?;
    let name = Mechname::parse(crate::Mechanism::ScramSha256.as_str().as_bytes()).ok()?;
    let mut session = Box::new(SASLClient::new(config).start_suggested(&[name]).ok()?);
    let message = step(&mut session, None).ok()?;
    // `n,[a=…],n=…,r=NONCE`: a comma in a name is written otherwise, and in a nonce there is none.
    let nonce = message.rsplit(|byte| *byte == b',').next()?.strip_prefix(b"r=")?.to_vec();
    Some((session, nonce, message))
}

impl HashTask {
    pub(super) fn new(session: ScramSession, challenge: Vec<u8>) -> Self {
        Self { session, challenge }
    }

    /// Hashes. Occupies a processor for as long as it lasts, and waits for nothing.
    pub fn run(mut self) -> HashResult {
        let message = step(&mut self.session, Some(&self.challenge)).ok();
        HashResult { session: self.session, message }
    }
}

/// The next message, by rsasl.
pub(super) fn step(session: &mut Session, input: Option<&[u8]>) -> Result<Zeroizing<Vec<u8>>, SessionError> {
    let mut message = Zeroizing::new(Vec::with_capacity(512));
    session.step(input, &mut *message)?;
    Ok(message)
}

/// RFC 4013, which rsasl leaves to its caller. A text that it forbids is used as it is: it may be right.
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
pub(super) fn check_first(message: &[u8], ours: &[u8]) -> Result<(), SaslError> {
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
pub(super) fn check_final(message: &[u8]) -> Result<(), SaslError> {
    let verifier = message.split(|byte| *byte == b',').next().unwrap_or_default();
    let verifier = verifier.strip_prefix(b"v=").ok_or(SaslError::Malformed("there is no signature in its last"))?;
    if is_base64(verifier) { Ok(()) } else { Err(SaslError::Malformed("its signature is not base64")) }
}

fn is_base64(text: &[u8]) -> bool {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    STANDARD.decode(text).is_ok()
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
