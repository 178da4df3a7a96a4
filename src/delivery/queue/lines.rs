//! Reads runs from a file: dead letters, segments of a queue, or what `probe --output json` printed.
//!
//! Sends nothing; `imaptrace replay` reads with it and sends with [`Replay`](crate::delivery::Replay), `imaptrace show` draws what
//! it reads.

use std::io::{self, BufRead, BufReader, Read};

use flate2::read::MultiGzDecoder;
use imaptrace_record::Run;

use super::segment;
use crate::delivery::report::count;

/// A compressed file of ours up to this size is decompressed one gzip member at a time, so that damage costs one of them.
const WHOLE: u64 = 64 << 20;
/// The longest line in bytes; that of a run takes some kilobytes.
const LONGEST_LINE: usize = 16 << 20;
/// Bytes that are skipped to find the end of a longer line: a device that returns zeros has none.
const LONGEST_SEARCH: u64 = 4 << 30;
const BUFFER: usize = 256 << 10;
/// The first bytes of gzip data (RFC 1952 §2.3.1).
const MAGIC: [u8; 2] = [0x1f, 0x8b];

/// A part of a file that is not a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadLine {
    /// The line number; for damaged compressed data that of the next line.
    pub line: u64,
    /// The problem.
    pub problem: String,
    /// The damage reaches to the end of the file: it was cut off, or is being written.
    pub at_end: bool,
}

/// The runs of a file, one JSON line each, compressed by gzip or not. Empty lines are skipped.
pub struct Lines {
    source: LineSource,
    line: u64,
    ended: bool,
}

enum LineSource {
    Stream(Box<dyn BufRead>),
    /// The gzip members of a segment, and the remaining lines of the last one.
    Members {
        packed: Vec<u8>,
        at: usize,
        text: io::Cursor<Vec<u8>>,
    },
}

impl Lines {
    /// The runs that `reader` returns.
    pub fn new(reader: impl Read + 'static) -> io::Result<Self> {
        let mut reader = reader;
        // A pipe may return one byte at first.
        let mut packed = Vec::new();
        reader.by_ref().take(MAGIC.len() as u64).read_to_end(&mut packed)?;
        let is_packed = packed == MAGIC;
        let is_text = packed.first().is_none_or(|first| *first == b'{');
        let mut reader = BufReader::with_capacity(BUFFER, reader);
        // Other data may be compressed and damaged at the beginning.
        if is_packed || !is_text {
            reader.by_ref().take(WHOLE).read_to_end(&mut packed)?;
        }
        let ours = memchr::memmem::find_iter(&packed, &MAGIC)
            .any(|at| packed.get(at..).is_some_and(|rest| segment::head(rest).is_some()));
        let source = if !is_text && ours && (packed.len() as u64) < WHOLE {
            LineSource::Members { packed, at: 0, text: io::Cursor::default() }
        } else {
            let all = io::Cursor::new(packed).chain(reader);
            LineSource::Stream(if is_packed {
                Box::new(BufReader::new(MultiGzDecoder::new(all)))
            } else {
                Box::new(all)
            })
        };
        Ok(Self { source, line: 0, ended: false })
    }

    /// Reads the next line; empty at the end.
    fn read(&mut self, line: &mut Vec<u8>) -> Result<(), Unread> {
        match &mut self.source {
            LineSource::Stream(reader) => {
                self.line += 1;
                read_line(reader, line)
            }
            LineSource::Members { packed, at, text } => loop {
                let read = read_line(text, line);
                if read.is_err() || !line.is_empty() {
                    self.line += 1;
                    return read;
                }
                let Some(part) = segment::part(packed, *at) else { return Ok(()) };
                let begin = std::mem::replace(at, part.next);
                let Some(unpacked) = part.text else {
                    let problem = format!("byte {begin}: the data are damaged ({})", count(part.runs, "run"));
                    return Err(Unread { problem, ends: false, at_end: part.next == packed.len() });
                };
                *text = io::Cursor::new(unpacked);
            },
        }
    }
}

/// Why a line cannot be read.
struct Unread {
    problem: String,
    /// Nothing more can be read.
    ends: bool,
    at_end: bool,
}

/// Reads the next line with its line end, which the last one may lack; empty at the end of the data.
fn read_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> Result<(), Unread> {
    let broken = |error: io::Error| {
        let at_end = error.kind() == io::ErrorKind::UnexpectedEof;
        Unread { problem: error.to_string(), ends: true, at_end }
    };
    reader.by_ref().take(LONGEST_LINE as u64 + 1).read_until(b'\n', line).map_err(broken)?;
    if line.len() <= LONGEST_LINE || line.ends_with(b"\n") {
        return Ok(());
    }
    line.clear();
    let mut rest = reader.take(LONGEST_SEARCH);
    rest.skip_until(b'\n').map_err(broken)?;
    let is_endless = rest.limit() == 0;
    let problem = if is_endless {
        "the line does not end within 4GiB: nothing behind it is read"
    } else {
        "the line is longer than 16MiB, which no run takes, and is left out"
    };
    Err(Unread { problem: problem.to_owned(), ends: is_endless, at_end: false })
}

impl Iterator for Lines {
    type Item = Result<Run, BadLine>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut text = Vec::new();
        while !self.ended {
            text.clear();
            let line = self.line + 1;
            if let Err(Unread { problem, ends, at_end }) = self.read(&mut text) {
                self.ended = ends;
                return Some(Err(BadLine { line, problem, at_end }));
            }
            if text.is_empty() {
                break;
            }
            if text.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            return Some(segment::line(&text).map_err(|problem| BadLine { line, problem, at_end: false }));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Cursor, Write as _},
        time::UNIX_EPOCH,
    };

    use super::*;
    use crate::delivery::queue::segment::tests::measured;

    fn read(bytes: &[u8]) -> Vec<Result<Run, BadLine>> {
        Lines::new(Cursor::new(bytes.to_vec())).unwrap().collect()
    }

    #[test]
    fn plain_lines_compressed_lines_and_segments_give_the_same_runs() {
        let runs = [measured(), measured(), measured()];
        let lines: Vec<_> = runs.iter().map(|run| serde_json::to_string(run).unwrap()).collect();
        let plain = lines.join("\n");
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(plain.as_bytes()).unwrap();
        let segment = [segment::pack(&runs[..2], UNIX_EPOCH), segment::pack(&runs[2..], UNIX_EPOCH)];
        let segment = segment.map(Result::unwrap).concat();
        let expected: Vec<_> = runs.into_iter().map(Ok).collect();
        for bytes in [plain.as_bytes(), &gzip.finish().unwrap(), &segment] {
            assert_eq!(read(bytes), expected);
        }
        assert_eq!(read(b""), []);
    }

    #[test]
    fn compressed_data_is_detected_when_the_first_read_returns_one_byte() {
        let run = measured();
        let member = segment::pack([&run], UNIX_EPOCH).unwrap();
        let (first, rest) = member.split_at(1);
        let pipe = Cursor::new(first.to_vec()).chain(Cursor::new(rest.to_vec()));
        assert_eq!(Lines::new(pipe).unwrap().collect::<Vec<_>>(), [Ok(run)]);
    }

    #[test]
    fn a_file_compressed_by_another_program_may_be_one_member_of_any_size() {
        let run = measured();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        let mut empty = vec![b' '; 1 << 20];
        empty.push(b'\n');
        for _ in 0..65 {
            gzip.write_all(&empty).unwrap();
        }
        gzip.write_all(&serde_json::to_vec(&run).unwrap()).unwrap();
        assert_eq!(read(&gzip.finish().unwrap()), [Ok(run)]);
    }

    #[test]
    fn a_too_long_line_is_reported_with_its_number_and_the_next_one_is_read() {
        let run = measured();
        let line = serde_json::to_string(&run).unwrap() + "\n";
        let long = vec![b'{'; LONGEST_LINE + 1];
        let text = [line.as_bytes(), &long, b"\n", line.as_bytes()].concat();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&text).unwrap();
        for bytes in [text, gzip.finish().unwrap()] {
            let found = read(&bytes);
            let [Ok(first), Err(bad), Ok(last)] = &found[..] else { panic!("{found:?}") };
            assert_eq!((first, last, bad.line), (&run, &run, 2));
            assert!(bad.problem.contains("longer than 16MiB"), "{bad:?}");
        }
        // The longest that may be is read to its end.
        let mut longest = vec![b' '; LONGEST_LINE - line.len()];
        longest.extend_from_slice(line.as_bytes());
        assert_eq!(read(&longest), [Ok(run)]);
    }

    #[test]
    fn a_line_of_more_steps_than_any_run_has_is_no_run() {
        let mut run = measured();
        run.steps = vec![run.steps[0].clone(); 10_000];
        let most = serde_json::to_string(&run).unwrap();
        run.steps.push(run.steps[0].clone());
        let found = read(format!("{most}\n{}\n", serde_json::to_string(&run).unwrap()).as_bytes());
        let [Ok(_), Err(bad)] = &found[..] else { panic!("{} results", found.len()) };
        assert!(bad.problem.contains("more than 10000 steps"), "{bad:?}");
    }

    #[test]
    fn a_line_that_is_no_run_is_reported_with_its_number_and_the_rest_is_read() {
        let run = measured();
        let line = serde_json::to_string(&run).unwrap();
        let found = read(format!("{line}\n\n{{\"schema\":9}}\n{line}").as_bytes());
        let [Ok(first), Err(bad), Ok(last)] = &found[..] else { panic!("{found:?}") };
        assert_eq!((first, last, bad.line), (&run, &run, 3));
        assert!(bad.problem.starts_with("a newer imaptrace wrote this run"), "{bad:?}");

        let member = segment::pack([&run], UNIX_EPOCH).unwrap();
        let damaged = [&member[..], &member[..100], &member].concat();
        let found = read(&damaged);
        let [Ok(first), Err(bad), Ok(last)] = &found[..] else { panic!("{found:?}") };
        assert_eq!((first, last, bad.line, bad.at_end), (&run, &run, 2, false));
        assert!(bad.problem.contains("the data are damaged (1 run)"), "{bad:?}");
        // Only a part of the newest group is there yet.
        let found = read(&[&member[..], &member[..100]].concat());
        assert!(matches!(&found[..], [Ok(_), Err(BadLine { at_end: true, .. })]), "{found:?}");

        let headless = [&[0x1f, 0x8b, 0, 0][..], &member[4..], &member].concat();
        let found = read(&headless);
        assert!(matches!(&found[..], [Err(_), Ok(last)] if *last == run), "{found:?}");
        // Not even the first byte need be there.
        let found = read(&headless[1..]);
        assert!(matches!(&found[..], [Err(_), Ok(last)] if *last == run), "{found:?}");
    }
}
