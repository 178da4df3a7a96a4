//! Whole exchanges through a session, with a peer that keeps to the rules and with peers that do not.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use proptest::prelude::*;

use super::*;
use imaptrace_testkit::ScramPeer as Peer;

use crate::{
    ChallengeReply, Command, Event, Limits, Mechanism as Sasl, ProtocolViolation, Session as Imap, SessionState,
};

const USER: &str = "user";
const PASSWORD: &str = "pencil";

/// A session that has just sent AUTHENTICATE.
struct Talk {
    imap: Imap,
    first: String,
}

impl Talk {
    fn begin(mechanism: Sasl, user: &str, password: &str) -> Self {
        let password = Secret::new(password.into());
        let mut imap = Imap::new(Limits { line: 1 << 20, ..Limits::default() });
        let greeting = b"* OK [CAPABILITY IMAP4rev1 SASL-IR] hi\r\n";
        assert_eq!(imap.receive(greeting).unwrap().0, greeting.len());
        imap.take_progress();
        let credentials = Credentials { authzid: None, user, password: &password };
        let parts = imap.begin("t1", &Command::Authenticate { mechanism, credentials }).parts;
        let line = String::from_utf8(parts[0].bytes.to_vec()).unwrap();
        imap.sent(false, true);
        let first = line.trim_end().rsplit(' ').next().unwrap();
        Self { imap, first: String::from_utf8(STANDARD.decode(first).unwrap()).unwrap() }
    }

    fn scram() -> Self {
        Self::begin(Sasl::ScramSha256, USER, PASSWORD)
    }

    fn peer(&self) -> Peer {
        Peer::new(&self.first)
    }

    /// Passes bytes of the server to the session: the last event, or a violation.
    fn receive(&mut self, bytes: &[u8]) -> Result<&'static str, ProtocolViolation> {
        let (mut rest, mut last) = (bytes, "nothing");
        while !rest.is_empty() {
            let (taken, event) = self.imap.receive(rest)?;
            rest = &rest[taken..];
            last = match event {
                Some(Event::Continuation) => "continuation",
                Some(Event::Tagged(status)) => status.condition.as_str(),
                _ => last,
            };
        }
        Ok(last)
    }

    /// The answer to a challenge.
    fn answer(&mut self, challenge: &[u8]) -> ChallengeReply {
        let line = format!("+ {}\r\n", STANDARD.encode(challenge));
        assert_eq!(self.receive(line.as_bytes()), Ok("continuation"));
        self.imap.answer().unwrap()
    }

    /// The answer to a challenge, all work done, as what is said, decoded; or why the exchange is cancelled.
    fn says(&mut self, challenge: &str) -> Result<String, SaslError> {
        let mut answer = self.answer(challenge.as_bytes());
        if let ChallengeReply::Hash(work) = answer {
            answer = self.imap.hashed(work.run());
        }
        match answer {
            ChallengeReply::Line(line) => {
                self.imap.sent(false, true);
                let text = line.bytes.strip_suffix(b"\r\n").unwrap();
                Ok(String::from_utf8(STANDARD.decode(text).unwrap()).unwrap())
            }
            ChallengeReply::Hash(_) => panic!("work after work"),
            ChallengeReply::Cancel(error) => Err(error),
        }
    }
}

#[test]
fn the_peer_of_these_tests_computes_what_rfc_7677_does() {
    let mut peer = Peer::new("n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
    let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
    let first = peer.first("%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0", &salt, 4096);
    assert_eq!(first, "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096");
    let last =
        "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    assert_eq!(peer.last(last, "pencil").as_deref(), Some("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="));
    assert_eq!(peer.last(last, "pencil "), None);
}

#[test]
fn the_printable_forms_of_hashing_show_neither_password_nor_challenge() {
    let mut talk = Talk::scram();
    let first = talk.peer().first("planted", b"salt", 4096);
    let ChallengeReply::Hash(work) = talk.answer(first.as_bytes()) else { panic!("no hashing") };
    assert_eq!(format!("{work:?}"), "HashTask");
    assert_eq!(format!("{:?}", work.run()), "HashResult");
}

#[test]
fn both_sides_prove_that_they_have_the_password() {
    for (user, password, as_sent) in [
        (USER, PASSWORD, "n=user"),
        ("a,b=c@example.org", "two words \"q\" \\ 100% {5}", "n=a=2Cb=3Dc@example.org"),
        ("bücher", "pässwörd-日本", "n=bücher"),
    ] {
        let mut talk = Talk::begin(Sasl::ScramSha256, user, password);
        assert!(talk.first.starts_with(&format!("n,,{as_sent},r=")), "{}", talk.first);
        let mut peer = talk.peer();
        assert!(peer.nonce().len() >= 18, "a nonce that can be guessed: {}", peer.nonce());
        let first = peer.first("more", b"any salt", 4096);
        let proof = talk.says(&first).unwrap();
        let last = peer.last(&proof, password).expect("the proof is that of the password");
        assert!(!talk.imap.is_between_commands());
        assert_eq!(talk.says(&last).as_deref(), Ok(""));
        assert!(talk.imap.is_between_commands());
        assert_eq!(talk.receive(b"t1 OK in\r\n"), Ok("OK"));
        assert_eq!(talk.imap.state(), SessionState::Authenticated);
    }
}

#[test]
fn a_nonce_is_never_used_twice() {
    assert_ne!(Talk::scram().peer().nonce(), Talk::scram().peer().nonce());
}

#[test]
fn a_password_is_prepared_by_rfc_4013_and_one_that_it_forbids_is_sent_as_it_is() {
    // A soft hyphen is nothing, a Roman nine is two letters; U+0007 is forbidden.
    for (typed, stored) in [("I\u{ad}X", "IX"), ("\u{2168}", "IX"), ("a\u{a0}b", "a b"), ("a\u{7}b", "a\u{7}b")] {
        let mut talk = Talk::begin(Sasl::ScramSha256, USER, typed);
        let mut peer = talk.peer();
        let proof = talk.says(&peer.first("x", b"salt", 4096)).unwrap();
        assert!(peer.last(&proof, stored).is_some(), "{typed:?}");
    }
}

#[test]
fn what_breaks_the_rules_is_refused_before_anything_is_hashed() {
    let malformed = |why| SaslError::Malformed(why);
    let iterations = |count: &str| SaslError::Iterations(count.to_owned());
    for (message, error) in [
        ("r=NONCEx,s=c2FsdA==,i=2147483648", iterations("2147483648")),
        ("r=NONCEx,s=c2FsdA==,i=4294967296", iterations("4294967296")),
        ("r=NONCEx,s=c2FsdA==,i=99999999999999999999999", iterations("99999999999999999999")),
        ("r=NONCEx,s=c2FsdA==,i=600001", iterations("600001")),
        ("r=NONCEx,s=c2FsdA==,i=4095", iterations("4095")),
        ("r=NONCEx,s=c2FsdA==,i=1", iterations("1")),
        ("r=NONCEx,s=c2FsdA==,i=0", iterations("0")),
        ("r=NONCEx,s=c2FsdA==,i=04096", malformed("its iteration count is not a number")),
        ("r=NONCEx,s=c2FsdA==,i=+4096", malformed("its iteration count is not a number")),
        ("r=NONCEx,s=c2FsdA==,i=-1", malformed("its iteration count is not a number")),
        ("r=NONCEx,s=c2FsdA==,i=", malformed("its iteration count is not a number")),
        ("r=NONCEx,s=c2FsdA==,i=٤٠٩٦", malformed("its iteration count is not a number")),
        ("r=NONCEx,s=c2FsdA==,i", malformed("there is no iteration count behind the salt")),
        ("r=NONCEx,s=c2FsdA==,", malformed("there is no iteration count behind the salt")),
        ("r=NONCEx,s=c2FsdA==", malformed("there is no iteration count behind the salt")),
        ("r=NONCEx,s=,i=4096", malformed("its salt is not base64")),
        ("r=NONCEx,s=c2F,i=4096", malformed("its salt is not base64")),
        ("r=NONCEx,s,i=4096", malformed("there is no salt behind the nonce")),
        ("r=NONCEx,,i=4096", malformed("there is no salt behind the nonce")),
        ("r=NONCEx,i=4096,s=c2FsdA==", malformed("there is no salt behind the nonce")),
        ("r=NONCEx", malformed("there is no salt behind the nonce")),
        ("r=NONCE,s=c2FsdA==,i=4096", SaslError::Nonce),
        ("r=,s=c2FsdA==,i=4096", SaslError::Nonce),
        ("r=x,s=c2FsdA==,i=4096", SaslError::Nonce),
        ("r=xNONCE,s=c2FsdA==,i=4096", SaslError::Nonce),
        ("r=NONCE\u{7f},s=c2FsdA==,i=4096", SaslError::Nonce),
        ("r=NONCE y,s=c2FsdA==,i=4096", SaslError::Nonce),
        ("r=NONCEé,s=c2FsdA==,i=4096", SaslError::Nonce),
        ("m=x,r=NONCEx,s=c2FsdA==,i=4096", SaslError::Mandatory),
        ("r=NONCEx,m=x,s=c2FsdA==,i=4096", SaslError::Mandatory),
        ("r=NONCEx,s=c2FsdA==,i=4096,m=x", SaslError::Mandatory),
        ("r=NONCEx,s=c2FsdA==,i=4096,x=y", malformed("it holds an extension")),
        ("r=NONCEx,s=c2FsdA==,i=4096,", malformed("it holds an extension")),
        ("v=NONCE", malformed("it does not begin with a nonce")),
        ("r", malformed("it does not begin with a nonce")),
        ("\0", malformed("it does not begin with a nonce")),
        ("", malformed("it does not begin with a nonce")),
    ] {
        let mut talk = Talk::scram();
        let message = message.replace("NONCE", talk.peer().nonce());
        // No work is asked for, so none can be done.
        match talk.answer(message.as_bytes()) {
            ChallengeReply::Cancel(found) => assert_eq!(found, error, "{message}"),
            other => panic!("{message}: {other:?}"),
        }
        // And no password helps a server that then lets us in.
        assert_eq!(talk.receive(b"t1 OK in\r\n"), Err(ProtocolViolation::Unproven), "{message}");
    }
    let mut talk = Talk::scram();
    assert!(matches!(talk.answer(b"r=\xff\xfe,s=\xc3\x28,i=4096"), ChallengeReply::Cancel(SaslError::Malformed(_))));
}

#[test]
fn the_most_and_the_least_iterations_that_are_taken_are_work() {
    for count in [4096, 600_000] {
        let mut talk = Talk::scram();
        let first = talk.peer().first("x", b"salt", count);
        assert!(matches!(talk.answer(first.as_bytes()), ChallengeReply::Hash(_)), "{count}");
    }
}

#[test]
fn a_challenge_that_is_no_base64_is_refused() {
    for text in ["cg", "c g==", "r=x", "cg==\u{fffd}", "\u{1b}[2J", "=", "cg==cg=="] {
        let mut talk = Talk::scram();
        assert_eq!(talk.receive(format!("+ {text}\r\n").as_bytes()), Ok("continuation"));
        assert!(matches!(talk.imap.answer(), Some(ChallengeReply::Cancel(SaslError::Base64))), "{text}");
    }
}

#[test]
fn a_challenge_larger_than_64_kib_is_refused_where_lines_may_be_that_long() {
    let mut talk = Talk::scram();
    let salt = vec![b'A'; 64 << 10];
    let first = talk.peer().first("x", &salt, 4096);
    assert!(matches!(talk.answer(first.as_bytes()), ChallengeReply::Cancel(SaslError::TooLarge)));
    // As long as it may be, and no message of SCRAM.
    let mut talk = Talk::scram();
    let longest = [b"+ ".as_slice(), &vec![b'A'; 64 << 10], b"\r\n"].concat();
    assert_eq!(talk.receive(&longest), Ok("continuation"));
    let answer = talk.imap.answer();
    assert!(matches!(&answer, Some(ChallengeReply::Cancel(error)) if *error != SaslError::TooLarge), "{answer:?}");
}

#[test]
fn a_server_without_the_password_is_detected() {
    let mut talk = Talk::scram();
    let mut peer = talk.peer();
    let proof = talk.says(&peer.first("x", b"salt", 4096)).unwrap();
    let last = peer.last(&proof, PASSWORD).unwrap();
    let other = format!("v={}", STANDARD.encode([7; 32]));
    for (message, error) in [
        (other.as_str(), SaslError::Signature),
        (last.trim_end_matches('='), SaslError::Malformed("its signature is not base64")),
        ("v=", SaslError::Signature),
        ("v=AAAA", SaslError::Signature),
        ("v", SaslError::Malformed("there is no signature in its last")),
        ("", SaslError::Malformed("there is no signature in its last")),
        ("x=y", SaslError::Malformed("there is no signature in its last")),
        (&last.replace("v=", "m=x,v="), SaslError::Malformed("there is no signature in its last")),
    ] {
        let mut talk = Talk::scram();
        let first = talk.peer().first("x", b"salt", 4096);
        talk.says(&first).unwrap();
        assert_eq!(talk.says(message), Err(error), "{message}");
        assert_eq!(talk.receive(b"t1 OK in\r\n"), Err(ProtocolViolation::Unproven), "{message}");
    }
}

#[test]
fn success_without_the_servers_proof_is_a_breach_at_every_point() {
    let mut talk = Talk::scram();
    assert_eq!(talk.receive(b"t1 OK in\r\n"), Err(ProtocolViolation::Unproven));
    let mut talk = Talk::scram();
    let first = talk.peer().first("x", b"salt", 4096);
    talk.says(&first).unwrap();
    assert_eq!(talk.receive(b"t1 OK in\r\n"), Err(ProtocolViolation::Unproven));
    let mut talk = Talk::scram();
    let first = talk.peer().first("x", b"salt", 4096);
    talk.says(&first).unwrap();
    talk.says("e=invalid-proof").unwrap();
    assert_eq!(talk.receive(b"t1 OK in\r\n"), Err(ProtocolViolation::Unproven));
}

#[test]
fn a_refusal_by_the_server_at_any_point_is_its_own_tagged_answer() {
    let mut talk = Talk::scram();
    assert_eq!(talk.receive(b"t1 NO [AUTHENTICATIONFAILED] no\r\n"), Ok("NO"));
    let mut talk = Talk::scram();
    let first = talk.peer().first("x", b"salt", 4096);
    talk.says(&first).unwrap();
    assert_eq!(talk.receive(b"t1 NO no\r\n"), Ok("NO"));
    assert_eq!(talk.imap.complaint(), None);
}

#[test]
fn an_error_is_acknowledged_and_blames_the_credentials_only_when_it_names_them() {
    for (error, complaint) in [
        ("e=invalid-proof", None),
        ("e=unknown-user", None),
        ("e=other-error", Some("other-error")),
        ("e=no-resources,x=y", Some("no-resources")),
        ("e=", Some("")),
    ] {
        for early in [true, false] {
            let mut talk = Talk::scram();
            if !early {
                let first = talk.peer().first("x", b"salt", 4096);
                talk.says(&first).unwrap();
            }
            assert_eq!(talk.says(error).as_deref(), Ok(""), "{error}");
            assert_eq!(talk.receive(b"t1 NO no\r\n"), Ok("NO"), "{error}");
            assert_eq!(talk.imap.complaint(), complaint.map(str::as_bytes), "{error}");
        }
    }
    let mut talk = Talk::scram();
    talk.says(&format!("e={}", "x".repeat(4000))).unwrap();
    assert_eq!(talk.imap.complaint().map(<[u8]>::len), Some(ERROR_KEPT));
}

#[test]
fn a_challenge_after_the_last_message_is_never_answered_with_a_secret() {
    let mut plain = Talk::begin(Sasl::Plain, USER, PASSWORD);
    assert!(matches!(plain.answer(b""), ChallengeReply::Cancel(SaslError::Unasked)));
    assert_eq!(plain.imap.cancel(), b"*\r\n");
    assert_eq!(plain.receive(b"+ more\r\n"), Err(ProtocolViolation::Continuation), "nothing follows a *");
    assert_eq!(plain.receive(b"t1 OK in\r\n"), Err(ProtocolViolation::Unproven), "nor does success");

    let mut talk = Talk::scram();
    let mut peer = talk.peer();
    let proof = talk.says(&peer.first("x", b"salt", 4096)).unwrap();
    talk.says(&peer.last(&proof, PASSWORD).unwrap()).unwrap();
    assert_eq!(talk.says("r=again"), Err(SaslError::Unasked));
}

#[test]
fn two_challenges_at_once_are_one_too_many() {
    let mut talk = Talk::scram();
    let challenge = STANDARD.encode(talk.peer().first("x", b"salt", 4096));
    let seen = talk.receive(format!("+ {challenge}\r\n+ {challenge}\r\n").as_bytes());
    assert_eq!(seen, Err(ProtocolViolation::Continuation));
}

#[test]
fn nothing_of_an_exchange_has_a_printable_form() {
    let mut talk = Talk::begin(Sasl::ScramSha256, "planted-user", "planted-password");
    let first = talk.peer().first("x", b"salt", 4096);
    let ChallengeReply::Hash(work) = talk.answer(first.as_bytes()) else { panic!("no work") };
    let printed = format!("{work:?} {:?}", talk.imap);
    let worked = work.run();
    assert_eq!(format!("{worked:?}"), "HashResult");
    let printed = format!("{printed} {worked:?}");
    let printed = format!("{printed} {:?}", talk.imap.hashed(worked));
    for secret in ["planted", "biws", talk.peer().nonce()] {
        assert!(!printed.contains(secret), "{secret} in {printed}");
    }
    assert_eq!(talk.imap.sasl_messages().len(), 2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn no_challenge_makes_an_exchange_panic(
        fields in proptest::collection::vec((0_usize..14, "[ -~]{0,9}"), 0..6), garble in any::<(u8, u8)>(),
    ) {
        let names = ["r=NONCE", "r=", "s=", "s=c2FsdA==", "i=", "i=4096", "m=", "v=", "v=AAAA", "e=", "p=", "x=", "", "="];
        let mut talk = Talk::scram();
        let nonce = talk.peer().nonce().to_owned();
        let message = fields.iter().map(|(name, more)| names[*name].replace("NONCE", &nonce) + more);
        let mut message = message.collect::<Vec<_>>().join(",").into_bytes();
        if let Some(byte) = message.get_mut(usize::from(garble.0)) {
            *byte = garble.1;
        }
        // What comes of it as a last message shows without one that was hashed for.
        drop(check_final(&message));
        drop(talk.answer(&message));
        prop_assert_eq!(talk.receive(b"t1 OK in\r\n"), Err(ProtocolViolation::Unproven));
    }

    #[test]
    fn no_bytes_behind_a_plus_make_a_session_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
        let mut talk = Talk::scram();
        let line = [b"+ ".as_slice(), &bytes, b"\r\n"].concat();
        if talk.receive(&line) == Ok("continuation") {
            prop_assert!(talk.imap.answer().is_some());
        }
    }
}

proptest! {
    // Each of these is hashed for.
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn any_well_formed_first_message_is_answered_with_the_right_proof(
        nonce in "[!-+--~]{1,40}", salt in proptest::collection::vec(any::<u8>(), 1..60), iterations in 4096_u32..4200,
    ) {
        let mut talk = Talk::scram();
        let mut peer = talk.peer();
        let proof = talk.says(&peer.first(&nonce, &salt, iterations)).unwrap();
        prop_assert!(peer.last(&proof, PASSWORD).is_some());
    }
}
