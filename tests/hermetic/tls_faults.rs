//! Handshakes that fail over something else than a certificate's trust: by OpenSSL's reasons, and by alerts.

use std::{io::Write as _, net::SocketAddr};

use imaptrace::plan::{Security, Target};
use imaptrace_record::{ErrorType, Run, StepName, TlsFault};
use openssl::{
    dh::Dh,
    hash::MessageDigest,
    ssl::{SslAcceptor, SslAcceptorBuilder, SslMethod, SslVerifyMode, SslVersion},
};

use crate::{
    certificates::weak::{Signed, sign},
    support::{
        papers::{Authority, parameters},
        run::{prepare, run, run_prepared, target},
        script::Script,
    },
};

/// A run to a server that waits for the ClientHello and then plays this.
async fn after_hello(script: &str, change: impl FnOnce(&mut Target)) -> Run {
    let server = Script::play(&format!("hello\n{script}")).await;
    let mut target = target(server.address, Security::Tls);
    change(&mut target);
    run(target).await
}

fn found(run: &Run) -> (Option<ErrorType>, Option<&str>, Option<TlsFault>) {
    (run.error_type, run.failed_step.as_ref().map(StepName::as_str), run.failing_step().and_then(|step| step.tls_fault))
}

fn text(run: &Run) -> &str {
    run.failing_step().and_then(|step| step.text.as_ref()).map_or("", |text| text.as_str())
}

#[tokio::test]
async fn an_alert_is_known_by_its_number() {
    let (alert, handshake) = (ErrorType::TlsAlert, ErrorType::TlsHandshake);
    for (number, class, fault, name) in [
        (10, alert, Some(TlsFault::HandshakeRefused), "unexpected_message"),
        (20, alert, None, "bad_record_mac"),
        (22, alert, Some(TlsFault::HandshakeRefused), "record_overflow"),
        (40, handshake, Some(TlsFault::NoCommonParameters), "handshake_failure"),
        (41, alert, Some(TlsFault::ClientCertificateRequired), "no_certificate"),
        (42, alert, Some(TlsFault::ClientCertificateRefused), "bad_certificate"),
        (46, alert, Some(TlsFault::ClientCertificateRefused), "certificate_unknown"),
        (47, alert, Some(TlsFault::HandshakeRefused), "illegal_parameter"),
        (48, alert, Some(TlsFault::ClientCertificateRefused), "unknown_ca"),
        (49, alert, Some(TlsFault::ClientCertificateRefused), "access_denied"),
        (50, alert, Some(TlsFault::HandshakeRefused), "decode_error"),
        (70, ErrorType::TlsProtocol, Some(TlsFault::Version), "protocol_version"),
        (71, handshake, Some(TlsFault::NoCommonParameters), "insufficient_security"),
        (80, alert, Some(TlsFault::ServerFault), "internal_error"),
        (86, ErrorType::TlsProtocol, Some(TlsFault::Version), "inappropriate_fallback"),
        (110, alert, Some(TlsFault::HandshakeRefused), "unsupported_extension"),
        (112, alert, Some(TlsFault::UnknownName), "unrecognized_name"),
        (116, alert, Some(TlsFault::ClientCertificateRequired), "certificate_required"),
        (120, alert, Some(TlsFault::Alpn), "no_application_protocol"),
        (200, alert, None, "of no known name"),
    ] {
        let run = after_hello(&format!("s: \\x15\\x03\\x03\\x00\\x02\\x02\\x{number:02x}\nsilence"), |_| {}).await;
        assert_eq!(found(&run), (Some(class), Some("tls"), fault), "{number}: {}", text(&run));
        assert_eq!(text(&run), format!("the server sent the fatal alert {number} ({name})"));
    }
}

#[tokio::test]
async fn what_is_no_tls_says_what_it_seems_to_be() {
    let protocol = ErrorType::TlsProtocol;
    for (script, class, fault, words) in [
        ("S: * OK ready\nsilence", protocol, Some(TlsFault::ClearText), "its first bytes were \"* OK ready"),
        ("S: * BYE too many connections\nclose", protocol, Some(TlsFault::ClearText), "\"* BYE too many c\""),
        ("S: HTTP/1.1 400 Bad Request\nclose", protocol, Some(TlsFault::Http), "\"HTTP/1.1 400 Bad\""),
        ("S: 220 mail ESMTP\nsilence", protocol, Some(TlsFault::NoTls), "\"220 mail ESMTP"),
        // A record of no version, and one of an impossible length.
        ("s: \\x16\\x09\\x09\\x00\\x02\\x02\\x00\nsilence", protocol, Some(TlsFault::NoTls), "(wrong version number)"),
        (
            "s: \\x16\\x03\\x03\\xff\\xff\\x02\\x00\nsilence",
            protocol,
            Some(TlsFault::NoTls),
            "(packet length too long)",
        ),
        (
            "close",
            ErrorType::Eof,
            Some(TlsFault::ClosedBeforeHello),
            "closed the connection before its first byte of TLS",
        ),
        ("reset", ErrorType::Reset, Some(TlsFault::ClosedBeforeHello), "before the server's first byte of TLS"),
        (
            "s: \\x16\\x03\\x03\\x00\\x40\\x02\nclose",
            ErrorType::Eof,
            Some(TlsFault::ClosedInHandshake),
            "in the handshake, without close_notify",
        ),
        (
            "s: \\x15\\x03\\x03\\x00\\x02\\x01\\x00\nclose",
            ErrorType::Eof,
            Some(TlsFault::ClosedInHandshake),
            "with close_notify",
        ),
    ] {
        let run = after_hello(script, |_| {}).await;
        assert_eq!(found(&run), (Some(class), Some("tls"), fault), "{script}: {}", text(&run));
        assert!(text(&run).contains(words), "{script}: {}", text(&run));
    }
}

/// A TLS 1.2 server that shows a certificate and signs its key exchange in its own way.
struct Flight {
    cipher: u16,
    renegotiation: bool,
    curve: u16,
    signature: u16,
}

const ECDHE_ECDSA: u16 = 0xc02b;
const P256: u16 = 23;
const ECDSA_SHA256: u16 = 0x0403;
const ECDSA_SHA1: u16 = 0x0203;

impl Flight {
    fn usual() -> Self {
        Self { cipher: ECDHE_ECDSA, renegotiation: true, curve: P256, signature: ECDSA_SHA256 }
    }

    fn bytes(&self, leaf: &[u8]) -> Vec<u8> {
        let three = |length: usize| u32::try_from(length).unwrap().to_be_bytes()[1..].to_vec();
        let message = |kind: u8, body: Vec<u8>| [vec![kind], three(body.len()), body].concat();
        let extensions: &[u8] = if self.renegotiation { &[0, 5, 0xff, 1, 0, 1, 0] } else { &[] };
        let cipher = self.cipher.to_be_bytes();
        let hello = [&[3, 3][..], &[7; 32], &[0], &cipher, &[0], extensions].concat();
        let list = [three(leaf.len()), leaf.to_vec()].concat();
        let certificate = [three(list.len()), list].concat();
        // The base point of P-256 is a point like any other.
        let group = openssl::ec::EcGroup::from_curve_name(openssl::nid::Nid::X9_62_PRIME256V1).unwrap();
        let mut context = openssl::bn::BigNumContext::new().unwrap();
        let form = openssl::ec::PointConversionForm::UNCOMPRESSED;
        let point = group.generator_opt().unwrap().to_bytes(&group, form, &mut context).unwrap();
        let (curve, scheme) = (self.curve.to_be_bytes(), self.signature.to_be_bytes());
        let signature = [0x30, 6, 2, 1, 1, 2, 1, 1];
        let exchange = [&[3], &curve[..], &[65], &point, &scheme, &[0, 8], &signature].concat();
        let body = [message(2, hello), message(11, certificate), message(12, exchange), message(14, vec![])].concat();
        [vec![22, 3, 3], u16::try_from(body.len()).unwrap().to_be_bytes().to_vec(), body].concat()
    }
}

#[tokio::test]
async fn a_fault_of_the_handshake_is_not_put_down_to_the_certificate() {
    let root = Authority::root();
    let file = root.file();
    let mut shown = parameters("test server", &[]);
    shown.subject_alt_names = vec![rcgen::SanType::IpAddress("127.0.0.1".parse().unwrap())];
    let leaf = root.issue(&shown);
    let handshake = ErrorType::TlsHandshake;
    for (what, flight, fault, words) in [
        (
            "no secure renegotiation",
            Flight { renegotiation: false, ..Flight::usual() },
            TlsFault::LegacyRenegotiation,
            "(unsafe legacy renegotiation disabled)",
        ),
        (
            "a cipher that nobody offered",
            Flight { cipher: 0x0004, ..Flight::usual() },
            TlsFault::NoCommonParameters,
            "cipher returned)",
        ),
        (
            "a curve that nobody offered",
            Flight { curve: 19, ..Flight::usual() },
            TlsFault::NoCommonParameters,
            "(wrong curve)",
        ),
        (
            "a signature by SHA-1",
            Flight { signature: ECDSA_SHA1, ..Flight::usual() },
            TlsFault::SignatureAlgorithm,
            "(wrong signature type)",
        ),
        ("a signature that is none", Flight::usual(), TlsFault::Altered, "(bad signature)"),
    ] {
        let bytes: String =
            flight.bytes(leaf.leaf()).iter().fold(String::new(), |all, byte| all + &format!("\\x{byte:02x}"));
        let run =
            after_hello(&format!("s: {bytes}\nsilence"), |target| target.tls.ca_file = Some(file.path().into())).await;
        assert_eq!(found(&run), (Some(handshake), Some("tls"), Some(fault)), "{what}: {}", text(&run));
        assert!(text(&run).ends_with(words), "{what}: {}", text(&run));
    }
    let bytes: String = Flight::usual()
        .bytes(b"no certificate")
        .iter()
        .fold(String::new(), |all, byte| all + &format!("\\x{byte:02x}"));
    let run = after_hello(&format!("s: {bytes}\nsilence"), |_| {}).await;
    assert_eq!(found(&run), (Some(handshake), Some("tls"), Some(TlsFault::MalformedCertificate)), "{}", text(&run));
}

/// Accepts one connection by OpenSSL with these settings, and greets if it gets as far as that.
fn accept(signed: &Signed, change: impl FnOnce(&mut SslAcceptorBuilder)) -> SocketAddr {
    let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).unwrap();
    builder.set_security_level(0);
    builder.set_certificate(&signed.0).unwrap();
    builder.set_private_key(&signed.1).unwrap();
    change(&mut builder);
    let acceptor = builder.build();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        // Which end finds the fault is what each test is about.
        if let Ok(mut stream) = acceptor.accept(stream) {
            drop(stream.write_all(b"* OK ready\r\n"));
            drop(stream.shutdown());
        }
    });
    address
}

/// A run to the server there by one who trusts this root.
async fn run_to(address: SocketAddr, root: &Signed, change: impl FnOnce(&mut Target)) -> Run {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), root.0.to_pem().unwrap()).unwrap();
    let mut target = target(address, Security::Tls);
    target.tls.ca_file = Some(file.path().into());
    change(&mut target);
    run_prepared(&prepare(target)).await
}

#[tokio::test]
async fn a_small_diffie_hellman_group_is_no_weak_certificate() {
    let root = sign(2048, MessageDigest::sha256(), None);
    let leaf = sign(2048, MessageDigest::sha256(), Some(&root));
    let address = accept(&leaf, |builder| {
        builder.set_max_proto_version(Some(SslVersion::TLS1_2)).unwrap();
        builder.set_cipher_list("DHE-RSA-AES128-GCM-SHA256:@SECLEVEL=0").unwrap();
        builder.set_tmp_dh(&Dh::get_1024_160().unwrap()).unwrap();
    });
    let run = run_to(address, &root, |_| {}).await;
    let expected = (Some(ErrorType::TlsHandshake), Some("tls"), Some(TlsFault::SmallDhGroup));
    assert_eq!(found(&run), expected, "{}", text(&run));
    assert_eq!(text(&run), "the server's Diffie-Hellman group is too small (dh key too small)");
}

#[tokio::test]
async fn old_versions_and_other_ciphers_have_words_of_their_own() {
    let root = sign(2048, MessageDigest::sha256(), None);
    let leaf = sign(2048, MessageDigest::sha256(), Some(&root));
    let old = accept(&leaf, |builder| {
        builder.clear_options(openssl::ssl::SslOptions::NO_TLSV1 | openssl::ssl::SslOptions::NO_TLSV1_1);
        builder.set_min_proto_version(Some(SslVersion::TLS1)).unwrap();
        builder.set_max_proto_version(Some(SslVersion::TLS1)).unwrap();
        builder.set_cipher_list("ALL:@SECLEVEL=0").unwrap();
    });
    let run = run_to(old, &root, |_| {}).await;
    let expected = (Some(ErrorType::TlsProtocol), Some("tls"), Some(TlsFault::Version));
    assert_eq!(found(&run), expected, "{}", text(&run));
    let other = accept(&leaf, |builder| {
        builder.set_max_proto_version(Some(SslVersion::TLS1_2)).unwrap();
        builder.set_cipher_list("ECDHE-ECDSA-AES128-GCM-SHA256").unwrap();
    });
    let run = run_to(other, &root, |_| {}).await;
    let expected = (Some(ErrorType::TlsHandshake), Some("tls"), Some(TlsFault::NoCommonParameters));
    assert_eq!(found(&run), expected, "{}", text(&run));
}

#[tokio::test]
async fn a_client_certificate_that_is_missing_or_unknown_is_named_in_both_versions() {
    let root = sign(2048, MessageDigest::sha256(), None);
    let leaf = sign(2048, MessageDigest::sha256(), Some(&root));
    let pair = rcgen::KeyPair::generate().unwrap();
    let own = rcgen::CertificateParams::new(Vec::new()).unwrap().self_signed(&pair).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (cert, key) = (directory.path().join("client.pem"), directory.path().join("client.key"));
    std::fs::write(&cert, own.pem()).unwrap();
    std::fs::write(&key, pair.serialize_pem()).unwrap();
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let (alert, handshake) = (ErrorType::TlsAlert, ErrorType::TlsHandshake);
    for (version, shown, class, step, fault) in [
        (SslVersion::TLS1_2, false, handshake, "tls", TlsFault::RefusedAfterCertificate),
        // After the handshake, from the client's side.
        (SslVersion::TLS1_3, false, alert, "greeting", TlsFault::ClientCertificateRequired),
        (SslVersion::TLS1_2, true, alert, "tls", TlsFault::ClientCertificateRefused),
        (SslVersion::TLS1_3, true, alert, "greeting", TlsFault::ClientCertificateRefused),
    ] {
        let address = accept(&leaf, |builder| {
            builder.set_min_proto_version(Some(version)).unwrap();
            builder.set_max_proto_version(Some(version)).unwrap();
            builder.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
        });
        let run = run_to(address, &root, |target| {
            if shown {
                (target.tls.client_cert, target.tls.client_key) = (Some(cert.clone()), Some(key.clone()));
            }
        })
        .await;
        assert_eq!(found(&run), (Some(class), Some(step), Some(fault)), "{version:?} {shown}: {}", text(&run));
    }
}
