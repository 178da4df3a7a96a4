//! The framer: any cut of the bytes gives the same responses, none keeps more than the limits, and no byte is lost.

use super::{Limits, choice, cuts, lies_in, limits};
use crate::{Framer, Syntax};

/// What came of some bytes.
#[derive(Debug, PartialEq)]
struct Followed {
    responses: Vec<Whole>,
    /// What is left of a response that did not end.
    partial: Vec<u8>,
    /// Why the stream cannot be followed any more.
    violation: Option<Syntax>,
    /// Bytes that were taken.
    passed: u64,
}

/// A response that is whole.
#[derive(Debug, PartialEq)]
struct Whole {
    /// Where it ends among the bytes.
    end: usize,
    text: Vec<u8>,
    kept: Vec<(usize, usize)>,
    literals: u64,
    literal_bytes: u64,
    deviates: bool,
    row: Option<usize>,
    closed: bool,
    ends_with_lines: bool,
}

/// One byte that chooses, then the server's.
pub fn framer(input: &[u8]) {
    let (choice, bytes) = choice(input);
    let limits = limits(choice);
    let [whole, single, drawn] = cuts(choice, bytes).map(|pieces| follow(limits, &pieces));
    check(limits, bytes, &whole);
    assert_eq!(single, whole, "byte by byte");
    assert_eq!(drawn, whole, "as drawn");
}

fn follow(limits: Limits, pieces: &[&[u8]]) -> Followed {
    let mut framer = Framer::new(limits);
    let (mut responses, mut at, mut violation) = (Vec::new(), 0, None);
    'all: for piece in pieces {
        let mut rest = *piece;
        while !rest.is_empty() {
            let (taken, whole) = match framer.push(rest) {
                Ok(pushed) => pushed,
                Err(syntax) => {
                    violation = Some(syntax);
                    break 'all;
                }
            };
            assert!(taken > 0 && taken <= rest.len(), "{taken} bytes taken of {}", rest.len());
            assert!(whole || taken == rest.len(), "bytes are left and no response is whole");
            at += taken;
            rest = rest.get(taken..).unwrap_or_default();
            bounded(limits, &framer);
            if whole {
                assert!(framer.is_between_responses() && framer.partial().is_empty());
                let frame = framer.frame();
                let (text, kept) = (frame.text.to_vec(), frame.kept.to_vec());
                let (literals, literal_bytes, deviates) = (frame.literals, frame.literal_bytes, frame.deviates);
                let (row, closed, ends_with_lines) = (frame.row, frame.closed, frame.whole_lines);
                let end = at;
                responses.push(Whole {
                    end,
                    text,
                    kept,
                    literals,
                    literal_bytes,
                    deviates,
                    row,
                    closed,
                    ends_with_lines,
                });
            }
        }
    }
    bounded(limits, &framer);
    Followed { responses, partial: framer.partial().to_vec(), violation, passed: framer.passed() }
}

/// What stands before a line is at most a line, or what a row of FETCH keeps; then the line itself and its end.
fn bounded(limits: Limits, framer: &Framer) {
    let (text, kept) = framer.held();
    assert!(text <= limits.line.max(64) + limits.line + 2, "{text} bytes are held");
    assert!(kept <= text, "{kept} literals in {text} bytes");
}

fn check(limits: Limits, bytes: &[u8], followed: &Followed) {
    let mut start = 0;
    for frame in &followed.responses {
        let raw = bytes.get(start..frame.end).unwrap_or_default();
        start = frame.end;
        assert!(raw.ends_with(b"\n"), "a response ends with its line");
        assert!(frame.text.len() < raw.len() && frame.literal_bytes < raw.len() as u64);
        let ends = raw.split(|byte| *byte == b'\n').count() as u64 - 1;
        assert!(frame.literals < ends, "{} literals in {ends} lines", frame.literals);
        if frame.literals == 0 {
            let content = raw.strip_suffix(b"\n").unwrap_or(raw);
            let returns = content.iter().rev().take_while(|byte| **byte == b'\r').count();
            assert_eq!(frame.text, content.get(..content.len() - returns).unwrap_or_default());
            assert_eq!(frame.deviates, returns != 1);
        }
        assert!(frame.kept.len() as u64 <= frame.literals);
        if let Some(head) = frame.row {
            assert!(frame.kept.is_empty(), "nothing of a row's literals is kept");
            assert!(frame.text.get(..head).is_some_and(|head| head.to_ascii_uppercase().ends_with(b"FETCH")));
            assert!(!frame.closed || frame.text.ends_with(b")"), "a row ends with its list");
        }
        assert!(frame.ends_with_lines || frame.literals > 0);
        let mut behind = 0;
        for (at, len) in &frame.kept {
            let literal = frame.text.get(*at..at + len);
            assert!(literal.is_some_and(|literal| lies_in(literal, &frame.text)), "it lies outside");
            assert!(*at > behind && *len <= limits.literal_kept);
            assert_eq!(frame.text.get(at - 1), Some(&b'}'), "a literal stands behind its size");
            behind = at + len;
        }
    }
    assert!(start as u64 <= followed.passed && followed.passed <= bytes.len() as u64);
    assert!(followed.violation.is_some() || followed.passed == bytes.len() as u64, "bytes are lost");
}
