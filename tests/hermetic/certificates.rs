//! Certificates that a server shows, in TLS 1.2 and 1.3: which are believed, for which names, and what is told of the rest.

use std::net::SocketAddr;

use imaptrace::plan::{Host, Security, Target};
use imaptrace_record::{ErrorType, Run, RunOutcome, ServerText, StepName, Timestamp, TlsFacts, TlsFault};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, SanType};
use tokio::sync::watch;
use tokio_rustls::rustls::{SupportedProtocolVersion, version};

use crate::{
    names::GOOD,
    support::{
        names::{NO_ERROR, NameServer},
        papers::{Authority, Front, Hello, Paper, parameters},
        program::wait_until,
        run::{prepare, run_with, target},
        script::Script,
    },
};

const HOST: &str = "mail.example.test";
const BOTH: [&SupportedProtocolVersion; 2] = [&version::TLS12, &version::TLS13];

/// A run to `host`, which is looked up and found at a server that shows this paper and takes one of these protocols.
async fn run_to(
    host: &str,
    paper: &Paper,
    (versions, protocols): (&[&'static SupportedProtocolVersion], &[&str]),
    change: impl FnOnce(&mut Target),
) -> (Run, Vec<Hello>) {
    let behind = Script::play(GOOD).await;
    let front = Front::start(paper, versions, protocols, behind.address).await;
    let names = NameServer::start(|question| vec![question.answer(NO_ERROR, &["127.0.0.1".parse().unwrap()])]).await;
    let mut target = target(front.address, Security::Tls);
    target.endpoint.host = Host::parse(host).unwrap();
    change(&mut target);
    let (_keep, cancel) = watch::channel(false);
    let run = run_with(&prepare(target), names.dns(), cancel).await;
    (run, front.heard())
}

/// A run to the usual host by one who trusts this root.
async fn shown(root: &Authority, paper: &Paper, version: &'static SupportedProtocolVersion) -> Run {
    let file = root.file();
    run_to(HOST, paper, (&[version], &[]), |target| target.tls.ca_file = Some(file.path().to_owned())).await.0
}

fn facts(run: &Run) -> &TlsFacts {
    run.steps.iter().find(|step| step.name == "tls").unwrap().tls.as_ref().unwrap()
}

fn text(run: &Run) -> &str {
    run.failing_step().unwrap().text.as_ref().unwrap().as_str()
}

fn usual() -> CertificateParams {
    parameters("test server", &[HOST])
}

fn changed(change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut parameters = usual();
    change(&mut parameters);
    parameters
}

/// Below a root, each below the one before.
fn deep(root: &Authority, levels: usize) -> Paper {
    let mut authority = root.below("level 1", |_| {});
    for level in 2..=levels {
        authority = authority.below(&format!("level {level}"), |_| {});
    }
    authority.issue(&usual())
}

#[tokio::test]
async fn a_certificate_that_cannot_be_believed_has_its_class_and_no_byte_of_imap_follows_it() {
    let (root, other) = (Authority::root(), Authority::root_named("their root"));
    let (same_name, between) = (Authority::root(), root.below("test issuer", |_| {}));
    let old = root.below("old issuer", |parameters| parameters.not_after = rcgen::date_time_ymd(2021, 1, 1));
    let new = root.below("new issuer", |parameters| parameters.not_before = rcgen::date_time_ymd(2039, 1, 1));
    let for_clients = changed(|leaf| leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]);
    for (what, paper, class, fault, words) in [
        (
            "expired",
            root.issue(&changed(|leaf| leaf.not_after = rcgen::date_time_ymd(2021, 1, 1))),
            ErrorType::TlsCertExpired,
            Some((TlsFault::LeafExpired, 0)),
            "certificate has expired: at depth 0 of the chain, CN=test server, expired on 2021-01-01",
        ),
        (
            "an expired issuer",
            old.issue(&usual()),
            ErrorType::TlsCertExpired,
            Some((TlsFault::IntermediateExpired, 1)),
            "certificate has expired: at depth 1 of the chain, CN=old issuer, expired on 2021-01-01",
        ),
        (
            "not yet valid",
            root.issue(&changed(|leaf| leaf.not_before = rcgen::date_time_ymd(2039, 1, 1))),
            ErrorType::TlsCertNotYetValid,
            Some((TlsFault::LeafNotYetValid, 0)),
            "certificate is not yet valid: at depth 0 of the chain, CN=test server, is valid from 2039-01-01",
        ),
        (
            "an issuer not yet valid",
            new.issue(&usual()),
            ErrorType::TlsCertNotYetValid,
            Some((TlsFault::IssuerNotYetValid, 1)),
            "certificate is not yet valid: at depth 1 of the chain, CN=new issuer, is valid from 2039-01-01",
        ),
        (
            "another name",
            root.issue(&parameters("test server", &["other.example.test"])),
            ErrorType::TlsCertName,
            None,
            "hostname mismatch",
        ),
        (
            "self-signed",
            Paper::self_signed(&usual()),
            ErrorType::TlsCertUntrusted,
            Some((TlsFault::SelfSigned, 0)),
            "self-signed certificate: at depth 0 of the chain, CN=test server, is its own issuer and not trusted here",
        ),
        (
            "an unknown root",
            other.issue(&usual()),
            ErrorType::TlsCertUntrusted,
            Some((TlsFault::IssuerMissing, 0)),
            "unable to get local issuer certificate: at depth 0 of the chain, CN=test server: its issuer, CN=their root, \
             was not sent and is not trusted here",
        ),
        (
            "an unknown root above an issuer that was sent",
            other.below("their issuer", |_| {}).issue(&usual()),
            ErrorType::TlsCertUntrusted,
            Some((TlsFault::RootUntrusted, 1)),
            "unable to get local issuer certificate: at depth 1 of the chain, CN=their issuer: its issuer, CN=their root, \
             was not sent and is not trusted here",
        ),
        (
            "no issuer in the chain",
            between.issue(&usual()).alone(),
            ErrorType::TlsCertUntrusted,
            Some((TlsFault::IssuerMissing, 0)),
            "unable to get local issuer certificate: at depth 0 of the chain, CN=test server: its issuer, CN=test issuer, \
             was not sent and is not trusted here",
        ),
        ("another root of the same name", same_name.issue(&usual()), ErrorType::TlsCertUntrusted, None, ""),
        ("for clients alone", root.issue(&for_clients), ErrorType::TlsCertUntrusted, None, ""),
        ("signed by a server", signed_by_a_server(&root), ErrorType::TlsCertUntrusted, None, ""),
        ("101 issuers", deep(&root, 101), ErrorType::TlsCertUntrusted, None, ""),
    ] {
        for version in BOTH {
            let run = shown(&root, &paper, version).await;
            assert_eq!(run.outcome, RunOutcome::Failed, "{what}");
            assert_eq!(
                (run.error_type, run.failed_step.as_ref().map(StepName::as_str)),
                (Some(class), Some("tls")),
                "{what}: {}",
                text(&run)
            );
            let start = "certificate refused for mail.example.test: ";
            assert!(text(&run).starts_with(start), "{what}: {}", text(&run));
            // TLS 1.3 encrypts it, and the library hands out no certificate of a failed handshake: it is read afterwards.
            let seen = version == &version::TLS12;
            if let Some((fault, depth)) = fault.filter(|_| seen) {
                assert_eq!(run.failing_step().unwrap().tls_fault, Some(fault), "{what}");
                assert_eq!(facts(&run).refused_depth, Some(depth), "{what}");
                assert_eq!(text(&run), format!("{start}{words}"), "{what}");
            }
        }
    }
}

/// A certificate that was signed with the key of one that may not sign.
fn signed_by_a_server(root: &Authority) -> Paper {
    root.below("test server", |parameters| parameters.is_ca = rcgen::IsCa::ExplicitNoCa).issue(&usual())
}

#[tokio::test]
async fn a_chain_of_twenty_is_followed_to_its_root() {
    let root = Authority::root();
    for version in BOTH {
        let run = shown(&root, &deep(&root, 20), version).await;
        assert_eq!(run.outcome, RunOutcome::Passed, "{:?}", run.failing_step());
    }
}

#[tokio::test]
async fn dates_of_a_certificate_that_is_refused_are_on_record_where_it_passed_in_clear_text() {
    let root = Authority::root();
    let paper = root.issue(&changed(|leaf| leaf.not_after = rcgen::date_time_ymd(2021, 1, 1)));
    let run = shown(&root, &paper, &version::TLS12).await;
    assert_eq!(run.error_type, Some(ErrorType::TlsCertExpired));
    let details = facts(&run);
    assert_eq!(details.not_after, Timestamp::from_epoch_seconds(1_609_459_200));
    assert_eq!(details.subject.as_ref().map(ServerText::as_str), Some("CN=test server"));
    assert_eq!(details.issuer.as_ref().map(ServerText::as_str), Some("CN=test root"));
    assert_eq!(details.sha256.as_ref().map(String::len), Some(64));
    assert_eq!(run.server.certificate_not_after, details.not_after);
    // TLS 1.3 encrypts it, and the library tells nothing of a handshake that failed.
    let run = shown(&root, &paper, &version::TLS13).await;
    assert_eq!((run.error_type, facts(&run).not_after), (Some(ErrorType::TlsCertExpired), None));
}

#[tokio::test]
async fn the_dates_of_both_versions_are_the_same_where_the_certificate_is_believed() {
    let root = Authority::root();
    let paper = root.issue(&usual());
    let (old, new) = (shown(&root, &paper, &version::TLS12).await, shown(&root, &paper, &version::TLS13).await);
    assert_eq!((facts(&old).version.as_deref(), facts(&new).version.as_deref()), (Some("1.2"), Some("1.3")));
    assert!(facts(&old).not_after.is_some());
    assert_eq!((&facts(&old).sha256, facts(&old).not_after), (&facts(&new).sha256, facts(&new).not_after));
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

#[tokio::test]
async fn a_name_is_sought_in_subject_alt_name_alone_and_a_star_stands_for_one_whole_label() {
    let root = Authority::root();
    let file = root.file();
    for (host, common, names, good) in [
        (HOST, "x", vec![dns("other.test"), dns(HOST)], true),
        (HOST, "x", vec![dns("MAIL.Example.TEST")], true),
        (HOST, "x", vec![dns("*.example.test")], true),
        ("a.mail.example.test", "x", vec![dns("*.example.test")], false),
        ("example.test", "x", vec![dns("*.example.test")], false),
        (HOST, "x", vec![dns("m*.example.test")], false),
        (HOST, "x", vec![dns("mail.*.test")], false),
        (HOST, "x", vec![dns("*.test")], false),
        (HOST, "x", vec![dns("*")], false),
        // A common name is any text that reads like a host.
        (HOST, HOST, vec![], false),
        (HOST, HOST, vec![dns("other.test")], false),
        (HOST, HOST, vec![SanType::Rfc822Name("a@example.test".try_into().unwrap())], false),
        (HOST, HOST, vec![SanType::IpAddress("127.0.0.1".parse().unwrap())], false),
        ("127.0.0.1", "x", vec![SanType::IpAddress("127.0.0.1".parse().unwrap())], true),
        ("127.0.0.1", "x", vec![SanType::IpAddress("127.0.0.2".parse().unwrap())], false),
        ("127.0.0.1", "127.0.0.1", vec![dns("127.0.0.1")], false),
        ("127.0.0.1", "127.0.0.1", vec![], false),
    ] {
        let mut leaf = parameters(common, &[]);
        leaf.subject_alt_names.clone_from(&names);
        let paper = root.issue(&leaf);
        let (run, _) = run_to(host, &paper, (&BOTH, &[]), |target| target.tls.ca_file = Some(file.path().into())).await;
        let class = (!good).then_some(ErrorType::TlsCertName);
        assert_eq!(run.error_type, class, "{host} with CN={common} and {names:?}: {:?}", run.failing_step());
    }
}

#[tokio::test]
async fn the_name_in_messages_and_queries_is_in_a_labels_and_without_the_last_dot() {
    let root = Authority::root();
    let file = root.file();
    for (host, server_name, sought) in [
        (HOST, None, Some(HOST)),
        ("MAIL.example.test.", None, Some(HOST)),
        ("bücher.example.test", None, Some("xn--bcher-kva.example.test")),
        // Non-transitional (UTS 46): ß stays itself.
        ("straße.example.test", None, Some("xn--strae-oqa.example.test")),
        ("127.0.0.1", None, None),
        ("127.0.0.1", Some(HOST), Some(HOST)),
        ("other.example.test", Some(HOST), Some(HOST)),
    ] {
        let mut leaf = parameters("x", &[]);
        let name = sought.map_or_else(|| SanType::IpAddress("127.0.0.1".parse().unwrap()), dns);
        leaf.subject_alt_names = vec![name];
        let (run, heard) = run_to(host, &root.issue(&leaf), (&BOTH, &["imap"]), |target| {
            target.tls.ca_file = Some(file.path().into());
            target.tls.server_name = server_name.map(str::to_owned);
        })
        .await;
        assert_eq!(run.outcome, RunOutcome::Passed, "{host}: {:?}", run.failing_step());
        assert_eq!(heard, [Hello { name: sought.map(str::to_owned), protocols: vec!["imap".into()] }], "{host}");
    }
}

#[tokio::test]
async fn alpn_may_be_taken_or_passed_over_and_a_server_for_something_else_says_so() {
    let root = Authority::root();
    let (file, paper) = (root.file(), root.issue(&usual()));
    let trusting = |target: &mut Target| target.tls.ca_file = Some(file.path().into());
    for protocols in [&[][..], &["imap"]] {
        let (run, _) = run_to(HOST, &paper, (&BOTH, protocols), trusting).await;
        assert_eq!(run.outcome, RunOutcome::Passed, "{protocols:?}: {:?}", run.failing_step());
    }
    let without = |target: &mut Target| {
        trusting(target);
        target.tls.alpn = false;
    };
    let (run, heard) = run_to(HOST, &paper, (&BOTH, &["h2", "http/1.1"]), without).await;
    assert_eq!(run.outcome, RunOutcome::Passed, "{:?}", run.failing_step());
    assert_eq!(heard, [Hello { name: Some(HOST.into()), protocols: vec![] }]);
    let (run, _) = run_to(HOST, &paper, (&BOTH, &["h2", "http/1.1"]), trusting).await;
    assert_eq!(
        (run.error_type, run.failed_step.as_ref().map(StepName::as_str)),
        (Some(ErrorType::TlsAlert), Some("tls"))
    );
    assert_eq!(text(&run), "the server sent the fatal alert 120 (no_application_protocol)");
    assert_eq!(run.failing_step().unwrap().tls_fault, Some(TlsFault::Alpn));
}

#[tokio::test]
async fn a_session_that_is_over_ends_with_our_close_notify() {
    let root = Authority::root();
    let (file, paper) = (root.file(), root.issue(&usual()));
    for version in BOTH {
        let behind = Script::play(GOOD).await;
        let front = Front::start(&paper, &[version], &[], behind.address).await;
        let mut target = target(front.address, Security::Tls);
        target.tls.ca_file = Some(file.path().into());
        target.tls.server_name = Some(HOST.into());
        let run = crate::support::run::run(target).await;
        assert_eq!(run.outcome, RunOutcome::Passed, "{:?}", run.failing_step());
        assert!(behind.heard().await.iter().any(|line| line.ends_with(" LOGOUT")));
        let ends = tokio::task::spawn_blocking(move || {
            wait_until("the connection is over", || Some(front.ends()).filter(|ends| !ends.is_empty()))
        });
        assert_eq!(ends.await.unwrap(), [true]);
    }
}

/// Keys and signatures that no library but OpenSSL still makes, and that only when it is asked to forget its caution.
#[cfg(target_os = "linux")]
pub(crate) mod weak {
    use openssl::{
        asn1::Asn1Time,
        bn::BigNum,
        hash::MessageDigest,
        pkey::{PKey, Private},
        rsa::Rsa,
        ssl::{SslAcceptor, SslMethod, SslOptions, SslVersion},
        x509::{
            X509, X509Name,
            extension::{BasicConstraints, SubjectAlternativeName},
        },
    };

    use super::*;

    pub(crate) type Signed = (X509, PKey<Private>);

    pub(crate) fn sign(bits: u32, digest: MessageDigest, issuer: Option<&Signed>) -> Signed {
        let key = PKey::from_rsa(Rsa::generate(bits).unwrap()).unwrap();
        let mut name = X509Name::builder().unwrap();
        name.append_entry_by_text("CN", if issuer.is_some() { "weak server" } else { "weak root" }).unwrap();
        let name = name.build();
        let mut builder = X509::builder().unwrap();
        builder.set_version(2).unwrap();
        builder
            .set_serial_number(&BigNum::from_u32(1 + u32::from(issuer.is_some())).unwrap().to_asn1_integer().unwrap())
            .unwrap();
        builder.set_subject_name(&name).unwrap();
        builder.set_issuer_name(issuer.map_or(&name, |(issuer, _)| issuer.subject_name())).unwrap();
        builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
        builder.set_not_after(&Asn1Time::days_from_now(365).unwrap()).unwrap();
        builder.set_pubkey(&key).unwrap();
        if issuer.is_some() {
            let names =
                SubjectAlternativeName::new().ip("127.0.0.1").build(&builder.x509v3_context(None, None)).unwrap();
            builder.append_extension(names).unwrap();
        } else {
            builder.append_extension(BasicConstraints::new().critical().ca().build().unwrap()).unwrap();
        }
        builder.sign(issuer.map_or(&key, |(_, key)| key), digest).unwrap();
        (builder.build(), key)
    }

    /// Shows a leaf and the one who signed it to whoever comes, until the client will have no more of it.
    fn show((leaf, key): Signed, between: Option<X509>) -> SocketAddr {
        let mut builder = SslAcceptor::mozilla_intermediate(SslMethod::tls_server()).unwrap();
        builder.set_security_level(0);
        builder.set_certificate(&leaf).unwrap();
        builder.set_private_key(&key).unwrap();
        if let Some(between) = between {
            builder.add_extra_chain_cert(between).unwrap();
        }
        accept(builder.build())
    }

    fn accept(acceptor: SslAcceptor) -> SocketAddr {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            assert!(acceptor.accept(stream).is_err(), "it was believed");
        });
        address
    }

    #[tokio::test]
    async fn tls_1_1_is_no_tls() {
        let root = sign(2048, MessageDigest::sha256(), None);
        let (leaf, key) = sign(2048, MessageDigest::sha256(), Some(&root));
        let mut builder = SslAcceptor::mozilla_intermediate(SslMethod::tls_server()).unwrap();
        builder.set_security_level(0);
        builder.clear_options(SslOptions::NO_TLSV1_1 | SslOptions::NO_TLSV1);
        builder.set_min_proto_version(Some(SslVersion::TLS1)).unwrap();
        builder.set_max_proto_version(Some(SslVersion::TLS1_1)).unwrap();
        builder.set_certificate(&leaf).unwrap();
        builder.set_private_key(&key).unwrap();
        let mut target = target(accept(builder.build()), Security::Tls);
        // Not even who checks nothing speaks it.
        target.tls.insecure = true;
        let run = crate::support::run::run(target).await;
        assert_eq!(
            (run.error_type, run.failed_step.as_ref().map(StepName::as_str)),
            (Some(ErrorType::TlsProtocol), Some("tls"))
        );
    }

    #[tokio::test]
    async fn a_key_of_1024_bits_and_a_signature_by_sha_1_are_weak() {
        let root = sign(2048, MessageDigest::sha256(), None);
        let small_root = sign(1024, MessageDigest::sha256(), None);
        for (what, leaf, root, fault, words) in [
            (
                "a small key",
                sign(1024, MessageDigest::sha256(), Some(&root)),
                &root,
                TlsFault::LeafWeak,
                "has the key RSA 1024",
            ),
            (
                "SHA-1",
                sign(2048, MessageDigest::sha1(), Some(&root)),
                &root,
                TlsFault::LeafWeak,
                "is signed with SHA-1",
            ),
            ("MD5", sign(2048, MessageDigest::md5(), Some(&root)), &root, TlsFault::LeafWeak, "is signed with MD5"),
            (
                "a small root",
                sign(2048, MessageDigest::sha256(), Some(&small_root)),
                &small_root,
                TlsFault::IssuerWeak,
                "has the key RSA 1024",
            ),
        ] {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), root.0.to_pem().unwrap()).unwrap();
            let mut target = target(show(leaf, None), Security::Tls);
            target.tls.ca_file = Some(file.path().into());
            let run = crate::support::run::run(target).await;
            assert_eq!(
                (run.error_type, run.failed_step.as_ref().map(StepName::as_str)),
                (Some(ErrorType::TlsCertWeak), Some("tls")),
                "{what}: {}",
                text(&run)
            );
            assert!(facts(&run).not_after.is_some(), "{what}: TLS 1.2 shows it in clear text");
            assert_eq!(run.failing_step().unwrap().tls_fault, Some(fault), "{what}");
            assert!(text(&run).ends_with(words), "{what}: {}", text(&run));
        }
    }
}
