//! Runs of files: with their start, place and verdict, and cut to what a run of ours can hold.
//!
//! A file may hold a record that no probe makes, with ten thousand steps or texts of megabytes. Called by `cli` for `show`.

use imaptrace_record::{Run, ServerEvents, Step, StepName, Verdict};

use super::{
    Style,
    line::dated_line,
    text::{TextLine, Tone, clip_start, wrap},
    verdict::verdict_facts,
    waterfall::waterfall,
};

/// The most steps of a run that are shown: a run of ours has some twenty.
const STEPS: usize = 100;
/// The most notes, alerts, attempts and labels.
const FACTS: usize = 64;
/// The longest text in bytes.
const TEXT: usize = 256;

/// The waterfall of a run, below its start and the file that it is in, and above its verdict.
pub fn kept(run: Run, place: &str, style: Style) -> String {
    let (run, cut) = bounded(run);
    let mut page = String::new();
    let mut line = TextLine::of(Tone::Dim, format!("{} {} UTC  ", run.started_at.date(), run.started_at.time_of_day()));
    let place = clip_start(&super::safe(place, style), style.width.saturating_sub(line.width()), style);
    line.push(Tone::Dim, place).write(style, &mut page);
    page.push_str(&waterfall(&run, style));
    for (name, text) in verdict_facts(&run, style) {
        for (index, part) in wrap(&text, style.width.saturating_sub(9)).into_iter().enumerate() {
            let name = if index == 0 { name.to_lowercase() } else { String::new() };
            TextLine::of(Tone::Dim, format!("{name:<9}")).push(Tone::Plain, part).write(style, &mut page);
        }
    }
    if let Some(cut) = cut {
        for part in wrap(&cut, style.width) {
            TextLine::of(Tone::Warn, part).write(style, &mut page);
        }
    }
    page
}

/// One line for a list of runs.
pub fn listed(run: Run, style: Style) -> String {
    dated_line(&bounded(run).0, style)
}

/// The run without what would flood a terminal, and what was left out, in words.
pub(super) fn bounded(mut run: Run) -> (Run, Option<String>) {
    let mut cut = Cut::default();
    cut.list(&mut run.steps, STEPS, "steps");
    cut.list(&mut run.notes, FACTS, "notes");
    while run.labels.len() > FACTS {
        run.labels.pop_last();
        cut.texts = true;
    }
    for step in &mut run.steps {
        cut.step(step);
    }
    for note in &mut run.notes {
        cut.text(&mut note.text);
    }
    let server = &mut run.server;
    for text in [&mut run.target, &mut run.account, &mut server.address] {
        cut.text(text);
    }
    let optional = [
        &mut run.suggested_mailbox,
        &mut server.tls_version,
        &mut server.tls_cipher,
        &mut server.protocol,
        &mut server.capability_hash,
    ];
    for text in optional.into_iter().flatten() {
        cut.text(text);
    }
    for name in [&mut run.failed_step, &mut run.slowest_step].into_iter().flatten() {
        cut.name(name);
    }
    if let Some(server) = &mut run.server_events {
        cut.server_events(server);
    }
    if let Some(verdict) = &mut run.verdict {
        cut.verdict(verdict);
    }
    (run, cut.words())
}

/// What was left out.
#[derive(Default)]
struct Cut {
    lists: Vec<(usize, &'static str)>,
    texts: bool,
}

impl Cut {
    fn list<T>(&mut self, list: &mut Vec<T>, most: usize, what: &'static str) {
        let more = list.len().saturating_sub(most);
        list.truncate(most);
        if more > 0 {
            match self.lists.iter_mut().find(|(_, known)| *known == what) {
                Some((count, _)) => *count += more,
                None => self.lists.push((more, what)),
            }
        }
    }

    fn text(&mut self, text: &mut String) {
        if text.len() <= TEXT {
            return;
        }
        let end = (0..=TEXT - '…'.len_utf8()).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
        text.truncate(end);
        text.push('…');
        self.texts = true;
    }

    fn name(&mut self, name: &mut StepName) {
        if let StepName::Other(text) = name {
            self.text(text);
        }
    }

    fn step(&mut self, step: &mut Step) {
        self.name(&mut step.name);
        self.list(&mut step.events, FACTS, "events");
        self.list(&mut step.waits, FACTS, "waits");
        if let Some(mailbox) = &mut step.mailbox {
            self.text(mailbox);
        }
        if let Some(connect) = &mut step.connect {
            self.list(&mut connect.attempts, FACTS, "attempts");
        }
        if let Some(dns) = &mut step.dns {
            self.list(&mut dns.answers, FACTS, "addresses");
            self.text(&mut dns.question);
        }
        if let Some(tls) = &mut step.tls {
            self.list(&mut tls.chain, FACTS, "certificates");
            self.text(&mut tls.server_name);
            for text in [&mut tls.version, &mut tls.cipher, &mut tls.sha256, &mut tls.key].into_iter().flatten() {
                self.text(text);
            }
        }
    }

    fn server_events(&mut self, server: &mut ServerEvents) {
        self.list(&mut server.hosts, FACTS, "hosts");
        self.list(&mut server.events, ServerEvents::MAX_EVENTS, "events of the server");
        self.list(&mut server.processes, ServerEvents::MAX_PROCESSES, "processes of the server");
        for event in &mut server.events {
            self.list(&mut event.reasons, ServerEvents::MAX_REASONS, "reasons");
        }
    }

    fn verdict(&mut self, verdict: &mut Verdict) {
        for list in [&mut verdict.evidence, &mut verdict.against] {
            self.list(list, Verdict::MAX_TEXTS, "texts of the verdict");
            for text in list {
                self.text(text);
            }
        }
        if let Some(step) = &mut verdict.step {
            self.name(step);
        }
    }

    fn words(self) -> Option<String> {
        let mut words: Vec<_> = self.lists.iter().map(|(count, what)| format!("{count} more {what}")).collect();
        words.extend(self.texts.then(|| "the rest of long texts".to_owned()));
        (!words.is_empty()).then(|| format!("not shown: {}; --output json has all", words.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use imaptrace_record::{Note, NoteLevel, Seconds};

    use super::*;
    use crate::terminal::samples;

    const PLAIN: Style = Style { width: 100, colour: false, ascii: true };

    #[test]
    fn a_run_of_ours_is_shown_whole_below_its_start_and_its_file() {
        let run = samples::slow_fetch();
        let page = kept(run.clone(), "queue/00000000000000000042.jsonl.gz", PLAIN);
        let (head, rest) = page.split_once('\n').unwrap();
        assert_eq!(head, "2026-11-23 11:42:40 UTC  queue/00000000000000000042.jsonl.gz");
        assert_eq!(rest, waterfall(&run, PLAIN));
        // The end of a path names the file.
        let page = kept(run, &format!("/{}/queue/42.jsonl.gz", "long".repeat(50)), PLAIN);
        let head = page.lines().next().unwrap();
        assert!(head.len() == 100 && head.ends_with("long/queue/42.jsonl.gz") && head.contains("UTC  ~"), "{head}");
    }

    #[test]
    fn what_no_run_of_ours_holds_is_cut_and_the_cut_is_said() {
        let mut run = samples::passed();
        let step = run.steps[4].clone();
        run.steps.extend(std::iter::repeat_n(step, 9_990));
        run.steps[7].mailbox = Some("x".repeat(16 << 20));
        run.target = "ä".repeat(8 << 20);
        let note = Note { at_s: Seconds::ZERO, level: NoteLevel::Warn, text: "y".repeat(1 << 20) };
        run.notes = vec![note; 70];
        let page = kept(run, "-", PLAIN);
        assert!(page.len() < 60_000, "{} bytes", page.len());
        let last = page.lines().last().unwrap();
        assert_eq!(last, "not shown: 9900 more steps, 6 more notes, the rest of long texts; --output json has all");
    }
}
