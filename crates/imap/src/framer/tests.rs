use proptest::prelude::*;

use super::*;

#[derive(Debug, PartialEq, Eq)]
struct Seen {
    text: String,
    kept: Vec<String>,
    literals: u64,
    literal_bytes: u64,
    deviates: bool,
    closed: bool,
}

fn run(chunks: &[&[u8]]) -> (Vec<Seen>, Option<Syntax>) {
    let mut framer = Framer::new(Limits::default());
    let mut seen = Vec::new();
    for chunk in chunks {
        let mut rest = *chunk;
        while !rest.is_empty() {
            match framer.push(rest) {
                Err(syntax) => return (seen, Some(syntax)),
                Ok((taken, whole)) => {
                    rest = &rest[taken..];
                    if whole {
                        let frame = framer.frame();
                        let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                        seen.push(Seen {
                            text: lossy(frame.text),
                            kept: frame.kept.iter().map(|(at, len)| lossy(&frame.text[*at..at + len])).collect(),
                            literals: frame.literals,
                            literal_bytes: frame.literal_bytes,
                            deviates: frame.deviates,
                            closed: frame.closed,
                        });
                    }
                }
            }
        }
    }
    (seen, None)
}

fn texts(input: &str) -> Vec<String> {
    let (seen, error) = run(&[input.as_bytes()]);
    assert_eq!(error, None, "{input:?}");
    seen.into_iter().map(|seen| seen.text).collect()
}

fn error(input: &str) -> Option<Syntax> {
    run(&[input.as_bytes()]).1
}

#[test]
fn a_literal_that_looks_like_the_tagged_line_is_not_one() {
    let (seen, error) = run(&[b"* 1 FETCH (BODY[] {12}\r\na1 OK done\r\n)\r\na1 OK done\r\n"]);
    assert_eq!(error, None);
    assert_eq!(seen.len(), 2);
    assert_eq!((seen[0].literals, seen[0].literal_bytes), (1, 12));
    assert_eq!(seen[1].text, "a1 OK done");
}

#[test]
fn a_size_at_the_end_of_status_text_is_text() {
    assert_eq!(texts("a1 NO no such folder {5}\r\n* OK hi\r\n"), ["a1 NO no such folder {5}", "* OK hi"]);
    assert_eq!(texts("* OK [UIDNEXT 4] next {12}\r\n"), ["* OK [UIDNEXT 4] next {12}"]);
    assert_eq!(texts("+ go on {3}\r\n"), ["+ go on {3}"]);
}

#[test]
fn a_literal_inside_an_open_response_code_is_a_literal() {
    let (seen, error) = run(&[b"a1 NO [BADCHARSET ({5}\r\nUTF-8)] no\r\n"]);
    assert_eq!((error, seen.len(), seen[0].kept.clone()), (None, 1, vec!["UTF-8".to_owned()]));
}

#[test]
fn behind_a_literal_a_row_goes_on_with_an_item_and_another_response_with_anything() {
    for (input, closed) in [
        ("* LIST () {1}\r\n/ INBOX\r\n", true),
        ("* STATUS {5}\r\nINBOX (MESSAGES 3)\r\n", true),
        ("* LIST () {1}\r\n/INBOX\r\n", false),
        ("* 1 FETCH (BODY[HEADER] {1}\r\nx UID 7)\r\n", true),
        ("* 1 FETCH (BODY[HEADER] {1}\r\nx )\r\n", true),
        ("* 1 FETCH (BODY[HEADER] {1}\r\nx)\r\n", true),
        ("* 1 FETCH (BODY[HEADER] {1}\r\nx INBOX)\r\n", false),
        ("* 1 FETCH (BODY[HEADER] {1}\r\nxUID 7)\r\n", false),
        // In a list of the row's own list, as an envelope is one, strings follow each other.
        ("* 1 FETCH (ENVELOPE ({1}\r\nx INBOX))\r\n", true),
        ("* 1 FETCH (UID 7) x\r\n", false),
        ("* 1 FETCH (UID 7\r\n", false),
        ("* 1 FETCH UID 7\r\n", false),
        ("* 1 FETCH UID (7)\r\n", false),
        ("* LIST () \"/\" \"a\r\n", false),
    ] {
        let (seen, error) = run(&[input.as_bytes()]);
        assert_eq!((error, seen.len(), seen[0].closed), (None, 1, closed), "{input:?}");
    }
}

#[test]
fn a_name_in_a_literal_is_kept_and_a_long_one_is_not() {
    let (seen, _) = run(&[b"* LIST () \"/\" {4}\r\na\r\nb\r\n"]);
    assert_eq!(seen[0].kept, ["a\r\nb"]);
    let long = format!("* LIST () NIL {{5000}}\r\n{}\r\n", "x".repeat(5000));
    let (seen, _) = run(&[long.as_bytes()]);
    assert_eq!((seen[0].kept.len(), seen[0].literal_bytes, seen[0].text.as_str()), (0, 5000, "* LIST () NIL {5000}"));
}

#[test]
fn a_name_is_kept_though_a_long_literal_follows_it_and_so_are_64_names_and_no_more() {
    let (seen, _) = run(&[format!("* LIST () {{1}}\r\n/ {{5000}}\r\n{}\r\n", "x".repeat(5000)).as_bytes()]);
    assert_eq!((&*seen[0].kept, seen[0].text.as_str()), (&["/".to_owned()][..], "* LIST () {1}/ {5000}"));
    for (names, kept) in [(MOST_KEPT, MOST_KEPT), (MOST_KEPT + 1, MOST_KEPT)] {
        let (seen, _) = run(&[format!("* LIST (){}\r\n", " {1}\r\nx".repeat(names)).as_bytes()]);
        assert_eq!((seen[0].literals, seen[0].kept.len()), (names as u64, kept));
    }
}

#[test]
fn where_a_line_has_no_room_left_an_empty_literal_is_not_kept_either() {
    let (head, literal, limit) = ("* LIST () NIL ", " {0}", Limits::default().line);
    for (free, kept) in [(1, 1), (0, 0)] {
        let name = "x".repeat(limit - head.len() - literal.len() - free);
        let (seen, error) = run(&[format!("{head}{name}{literal}\r\n\r\n").as_bytes()]);
        assert_eq!((seen.len(), error), (1, None), "{free}");
        assert_eq!((seen[0].literals, seen[0].kept.len()), (1, kept), "{free}");
    }
}

#[test]
fn malformed_sizes_end_the_stream() {
    for wrong in [
        "{5",
        "{ 5}",
        "{-5}",
        "{18446744073709551616}",
        "{9223372036854775808}",
        "{1234567890123456789012345678901234567890}",
    ] {
        assert_eq!(error(&format!("* 1 FETCH (BODY[] {wrong}\r\n")), Some(Syntax::Literal), "{wrong}");
    }
    assert_eq!(error("* 1 FETCH (BODY[] {5}hello)\r\n"), Some(Syntax::Literal));
    assert_eq!(error("* 1 FETCH (BODY[] {9223372036854775807}\r\n"), None);
}

#[test]
fn braces_in_quotes_and_unescaped_quotes_are_read_past() {
    assert_eq!(texts("* LIST () \"/\" \"par(en)s {5}\"\r\n").len(), 1);
    assert_eq!(texts("* LIST () \"/\" \"a\"b\"\r\n* LIST () \"/\" c\r\n").len(), 2);
    assert_eq!(texts("* 1 FETCH (ENVELOPE (\"a\"b\" {3}\r\nabc))\r\n").len(), 1);
}

#[test]
fn line_ends_bare_lf_is_lenient_and_bare_cr_is_an_error() {
    let (seen, error_) = run(&[b"* OK a\n* OK b\r\r\n* OK c\r\n"]);
    assert_eq!(error_, None);
    assert_eq!(
        seen.iter().map(|seen| (seen.text.as_str(), seen.deviates)).collect::<Vec<_>>(),
        [("* OK a", true), ("* OK b", true), ("* OK c", false)]
    );
    assert_eq!(error("* OK a\rb\r\n"), Some(Syntax::BareCr));
}

#[test]
fn one_deviation_in_a_response_of_several_lines_is_enough() {
    for (response, deviates) in [
        ("* LIST () \"/\" {3}\r\nabc\r\n", false),
        ("* LIST () \"/\" {3+}\r\nabc\r\n", true),
        ("* LIST () \"/\" {3}\nabc\r\n", true),
        ("* LIST () \"/\" {3}\r\nabc\n", true),
        ("* ID (\"a\" {1+}\r\nb \"c\" {1}\r\nd)\r\n", true),
    ] {
        let (seen, error) = run(&[response.as_bytes()]);
        assert_eq!((error, seen.len()), (None, 1), "{response:?}");
        assert_eq!(seen[0].deviates, deviates, "{response:?}");
    }
}

#[test]
fn its_printable_form_has_a_size_and_nothing_that_a_server_sent() {
    let mut framer = Framer::new(Limits::default());
    framer.push(b"* OK planted").unwrap();
    assert_eq!(format!("{framer:?}"), "Framer(12 bytes)");
}

#[test]
fn endless_lines_and_endless_nesting_end_at_the_limit() {
    assert_eq!(error(&"x".repeat(70_000)), Some(Syntax::Line));
    assert_eq!(error(&format!("* X {}\r\n", "(".repeat(33))), Some(Syntax::Depth));
    assert_eq!(error(&format!("* X {}\r\n", "(".repeat(32))), None);
    assert_eq!(error(&format!("* OK {}\r\n", "(".repeat(500))), None);
}

#[test]
fn thousands_of_literals_keep_no_memory() {
    let mut input = b"* 1 FETCH (".to_vec();
    for _ in 0..20_000 {
        input.extend_from_slice(b"BODY[1] {3}\r\nabc ");
    }
    input.extend_from_slice(b")\r\n");
    let mut framer = Framer::new(Limits::default());
    assert_eq!(framer.push(&input), Ok((input.len(), true)));
    assert!(framer.text.capacity() < 4096, "{}", framer.text.capacity());
    assert_eq!(framer.frame().literals, 20_000);
    for head in ["* LIST () NIL ", "* OK [X ("] {
        let mut framer = Framer::new(Limits::default());
        assert!(framer.push(head.as_bytes()).is_ok());
        for _ in 0..300_000 {
            assert_eq!(framer.push(b"{0}\r\n"), Ok((5, false)));
        }
        let kept = framer.text.capacity() + framer.kept.capacity() * size_of::<(usize, usize)>();
        assert!(kept < 1 << 20, "{head}: {kept}");
    }
    let other = [b"* LIST () NIL ", input.get(11..).unwrap()].concat();
    let mut framer = Framer::new(Limits::default());
    assert!(framer.push(&other).is_ok());
    assert!(framer.text.capacity() <= 4 * Limits::default().line, "{}", framer.text.capacity());
}

/// What this thread worked while a framer read all of it, in seconds: the least of five times, and no time on the
/// wall, for others may run meanwhile.
fn work(input: &[u8]) -> f64 {
    (0..5).map(|_| work_once(input)).fold(f64::INFINITY, f64::min)
}

fn work_once(input: &[u8]) -> f64 {
    let now = || {
        let spent = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap();
        std::time::Duration::from(spent).as_secs_f64()
    };
    let (mut framer, mut rest, begun) = (Framer::new(Limits::default()), input, now());
    while !rest.is_empty() {
        rest = rest.get(framer.push(rest).unwrap().0..).unwrap_or_default();
    }
    now() - begun
}

#[test]
fn no_input_makes_it_look_at_the_same_bytes_again_and_again() {
    let line = |fill: &str| format!("* LIST {}\r\n", fill.repeat(60_000 / fill.len())).repeat(4);
    let literals = |head: &str| format!("{head} {}\r\n", "{0}\r\n".repeat(20_000));
    for (hostile, plain) in [
        (line("{"), line(")")),
        (line(" {1x"), line(" )1x")),
        (line("{}"), line("))")),
        (literals(&format!("* {}", "1".repeat(60_000))), literals("* LIST")),
        (literals(&"* 1 FETCH ".repeat(6_000)), literals("* LIST")),
        (literals("* OK [X"), literals("* LIST")),
    ] {
        let (hostile_work, plain_work) = (work(hostile.as_bytes()), work(plain.as_bytes()));
        // Of the same length, and so much the same work; looking at it all again for each byte is some hundred times that.
        let head = hostile.get(..20).unwrap_or_default();
        assert!(hostile_work < 20.0 * plain_work, "{head}: {hostile_work} s, and {plain_work} s for the plain one");
    }
}

#[test]
fn ten_gigabytes_of_a_literal_leave_nothing_behind() {
    let mut framer = Framer::new(Limits::default());
    let size = 10u64 << 30;
    assert!(framer.push(format!("* 1 FETCH (BODY[] {{{size}}}\r\n").as_bytes()).is_ok());
    let before = framer.text.capacity() + framer.kept.capacity();
    let chunk = vec![b'x'; 1 << 20];
    for _ in 0..size >> 20 {
        assert_eq!(framer.push(&chunk), Ok((chunk.len(), false)));
    }
    assert_eq!(framer.text.capacity() + framer.kept.capacity(), before);
    assert_eq!(framer.push(b")\r\n"), Ok((3, true)));
    assert_eq!(framer.frame().literal_bytes, size);
}

proptest! {
    #[test]
    fn any_split_gives_the_same_responses(
        pieces in proptest::collection::vec(prop_oneof![
            Just("* 1 FETCH (BODY[] {7}\r\na\r\nb{1}\r\n)\r\n"), Just("* LIST () \"/\" {3}\r\nabc\r\n"), Just("a1 OK [X {1}] y {2}\r\n"),
            Just("* OK \r\n"), Just("+ \r\n"), Just("{0}\r\n"), Just("* \"q\\\"{1}\r\n"), Just("\n"), Just("(((("), Just("\r")], 0..12),
        cuts in proptest::collection::vec(0usize..300, 0..10),
    ) {
        let input = pieces.concat().into_bytes();
        let whole = run(&[&input]);
        let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(input.len())).collect();
        cuts.sort_unstable();
        let mut chunks = Vec::new();
        let mut from = 0;
        for cut in cuts.into_iter().chain([input.len()]) {
            chunks.push(&input[from..cut]);
            from = cut;
        }
        prop_assert_eq!(run(&chunks), whole);
    }

    #[test]
    fn no_bytes_make_it_panic(input in proptest::collection::vec(any::<u8>(), 0..400)) {
        run(&[&input]);
    }
}

#[test]
fn what_is_held_is_the_response_that_is_not_whole_and_its_literals() {
    let mut framer = Framer::new(Limits::default());
    for (bytes, held) in
        [("* LIST () ", (10, 0)), ("{2}\r\n", (13, 1)), ("ab", (15, 1)), ("\r\n", (15, 1)), ("* OK", (4, 0))]
    {
        framer.push(bytes.as_bytes()).unwrap();
        assert_eq!(framer.held(), held, "{bytes:?}");
    }
}
