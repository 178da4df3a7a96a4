//! The entry points of fuzzing on a stable compiler: over the corpus, and over what proptest makes up.

use std::{fs, path::Path};

use proptest::{collection::vec, prelude::*};

use super::*;

/// Pieces of conversations, right and wrong, so that what is put together of them goes somewhere.
const PIECES: &[&str] = &[
    "* OK [CAPABILITY IMAP4rev1 SASL-IR LITERAL+ ID] hi\r\n",
    "* PREAUTH in\r\n",
    "* BYE [UNAVAILABLE] later\r\n",
    "\u{0}* 5 FETCH (UID 7 BODY[HEADER] {7}\r\na: b\r\n\r\n)\r\n",
    "* 172 EXISTS\r\n",
    "* LIST () \"/\" {3}\r\na\r\n\r\n",
    "* ID (\"name\" {3}\r\nx\"y \"version\" NIL)\r\n",
    "* ESEARCH (TAG \"t3\") COUNT 17\r\n",
    "* NO [X (((((((\r\n",
    "* 1 FETCH (BODY[] {18446744073709551616}\r\n",
    "+ go {3}\r\n",
    "t1 OK [READ-WRITE] done\r\n",
    "t2 OK done (0.036 + 0.000 secs).\r\n",
    "t1 NO [REFERRAL imap://u@h/] away\r\n",
    "t3 BAD {5}\r\n",
    "T OK [CAPABILITY IMAP4rev2] in\r\n",
    "* OK a\r\r\n* OK b\n",
    "\r",
    "{0}\r\n",
    "[",
    "\"",
];

/// Inputs out of pieces, commands and anything.
fn inputs() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        6 => proptest::sample::select(PIECES).prop_map(|piece| piece.as_bytes().to_vec()),
        3 => any::<u8>().prop_map(|what| vec![0xff, what]),
        1 => vec(any::<u8>(), 0..9),
    ];
    (any::<u8>(), vec(piece, 0..12)).prop_map(|(choice, pieces)| [vec![choice], pieces.concat()].concat())
}

/// Gives the entry point all of its corpus.
fn all_hold(target: &str, holds: fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let files: Vec<_> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() > 3, "{} holds next to nothing", directory.display());
    for path in files {
        holds(&fs::read(path).unwrap());
    }
}

#[test]
fn what_was_found_by_fuzzing_holds() {
    all_hold("framer", framer);
    all_hold("response", response);
    all_hold("sasl", sasl);
    all_hold("session", session);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_cut_gives_the_same_responses(input in inputs()) {
        framer(&input);
    }

    #[test]
    fn what_is_read_out_of_a_response_lies_in_it(input in inputs()) {
        response(&input);
    }

    #[test]
    fn any_cut_of_a_conversation_gives_the_same_events(input in inputs()) {
        session(&input);
    }

    #[test]
    fn a_password_goes_out_whole_and_in_its_turn(
        head in (any::<u8>(), "(IMAP4rev[12] )?(SASL-IR )?(LITERAL[+-])?", "\\PC{1,9}", "[ -~äß]{1,12}"),
        said in inputs(),
    ) {
        let (choice, list, user, password) = head;
        let lines = format!("{list}\n{user}\n{password}\n");
        sasl(&[&[choice], lines.as_bytes(), &said].concat());
    }
}

proptest! {
    // Both sides hash the password some thousand times.
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn no_server_without_the_password_is_trusted(
        lines in vec(proptest::sample::select(SCRAM), 0..5), choice in any::<u8>(), wait in any::<bool>(),
    ) {
        let head: &[u8] = if wait { b"ID\ntim\npencil\n+ \r\n" } else { b"SASL-IR\ntim\npencil\n" };
        sasl(&[&[choice][..], head, &lines.concat()].concat());
    }
}

/// What a server says in SCRAM: see `sasl`.
const SCRAM: &[&[u8]] = &[
    b"\xfcr=\xfemore,s=QSXCR+Q6sek8bf92,i=4096\n",
    b"\xfcr=\xfemore,s=QSXCR+Q6sek8bf92,i=4096\n\xfcv=\xfd\n",
    b"\xfcr=other,s=QSXCR+Q6sek8bf92,i=4096\n",
    b"\xfcr=\xfe,s=,i=999999999999\n",
    b"\xfcv=\xfd\n",
    b"\xfcv=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=\n",
    b"\xfce=invalid-proof\n",
    b"\xfcm=x\n",
    b"+ =\r\n",
    b"T OK in\r\n",
    b"T NO\r\n",
];

#[test]
fn cuts_are_as_many_as_choices_can_draw() {
    let [whole, single, _] = cuts(0, b"* OK hi\r\n");
    assert_eq!((whole.len(), single.len()), (1, 9));
    let drawn: Vec<usize> = (0..=u8::MAX).map(|choice| cuts(choice, &[b'x'; 200])[2].len()).collect();
    assert!(drawn.iter().all(|pieces| (2..=200).contains(pieces)), "{drawn:?}");
    assert!(drawn.iter().collect::<std::collections::BTreeSet<_>>().len() > 20, "{drawn:?}");
}
