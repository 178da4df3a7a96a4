//! The one message of PLAIN (RFC 4616). Called by `exchange`.

use zeroize::Zeroizing;

use super::Credentials;

/// `authzid NUL authcid NUL passwd` (RFC 4616 §2).
pub(super) fn plain(credentials: Credentials<'_>) -> Zeroizing<Vec<u8>> {
    let Credentials { authzid, user, password } = credentials;
    let (authzid, password) = (authzid.unwrap_or_default(), password.expose());
    let mut message = Zeroizing::new(Vec::with_capacity(authzid.len() + user.len() + password.len() + 2));
    message.extend_from_slice(authzid.as_bytes());
    message.push(0);
    message.extend_from_slice(user.as_bytes());
    message.push(0);
    message.extend_from_slice(password.as_bytes());
    message
}
