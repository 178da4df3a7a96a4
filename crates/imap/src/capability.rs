//! A server's capabilities (RFC 9051 §6.1.1): those that a client acts on, the SASL mechanisms, and a hash of the list.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

/// A server's capabilities at one time. They are void after STARTTLS and after login (RFC 9051 §6.2.1–2).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is an independent word of the list")]
pub struct Capabilities {
    /// `IMAP4rev1` (RFC 3501).
    pub rev1: bool,
    /// `IMAP4rev2` (RFC 9051).
    pub rev2: bool,
    /// STARTTLS.
    pub starttls: bool,
    /// LOGINDISABLED: LOGIN must not be sent.
    pub login_disabled: bool,
    /// ID (RFC 2971).
    pub id: bool,
    /// NAMESPACE (RFC 2342, part of rev2).
    pub namespace: bool,
    /// LITERAL+ (RFC 7888 §4).
    pub literal_plus: bool,
    /// LITERAL- (RFC 7888 §5, part of rev2).
    pub literal_minus: bool,
    /// SASL-IR (RFC 4959, part of rev2).
    pub sasl_ir: bool,
    /// AUTH=EXTERNAL (RFC 4422 appendix A).
    pub auth_external: bool,
    /// AUTH=PLAIN (RFC 4616).
    pub auth_plain: bool,
    /// AUTH=SCRAM-SHA-256 (RFC 7677).
    pub auth_scram_sha_256: bool,
    /// ESEARCH (RFC 4731, part of rev2).
    pub esearch: bool,
    /// The sorted list, in upper case, each word once.
    list: Box<[u8]>,
}

impl Capabilities {
    /// Reads the words of a list; case means nothing.
    pub fn parse(list: &[u8]) -> Self {
        let list = list.to_ascii_uppercase();
        let mut words: Vec<&[u8]> = list.split(|byte| *byte == b' ').filter(|word| !word.is_empty()).collect();
        words.sort_unstable();
        words.dedup();
        let has = |word: &[u8]| words.binary_search_by(|known| (*known).cmp(word)).is_ok();
        let rev2 = has(b"IMAP4REV2");
        Self {
            rev1: has(b"IMAP4REV1"),
            rev2,
            starttls: has(b"STARTTLS"),
            login_disabled: has(b"LOGINDISABLED"),
            id: has(b"ID"),
            namespace: rev2 || has(b"NAMESPACE"),
            literal_plus: has(b"LITERAL+"),
            literal_minus: rev2 || has(b"LITERAL-"),
            sasl_ir: rev2 || has(b"SASL-IR"),
            auth_external: has(b"AUTH=EXTERNAL"),
            auth_plain: has(b"AUTH=PLAIN"),
            auth_scram_sha_256: has(b"AUTH=SCRAM-SHA-256"),
            esearch: rev2 || has(b"ESEARCH"),
            list: words.join(&b' ').into(),
        }
    }

    /// The SASL mechanisms, in upper case and in order. Untrusted, any bytes.
    pub fn mechanisms(&self) -> impl Iterator<Item = &[u8]> {
        self.list.split(|byte| *byte == b' ').filter_map(|word| word.strip_prefix(b"AUTH="))
    }

    /// First 16 hex digits of the SHA-256 of the sorted list. Computed each time: once in a run is enough.
    pub fn hash(&self) -> String {
        Sha256::digest(&self.list).iter().take(8).fold(String::with_capacity(16), |mut hash, byte| {
            write!(hash, "{byte:02x}").unwrap_or(());
            hash
        })
    }

    /// Whether a literal of this size may be sent without waiting for `+` (RFC 7888).
    pub fn literal_without_wait(&self, size: usize) -> bool {
        self.literal_plus || (self.literal_minus && size <= 4096)
    }

    /// `4rev2` for a server that supports nothing older, since nothing newer is enabled; else `4rev1`.
    pub fn version(&self) -> &'static str {
        if self.rev2 && !self.rev1 { "4rev2" } else { "4rev1" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_whole_and_in_any_case() {
        let capabilities = Capabilities::parse(b"imap4rev1 SASL-IR LITERAL+ ID STARTTLS AUTH=PLAIN AUTH=LOGIN IDLE");
        assert!(
            capabilities.rev1
                && capabilities.id
                && capabilities.auth_plain
                && capabilities.starttls
                && capabilities.sasl_ir
        );
        assert!(!capabilities.rev2 && !capabilities.login_disabled && !capabilities.namespace);
        assert!(!Capabilities::parse(b"IDLE XID AUTH=PLAIN-CLIENTTOKEN").id);
    }

    #[test]
    fn mechanisms_are_the_words_behind_auth() {
        let capabilities = Capabilities::parse(b"IMAP4rev1 auth=scram-sha-256 AUTH=PLAIN AUTH=SCRAM-SHA-256-PLUS IDLE");
        let details: Vec<_> = capabilities.mechanisms().collect();
        assert_eq!(details, [b"PLAIN".as_slice(), b"SCRAM-SHA-256", b"SCRAM-SHA-256-PLUS"]);
        assert!(capabilities.auth_scram_sha_256 && capabilities.auth_plain && !capabilities.auth_external);
        assert!(!Capabilities::parse(b"AUTH=SCRAM-SHA-256-PLUS").auth_scram_sha_256);
    }

    #[test]
    fn the_hash_ignores_order_and_case() {
        assert_eq!(Capabilities::parse(b"A b").hash(), Capabilities::parse(b"B  a A").hash());
        assert_ne!(Capabilities::parse(b"A b").hash(), Capabilities::parse(b"A c").hash());
    }

    #[test]
    fn rev2_brings_its_parts_along() {
        let capabilities = Capabilities::parse(b"IMAP4rev2");
        assert!(capabilities.namespace && capabilities.sasl_ir && capabilities.literal_without_wait(4096));
        assert!(!capabilities.literal_without_wait(4097));
        assert_eq!(capabilities.version(), "4rev2");
    }
}
