//! Bytes through the framer, in the pieces in which a connection reads them, beside a loop that reads the same bytes and
//! does nothing with them. On one thread, by its CPU time: neighbours on the machine count for little.

use std::{fs::File, io::Write as _, os::unix::fs::FileExt as _, time::Duration};

use imaptrace_imap::{Framer, Limits};
use nix::time::{ClockId, clock_gettime};

/// What a read of a connection brings at most.
const CHUNK: usize = 64 << 10;
const GOAL: f64 = 1.0;

pub fn report(rounds: u32, mebibytes: u32) {
    println!("### The framer\n");
    println!(
        "{mebibytes} MiB of each kind from a file in memory, read in pieces of 64 KiB by one thread; its CPU time, the median of \
         {rounds} rounds in which the loops take turns. *Framer alone* is the one less the other.\n"
    );
    println!(
        "| Input | only read, GB/s | read and framed, GB/s | framed to read | framer alone, GB/s | goal: at least | |"
    );
    println!("|---|--:|--:|--:|--:|--:|---|");
    for (name, kind) in kinds() {
        let size = (mebibytes as usize) << 20;
        let (file, bytes) = kind(size);
        let (mut read, mut framed) = (Vec::new(), Vec::new());
        let responses = pass(&file, bytes, true).1;
        for _ in 0..rounds {
            read.push(pass(&file, bytes, false).0);
            framed.push(pass(&file, bytes, true).0);
        }
        let (read, framed) = (median(read), median(framed));
        let rate = |seconds: f64| bytes as f64 / 1e9 / seconds;
        // Less than the clock can tell of so many bytes.
        let more = framed - read;
        let (alone, details) = if more * 50.0 < read {
            (f64::INFINITY, format!("over {:.0}", rate(read / 50.0)))
        } else {
            (rate(more), format!("{:.2}", rate(more)))
        };
        println!(
            "| {name} ({responses} responses) | {:.2} | {:.2} | {:.2} × | {details} | {GOAL:.0} | {} |",
            rate(read),
            rate(framed),
            framed / read,
            crate::met(alone >= GOAL),
        );
    }
    println!();
}

type Kind = fn(usize) -> (File, usize);

fn kinds() -> [(&'static str, Kind); 5] {
    [
        ("one literal", |size| {
            let head = format!("* 1 FETCH (BODY[] {{{size}}}\r\n");
            written(size, &[&head], &"x".repeat(1 << 16), ")\r\n")
        }),
        ("rows of a message list, headers of 600 B", |size| written(size, &[], &row(&[600]), "")),
        ("rows of 40 literals of 20 B", |size| written(size, &[], &row(&[20; 40]), "")),
        ("lines of 60 KB, quoted strings in parentheses", |size| {
            let address = "((\"Jane Roe\" NIL \"jane.roe\" \"mail.example.org\")) \"Re: minutes of the meeting\" NIL ";
            let line = format!("* 1 FETCH (ENVELOPE ({}))\r\n", address.repeat(60_000 / address.len()));
            written(size, &[], &line, "")
        }),
        ("lines of 60 KB of one word", |size| written(size, &[], &format!("* X {}\r\n", "a".repeat(60_000)), "")),
    ]
}

/// A row of FETCH with literals of these sizes.
fn row(literals: &[usize]) -> String {
    let mut row = "* 4711 FETCH (UID 90210 FLAGS (\\Seen \\Answered) RFC822.SIZE 4242".to_owned();
    for size in literals {
        let text: String = "Subject: of this and that\r\n".chars().cycle().take(*size).collect();
        row.extend([" BODY[HEADER.FIELDS (DATE FROM TO SUBJECT)] {", &size.to_string(), "}\r\n", &text]);
    }
    row + ")\r\n"
}

/// A file in memory: a head, a text over and over until it is `size` bytes long, and a tail.
fn written(size: usize, head: &[&str], text: &str, tail: &str) -> (File, usize) {
    let file = nix::sys::memfd::memfd_create("hostile", nix::sys::memfd::MFdFlags::empty()).unwrap();
    let mut file = File::from(file);
    for head in head {
        file.write_all(head.as_bytes()).unwrap();
    }
    let times = size / text.len();
    for _ in 0..times {
        file.write_all(text.as_bytes()).unwrap();
    }
    file.write_all(tail.as_bytes()).unwrap();
    let length = file.metadata().unwrap().len();
    (file, usize::try_from(length).unwrap())
}

/// Reads the file once. Gives the CPU time in seconds, and the responses.
fn pass(file: &File, bytes: usize, framing: bool) -> (f64, u64) {
    let mut framer = Framer::new(Limits::default());
    let mut chunk = vec![0; CHUNK];
    let (mut at, mut responses) = (0, 0);
    let begin = cpu();
    while at < bytes {
        let count = file.read_at(&mut chunk, at as u64).unwrap();
        at += count;
        let mut rest = chunk.get(..count).unwrap_or_default();
        // What was read is seen, whatever the compiler thinks of it.
        std::hint::black_box(rest);
        while framing && !rest.is_empty() {
            let (taken, whole) = framer.push(rest).unwrap();
            rest = rest.get(taken..).unwrap_or_default();
            if whole {
                std::hint::black_box(framer.frame());
                responses += 1;
            }
        }
    }
    (cpu().saturating_sub(begin).as_secs_f64(), responses)
}

fn cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
