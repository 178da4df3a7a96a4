//! The codec of segments: a sequence of gzip members, each a group of runs, one JSON line a run; `zcat` shows them.
//!
//! The length and CRC of gzip (RFC 1952 §2.3.1) are the checksum. A field of the header has the number of runs, so that they
//! can be counted without decompression. Does no I/O. Called by [`spool`](super::spool), and by [`lines`](super::lines) for
//! files of any origin.

use std::{
    io::{self, Read as _, Write as _},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use flate2::{Compression, GzBuilder, bufread::GzDecoder};
use imaptrace_record::{Run, SCHEMA};

use super::load::Load;

/// The name of our field in the header (RFC 1952 §2.3.1.1).
const FIELD: [u8; 2] = *b"iT";
/// The field's content: length of the member, runs, spans; four bytes each, the lowest first.
const CONTENT: usize = 12;
/// Where the content begins: after ten bytes of header, the length of all fields, and the field's name and length.
const CONTENT_AT: usize = 10 + 2 + 4;
/// Bytes of a member that hold its [`MemberHeader`].
pub(super) const HEAD: usize = CONTENT_AT + CONTENT;
/// The first bytes of a member: the magic number, the method "deflate".
const MAGIC: [u8; 3] = [0x1f, 0x8b, 8];
/// The largest decompressed member.
const LARGEST: usize = 64 << 20;
/// The most lines of a member that we write.
const MOST_LINES: usize = 1024;

/// The header of a member that we wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MemberHeader {
    /// Bytes of the whole member.
    pub(super) length: u64,
    pub(super) runs: u64,
    pub(super) spans: u64,
    /// When it was written, to the second.
    pub(super) written: SystemTime,
}

/// What begins at a place of a segment: a whole member, or damaged bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SegmentPart {
    /// The lines of the member; none when the bytes are damaged.
    pub(super) text: Option<Vec<u8>>,
    /// Number of runs: by the header, else by the lines; one for damaged bytes without a header.
    pub(super) runs: u64,
    /// When the member was written, if we wrote it.
    pub(super) written: Option<SystemTime>,
    /// Where the next part begins.
    pub(super) next: usize,
}

/// Encodes these runs as one member.
pub(super) fn pack<'a>(runs: impl IntoIterator<Item = &'a Run>, now: SystemTime) -> io::Result<Vec<u8>> {
    let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let field = [&FIELD[..], &[CONTENT.to_le_bytes()[0], 0], &[0; CONTENT]].concat();
    let seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
    let mut gzip = GzBuilder::new().mtime(seconds).extra(field).write(Vec::new(), Compression::default());
    let (mut count, mut spans) = (0_u32, 0_u32);
    for run in runs {
        // A run without JSON (a year past 9999) leaves an empty line, so that the others keep their places.
        gzip.write_all(&serde_json::to_vec(run).unwrap_or_default())?;
        gzip.write_all(b"\n")?;
        count += 1;
        spans = spans.saturating_add(u32::try_from(Load::of(run).spans).unwrap_or(u32::MAX));
    }
    let mut member = gzip.finish()?;
    let length = u32::try_from(member.len()).map_err(io::Error::other)?;
    let content = [length.to_le_bytes(), count.to_le_bytes(), spans.to_le_bytes()].concat();
    if let Some(place) = member.get_mut(CONTENT_AT..HEAD) {
        place.copy_from_slice(&content);
    }
    Ok(member)
}

/// The header, if `bytes` begin with a member that we wrote.
pub(super) fn head(bytes: &[u8]) -> Option<MemberHeader> {
    let number = |at: usize| {
        let four = bytes.get(at..at + 4)?;
        Some(u64::from(u32::from_le_bytes(four.try_into().ok()?)))
    };
    let ours = bytes.starts_with(&MAGIC) && bytes.get(CONTENT_AT - 4..CONTENT_AT - 2) == Some(&FIELD[..]);
    let head = MemberHeader {
        length: number(CONTENT_AT)?,
        runs: number(CONTENT_AT + 4)?,
        spans: number(CONTENT_AT + 8)?,
        written: UNIX_EPOCH + Duration::from_secs(number(4)?),
    };
    // A member is longer than its header, and a run takes at least one byte.
    (ours && head.length > HEAD as u64 && head.runs <= head.length).then_some(head)
}

/// Decodes the part that begins at a place; none at the end.
pub(super) fn part(bytes: &[u8], at: usize) -> Option<SegmentPart> {
    let rest = bytes.get(at..).filter(|rest| !rest.is_empty())?;
    let head = head(rest);
    let mut room = LARGEST;
    if let Some((text, used)) = unpack(rest, &mut room) {
        // A member with more lines than we write counts as one.
        let counted = || if is_foreign(&text) { 1 } else { lines(&text).count() as u64 };
        let runs = head.map_or_else(counted, |head| head.runs);
        return Some(SegmentPart { text: Some(text), runs, written: head.map(|head| head.written), next: at + used });
    }
    let runs = head.map_or(1, |head| head.runs.max(1));
    let named_end = head.and_then(|head| usize::try_from(head.length).ok()).and_then(|length| at.checked_add(length));
    let named_end =
        named_end.filter(|next| bytes.get(*next..).is_some_and(|next| next.is_empty() || next.starts_with(&MAGIC)));
    // The header may be damaged: a whole member before that place comes first.
    let end = named_end.unwrap_or(bytes.len());
    // Bounded in total: bytes that only look like members could take hours.
    let mut room = LARGEST;
    let found = (at + 1..end).find(|next| bytes.get(*next..).is_some_and(|rest| unpack(rest, &mut room).is_some()));
    Some(SegmentPart { text: None, runs, written: None, next: found.unwrap_or(end) })
}

/// The parts from a place on, each with where it begins.
pub(super) fn parts(bytes: &[u8], mut at: usize) -> impl Iterator<Item = (usize, SegmentPart)> {
    std::iter::from_fn(move || {
        let part = part(bytes, at)?;
        Some((std::mem::replace(&mut at, part.next), part))
    })
}

/// The content of the member that begins here, and its length; none when it is damaged or takes more than `room`, which is
/// reduced by the decompressed bytes.
fn unpack(bytes: &[u8], room: &mut usize) -> Option<(Vec<u8>, usize)> {
    if !bytes.starts_with(&MAGIC) || skips_groups(bytes) {
        return None;
    }
    let mut decoder = GzDecoder::new(bytes);
    let mut text = Vec::new();
    let read = decoder.by_ref().take(*room as u64).read_to_end(&mut text);
    *room -= text.len();
    (read.is_ok() && *room > 0).then(|| (text, bytes.len() - decoder.into_inner().len()))
}

/// Whether the header has more fields than ours. The length of the fields in a header that was cut short is made of other
/// bytes, and would lead over whole members into the body of one, which has a valid checksum.
fn skips_groups(bytes: &[u8]) -> bool {
    const HAS_FIELDS: u8 = 4;
    let fields = bytes.get(10..12).and_then(|two| two.try_into().ok()).map_or(0, u16::from_le_bytes);
    bytes.get(3).is_some_and(|flags| flags & HAS_FIELDS != 0) && usize::from(fields) > HEAD - 12
}

pub(super) fn is_foreign(text: &[u8]) -> bool {
    lines(text).nth(MOST_LINES).is_some()
}

/// The run of a line, or why it cannot be sent.
pub(super) fn line(line: &[u8]) -> Result<Run, String> {
    #[derive(serde::Deserialize)]
    struct Version {
        schema: u64,
    }
    // The caller reports the number of the line in the file.
    let foreign = |error: serde_json::Error| {
        format!("this is no run: {}", error.to_string().replace(" at line 1 column ", " at column "))
    };
    let read = serde_json::from_slice::<Run>(line);
    match &read {
        Ok(run) if run.schema <= SCHEMA => read.map_err(foreign),
        // A newer schema may differ from ours.
        _ => match serde_json::from_slice::<Version>(line) {
            Ok(Version { schema }) if schema > SCHEMA.into() => {
                Err(format!("a newer imaptrace wrote this run: its schema is {schema}, this one reads up to {SCHEMA}"))
            }
            _ => read.map_err(foreign),
        },
    }
}

pub(super) fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.strip_suffix(b"\n").unwrap_or(text).split(|byte| *byte == b'\n').filter(|_| !text.is_empty())
}

#[cfg(test)]
pub(super) mod tests {
    use imaptrace_record::{Seconds, SpanId, Step, Timestamp, TraceId};
    use proptest::prelude::*;
    use rand::Rng as _;

    use super::*;

    /// A run whose every measured value is its own, as from a server: two more steps than the sample, 11 spans in all.
    pub(in crate::delivery) fn measured() -> Run {
        let mut random = rand::rng();
        let mut run: Run = serde_json::from_str(imaptrace_testkit::PASSED_RUN).unwrap();
        run.trace_id = TraceId::random();
        run.span_id = SpanId::random();
        run.parent_span_id = None;
        run.target = format!("mail{:03}", random.random_range(1..=1000));
        let at = UNIX_EPOCH + Duration::from_micros(1_795_434_160_000_000 + random.random_range(0..86_400_000_000));
        run.started_at = Timestamp::from(at);
        let command = run.steps.iter().find(|step| step.name == "LOGIN").unwrap().clone();
        let more = ["ID", "NAMESPACE"].map(|name| Step { name: name.into(), ..command.clone() });
        run.steps.splice(5..5, more);
        let mut micros = |most: u64| Seconds::from_micros(random.random_range(1..most));
        let mut at = Seconds::ZERO;
        for step in run.steps.iter_mut().filter(|step| step.span_id.is_some()) {
            step.span_id = Some(SpanId::random());
            step.start_s = at;
            step.duration_s = micros(20_000);
            at = step.end_s().saturating_add(micros(100));
            // As long as a server has a history, and the line is measured.
            if step.is_command() || matches!(step.name.as_str(), "tls" | "greeting") {
                for part in [&mut step.first_byte_s, &mut step.server_s, &mut step.network_s, &mut step.transfer_s] {
                    *part = Some(micros(10_000));
                }
                step.rtt_min_s = Some(micros(400));
            }
            step.baseline_s = Some(micros(20_000));
            step.ratio = Some((micros(500).as_f64() * 1e6).round() / 1e2);
            step.share = Some((micros(10_000).as_f64() * 1e6).round() / 1e4);
            for event in &mut step.events {
                event.at_s = step.start_s;
            }
        }
        run.duration_s = at;
        run.first_loading_latency_s = Some(at);
        run.first_row_s = Some(at.saturating_sub(micros(1000)));
        run
    }

    fn runs(text: &[u8]) -> Vec<Run> {
        lines(text).map(|text| line(text).unwrap()).collect()
    }

    #[test]
    fn a_member_contains_its_runs_and_its_header_their_number() {
        let sent = [measured(), measured()];
        let now = UNIX_EPOCH + Duration::from_secs(1_795_434_160);
        let member = pack(&sent, now).unwrap();
        let expected = MemberHeader { length: member.len() as u64, runs: 2, spans: 22, written: now };
        assert_eq!(head(&member), Some(expected));
        let twice = [member.clone(), member.clone()].concat();
        let first = part(&twice, 0).unwrap();
        assert_eq!((first.runs, first.written, first.next), (2, Some(now), member.len()));
        assert_eq!(runs(&first.text.unwrap()), sent);
        assert!(
            matches!(part(&twice, first.next), Some(SegmentPart { text: Some(_), next, .. }) if next == twice.len())
        );
        assert_eq!(part(&twice, twice.len()), None);
    }

    #[test]
    fn a_span_takes_at_most_100_bytes_in_groups_of_three_runs() {
        let (mut bytes, mut spans) = (0, 0);
        for _ in 0..100 {
            let member = pack(&[measured(), measured(), measured()], UNIX_EPOCH).unwrap();
            spans += head(&member).unwrap().spans;
            bytes += member.len() as u64;
        }
        assert_eq!(spans, 100 * 3 * 11);
        // `--nocapture` shows how many it is.
        io::Write::write_fmt(&mut io::stderr(), format_args!("{} bytes a span\n", bytes / spans)).unwrap();
        assert!(bytes <= 100 * spans, "{} bytes a span", bytes / spans);
    }

    #[test]
    fn damage_costs_only_the_damaged_member() {
        let members = [pack(&[measured()], UNIX_EPOCH), pack(&[measured(), measured()], UNIX_EPOCH)];
        let [first, second] = members.map(Result::unwrap);
        let whole = [first.clone(), second.clone(), first.clone()].concat();
        // Damage in the body leaves the number of lost runs in the header; damage in the header does not.
        for (at, lost) in [(first.len() + second.len() / 2, 2), (first.len() + 1, 1)] {
            let mut damaged = whole.clone();
            damaged[at] ^= 0xff;
            let lost = (None, lost, first.len() + second.len());
            let SegmentPart { text, runs, next, .. } = part(&damaged, first.len()).unwrap();
            assert_eq!((text, runs, next), lost, "{at}");
            assert!(part(&damaged, next).unwrap().text.is_some());
        }
    }

    #[test]
    fn a_wrong_length_in_a_header_costs_no_later_member() {
        let members: Vec<_> = (0..3).map(|_| pack(&[measured()], UNIX_EPOCH).unwrap()).collect();
        let mut bytes = members.concat();
        // The first is damaged, and its header leads to where the third begins.
        let lie = u32::try_from(members[0].len() + members[1].len()).unwrap();
        bytes[CONTENT_AT..CONTENT_AT + 4].copy_from_slice(&lie.to_le_bytes());
        bytes[members[0].len() / 2] ^= 0xff;
        let SegmentPart { text, runs, next, .. } = part(&bytes, 0).unwrap();
        assert_eq!((text, runs, next), (None, 1, members[0].len()));
    }

    #[test]
    fn a_header_that_was_cut_short_does_not_lead_over_whole_groups() {
        let group = pack(&[measured()], UNIX_EPOCH).unwrap();
        // Its first byte becomes the upper half of the length of the fields: 0x1f10 bytes, up to a body.
        let cut = &group[..11];
        let behind = 12 + 0x1f10 - cut.len();
        let other = &group[..behind.checked_sub(HEAD).unwrap() % group.len()];
        let bytes = [cut, &group.repeat(behind / group.len()), other, &group].concat();
        assert!(bytes.get(12 + 0x1f10..).is_some_and(|body| body.starts_with(&group[HEAD..])));
        let SegmentPart { text, runs, next, .. } = part(&bytes, 0).unwrap();
        assert_eq!((text, runs, next), (None, 1, cut.len()));
    }

    #[test]
    fn a_line_of_a_newer_version_and_one_that_is_no_run_have_different_errors() {
        let text = serde_json::to_string(&measured()).unwrap();
        assert!(line(text.as_bytes()).is_ok());
        let newer = text.replace("\"schema\":1", "\"schema\":2");
        for (newer, schema) in [(newer.as_str(), 2), ("{\"schema\":7,\"all\":\"else\"}", 7)] {
            let error = line(newer.as_bytes()).unwrap_err();
            assert!(
                error.starts_with("a newer imaptrace wrote this run") && error.contains(&format!("is {schema},")),
                "{error}"
            );
        }
        for text in ["", "{}", "{\"schema\":1}", "no JSON"] {
            assert!(line(text.as_bytes()).unwrap_err().starts_with("this is no run: "), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_walked_forward_to_the_end(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            cut in 0..3000_usize,
        ) {
            let member = pack(&[measured()], UNIX_EPOCH).unwrap();
            let cut = cut.min(member.len());
            let bytes = [&bytes[..], &member[..cut], &bytes[..], &member].concat();
            let (mut end, mut found) = (0, 0);
            for (at, part) in parts(&bytes, 0) {
                prop_assert!(at == end && part.next > at && part.next <= bytes.len());
                end = part.next;
                found += usize::from(part.text.is_some());
            }
            prop_assert_eq!(end, bytes.len());
            prop_assert!(found >= 1, "the last member is whole");
        }
    }
}
