//! Reads the TLS records below the TLS library for what it does not report: version and cipher, since the ServerHello is in
//! clear text in every version (RFC 8446 §4.1.3, RFC 5246 §7.4.1.3), and the certificates of a failed handshake, in clear text
//! up to TLS 1.2. Decrypts and changes nothing.

/// The parameters that the server chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerHello {
    /// Protocol version: 0x0303 is 1.2, 0x0304 is 1.3.
    pub version: u16,
    /// Number of the cipher suite.
    pub cipher: u16,
    /// ALPN chose `imap`, the one protocol that is offered (RFC 7301). Up to TLS 1.2: in 1.3 the choice is encrypted.
    pub alpn_imap: bool,
}

impl ServerHello {
    /// The version's name, such as `1.3`.
    pub fn version_name(self) -> String {
        match self.version {
            0x0301 => "1.0".into(),
            0x0302 => "1.1".into(),
            0x0303 => "1.2".into(),
            0x0304 => "1.3".into(),
            other => format!("{other:#06x}"),
        }
    }

    /// The suite's name in the IANA registry; its number if it is not in the list.
    pub fn cipher_name(self) -> String {
        SUITES
            .iter()
            .find(|(number, _)| *number == self.cipher)
            .map_or_else(|| format!("{:#06x}", self.cipher), |(_, name)| (*name).into())
    }
}

/// The header of the last record that the server sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastRecord {
    /// Content type (RFC 8446 §5.1).
    pub kind: u8,
    /// Length of the body.
    pub length: u16,
    /// Its whole body has arrived.
    pub whole: bool,
}

impl LastRecord {
    /// Whether the record can be an alert. In TLS 1.3 an alert has the content type of data and 2 bytes, with 1 for the inner
    /// type and 16 (or 8) for the tag.
    pub fn may_be_alert(self) -> bool {
        self.whole && (self.kind == ALERT || (self.kind == DATA && matches!(self.length, 19 | 11)))
    }
}

#[derive(Debug, Default)]
pub(super) struct Records {
    /// The part of a header that has arrived.
    header: Vec<u8>,
    /// Bytes of the last record that have not arrived.
    left: usize,
    pub(super) last: Option<LastRecord>,
    first: Vec<u8>,
    handshake: Vec<u8>,
    pub(super) hello: Option<ServerHello>,
    /// The body of the server's Certificate message.
    pub(super) chain: Option<Vec<u8>>,
    /// No more messages of interest follow in clear text.
    done: bool,
}

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;
const SERVER_HELLO: u8 = 2;
const CERTIFICATE: u8 = 11;
/// Bytes of the handshake that are kept: a ServerHello has at most 1.3 KB, with a post-quantum key share; a longer chain of
/// certificates is ignored.
const HANDSHAKE_KEPT: usize = 12 << 10;
const FIRST_KEPT: usize = 16;
/// The random of a `HelloRetryRequest` (RFC 8446 §4.1.3).
const RETRY: [u8; 8] = [0xCF, 0x21, 0xAD, 0x74, 0xE5, 0x9A, 0x61, 0x11];

impl Records {
    pub(super) fn push(&mut self, mut bytes: &[u8]) {
        if self.first.len() < FIRST_KEPT {
            self.first.extend(bytes.iter().take(FIRST_KEPT - self.first.len()));
        }
        while !bytes.is_empty() {
            if self.left == 0 {
                let (head, rest) = bytes.split_at((5 - self.header.len()).min(bytes.len()));
                self.header.extend(head);
                bytes = rest;
                if let [kind, _, _, high, low] = self.header[..] {
                    let length = u16::from_be_bytes([high, low]);
                    self.last = Some(LastRecord { kind, length, whole: length == 0 });
                    self.left = length.into();
                    self.header.clear();
                }
            } else if let Some(mut last) = self.last {
                let (body, rest) = bytes.split_at(self.left.min(bytes.len()));
                if last.kind == HANDSHAKE {
                    self.follow(body);
                }
                self.left -= body.len();
                last.whole = self.left == 0;
                self.last = Some(last);
                bytes = rest;
            }
        }
    }

    /// Whether no record is incomplete.
    pub(super) fn is_between(&self) -> bool {
        self.header.is_empty() && self.left == 0
    }

    /// The first bytes, if they are no TLS record.
    pub(super) fn non_tls_prefix(&self) -> Option<&[u8]> {
        (self.first.first().is_some_and(|kind| !(20..=23).contains(kind))).then_some(&*self.first)
    }

    /// Takes the server's certificates, as DER, its own first, if they were in clear text.
    pub(super) fn take_chain(&mut self) -> Vec<Vec<u8>> {
        self.chain.take().map(|body| certificates(&body)).unwrap_or_default()
    }

    /// Adds a part of the handshake, within [`HANDSHAKE_KEPT`].
    fn follow(&mut self, mut body: &[u8]) {
        while !self.done && !body.is_empty() {
            let (fits, rest) = body.split_at(body.len().min(HANDSHAKE_KEPT - self.handshake.len()));
            self.handshake.extend(fits);
            let mut seen = 0;
            self.done = self.parse_messages(&mut seen);
            self.handshake.drain(..seen);
            self.done |= self.handshake.len() >= HANDSHAKE_KEPT;
            body = rest;
        }
        if self.done {
            self.handshake = Vec::new();
        }
    }

    /// Parses the complete messages; `seen` is where they end. True when no later message is of interest.
    fn parse_messages(&mut self, seen: &mut usize) -> bool {
        loop {
            let Some(message) = self.handshake.get(*seen..) else { return false };
            let Some(size) = message.get(1..4) else { return false };
            let length = number(size);
            let Some(body) = message.get(4..4 + length) else { return false };
            match message.first() {
                Some(&SERVER_HELLO) if body.get(2..10) == Some(&RETRY) => {}
                Some(&SERVER_HELLO) => {
                    self.hello = parse(body);
                    if self.hello.is_none_or(|hello| hello.version >= TLS_1_3) {
                        return true;
                    }
                }
                Some(&CERTIFICATE) => {
                    self.chain = Some(body.to_vec());
                    return true;
                }
                // A cipher suite without certificates.
                _ if self.hello.is_some() => return true,
                _ => {}
            }
            *seen += 4 + length;
        }
    }
}

const TLS_1_3: u16 = 0x0304;

fn number(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |number, byte| number << 8 | usize::from(*byte))
}

/// The certificates in the body of a Certificate message (RFC 5246 §7.4.2), each after its length, up to the first incomplete
/// one.
fn certificates(body: &[u8]) -> Vec<Vec<u8>> {
    let mut rest = body.get(3..).unwrap_or_default();
    let mut all = Vec::new();
    while let Some((size, after)) = rest.split_at_checked(3)
        && let Some((certificate, after)) = after.split_at_checked(number(size))
    {
        all.push(certificate.to_vec());
        rest = after;
    }
    all
}

fn parse(body: &[u8]) -> Option<ServerHello> {
    let two = |at: usize| body.get(at..at + 2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
    let mut version = two(0)?;
    let mut alpn_imap = false;
    let session = usize::from(*body.get(34)?);
    let cipher = two(35 + session)?;
    let mut at = 35 + session + 2 + 1 + 2; // cipher, compression, length of the extensions
    while let (Some(kind), Some(length)) = (two(at), two(at + 2)) {
        match kind {
            43 => version = two(at + 4)?,
            // A list of one name.
            16 => alpn_imap = body.get(at + 4..at + 4 + usize::from(length)) == Some(b"\x00\x05\x04imap".as_slice()),
            _ => {}
        }
        at += 4 + usize::from(length);
    }
    Some(ServerHello { version, cipher, alpn_imap })
}

/// The suites that OpenSSL 3 offers by default, and CBC ones that old servers still choose.
const SUITES: &[(u16, &str)] = &[
    (0x002f, "TLS_RSA_WITH_AES_128_CBC_SHA"),
    (0x0033, "TLS_DHE_RSA_WITH_AES_128_CBC_SHA"),
    (0x0035, "TLS_RSA_WITH_AES_256_CBC_SHA"),
    (0x0039, "TLS_DHE_RSA_WITH_AES_256_CBC_SHA"),
    (0x003c, "TLS_RSA_WITH_AES_128_CBC_SHA256"),
    (0x003d, "TLS_RSA_WITH_AES_256_CBC_SHA256"),
    (0x0067, "TLS_DHE_RSA_WITH_AES_128_CBC_SHA256"),
    (0x006b, "TLS_DHE_RSA_WITH_AES_256_CBC_SHA256"),
    (0x009c, "TLS_RSA_WITH_AES_128_GCM_SHA256"),
    (0x009d, "TLS_RSA_WITH_AES_256_GCM_SHA384"),
    (0x009e, "TLS_DHE_RSA_WITH_AES_128_GCM_SHA256"),
    (0x009f, "TLS_DHE_RSA_WITH_AES_256_GCM_SHA384"),
    (0x1301, "TLS_AES_128_GCM_SHA256"),
    (0x1302, "TLS_AES_256_GCM_SHA384"),
    (0x1303, "TLS_CHACHA20_POLY1305_SHA256"),
    (0x1304, "TLS_AES_128_CCM_SHA256"),
    (0x1305, "TLS_AES_128_CCM_8_SHA256"),
    (0xc009, "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA"),
    (0xc00a, "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA"),
    (0xc013, "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA"),
    (0xc014, "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA"),
    (0xc023, "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256"),
    (0xc024, "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA384"),
    (0xc027, "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256"),
    (0xc028, "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA384"),
    (0xc02b, "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"),
    (0xc02c, "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"),
    (0xc02f, "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"),
    (0xc030, "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"),
    (0xcca8, "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"),
    (0xcca9, "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"),
    (0xccaa, "TLS_DHE_RSA_WITH_CHACHA20_POLY1305_SHA256"),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// A ServerHello record with this session id length, cipher and extensions.
    fn hello(random: &[u8], session: usize, cipher: u16, extensions: &[u8]) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend_from_slice(random);
        body.resize(34, 7);
        body.push(u8::try_from(session).unwrap());
        body.extend(vec![9; session]);
        body.extend(cipher.to_be_bytes());
        body.push(0);
        body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
        body.extend_from_slice(extensions);
        let mut message = vec![2, 0];
        message.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
        message.extend(body);
        let mut record = vec![HANDSHAKE, 3, 3];
        record.extend(u16::try_from(message.len()).unwrap().to_be_bytes());
        record.extend(message);
        record
    }

    const SUPPORTED_13: &[u8] = &[0, 51, 0, 2, 1, 2, 0, 43, 0, 2, 3, 4];

    #[test]
    fn tls_1_3_is_in_the_extension_and_1_2_in_the_old_place() {
        let mut records = Records::default();
        records.push(&hello(&[], 32, 0x1302, SUPPORTED_13));
        let seen = records.hello.unwrap();
        assert_eq!((seen.version_name(), seen.cipher_name()), ("1.3".into(), "TLS_AES_256_GCM_SHA384".into()));
        let mut records = Records::default();
        records.push(&hello(&[], 0, 0xc030, &[]));
        let seen = records.hello.unwrap();
        assert_eq!(
            (seen.version_name(), seen.cipher_name()),
            ("1.2".into(), "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384".into())
        );
    }

    #[test]
    fn the_protocol_that_alpn_chose_is_in_the_hello_up_to_tls_1_2() {
        let chosen = |extensions: &[u8]| {
            let mut records = Records::default();
            records.push(&hello(&[], 0, 0xc030, extensions));
            records.hello.unwrap().alpn_imap
        };
        assert!(chosen(&[0, 23, 0, 0, 0, 16, 0, 7, 0, 5, 4, b'i', b'm', b'a', b'p']));
        for other in [
            &[][..],
            &[0, 23, 0, 0],
            &[0, 16, 0, 5, 0, 3, 2, b'h', b'2'],
            &[0, 16, 0, 0],
            &[0, 16, 0, 7, 0, 5, 4, b'i', b'm', b'a'],
            &[0, 16, 0xff, 0xff, 0, 5, 4, b'i', b'm', b'a', b'p'],
        ] {
            assert!(!chosen(other), "{other:?}");
        }
    }

    #[test]
    fn a_retry_request_is_passed_over_and_any_split_is_the_same() {
        let bytes = [hello(&RETRY, 32, 0x1301, SUPPORTED_13), hello(&[], 32, 0x1303, SUPPORTED_13)].concat();
        for size in 1..bytes.len() {
            let mut records = Records::default();
            bytes.chunks(size).for_each(|chunk| records.push(chunk));
            let expected = ServerHello { version: 0x0304, cipher: 0x1303, alpn_imap: false };
            assert_eq!(records.hello, Some(expected), "chunks of {size}");
        }
    }

    /// A Certificate message in a record of its own, with two certificates.
    fn two_certificates(leaf: &[u8]) -> Vec<u8> {
        let three = |length: usize| u32::try_from(length).unwrap().to_be_bytes()[1..].to_vec();
        let list = [three(leaf.len()), leaf.to_vec(), three(5), b"issue".to_vec()].concat();
        let message = [vec![CERTIFICATE], three(list.len() + 3), three(list.len()), list].concat();
        let length = u16::try_from(message.len()).unwrap().to_be_bytes();
        [vec![HANDSHAKE, 3, 3], length.to_vec(), message].concat()
    }

    #[test]
    fn up_to_tls_1_2_the_chain_is_seen_in_any_split_and_then_nothing_is_kept() {
        let bytes = [hello(&[], 0, 0xc030, &[]), two_certificates(b"the leaf")].concat();
        for size in 1..bytes.len() {
            let mut records = Records::default();
            bytes.chunks(size).for_each(|chunk| records.push(chunk));
            assert_eq!(records.take_chain(), [b"the leaf".to_vec(), b"issue".to_vec()], "chunks of {size}");
            assert_eq!((records.take_chain(), records.handshake.capacity()), (vec![], 0));
        }
        let mut records = Records::default();
        records.push(&hello(&[], 32, 0x1302, SUPPORTED_13));
        records.push(&two_certificates(b"no clear text comes here"));
        assert_eq!(records.take_chain(), Vec::<Vec<u8>>::new());
    }

    #[test]
    fn a_chain_without_end_and_lengths_that_are_wrong_keep_nothing() {
        let mut records = Records::default();
        records.push(&hello(&[], 0, 0xc030, &[]));
        records.push(&[HANDSHAKE, 3, 3, 0xff, 0xff, CERTIFICATE, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        for _ in 0..100 {
            records.push(&[0xff; 1000]);
            assert!(records.handshake.len() <= HANDSHAKE_KEPT);
        }
        assert_eq!((records.take_chain(), records.handshake.capacity()), (vec![], 0));
        for body in [&[][..], &[0, 0, 9], &[0, 0, 9, 0, 0, 9, 1]] {
            assert_eq!(certificates(body), Vec::<Vec<u8>>::new(), "{body:?}");
        }
    }

    #[test]
    fn another_protocol_is_known_by_its_first_byte() {
        let mut records = Records::default();
        records.push(b"* OK Dovecot ready.\r\n");
        assert_eq!(records.non_tls_prefix(), Some(b"* OK Dovecot rea".as_slice()));
        let mut records = Records::default();
        records.push(&[ALERT, 3, 3, 0, 2, 1]);
        assert_eq!(records.non_tls_prefix(), None);
        assert!(!records.last.unwrap().may_be_alert(), "half of it");
        records.push(&[0]);
        assert!(records.last.unwrap().may_be_alert());
    }
}
