//! What is known of the inside of a run's steps: waits, the server's events, and what the server's processes used. Rows of a
//! waterfall and of a Markdown table.
//!
//! Waits and events stand below their step; events of the login and what is below them, too. What is of all of the session, its event
//! and the sums of its processes, stands behind the login. Called by `table`, `waterfall` and `markdown`.

use std::collections::HashSet;

use imaptrace_imap::{CommandName, Condition};
use imaptrace_record::{
    Run, Seconds, ServerEvent, ServerEventName, ServerEvents, ServerProcess, ServerTimes, ServerWait, SignedSeconds,
    SpanId, Step,
};

use super::{
    Style,
    text::{duration, safe},
};

/// A process that used so much in a step has a row however short the step was.
const MUCH: Seconds = Seconds::from_micros(1_000);
/// The name of a wait.
pub(super) const WAIT: &str = "wait";

/// A line about the inside of a step, or about the session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct InnerRow {
    /// How deep it is below the row of its step, or 0.
    depth: usize,
    /// What it is: `wait`, `server SELECT`, `auth client`, `process imap`.
    pub(super) name: String,
    /// Begin and end since the start of the run, by our clock; none of a sum.
    pub(super) times: Option<(Seconds, Seconds)>,
    /// How long it took by the clock of who measured it; of a sum the time between its samples.
    pub(super) took: Seconds,
    /// Its figures in words, the most telling first.
    pub(super) facts: Vec<String>,
    /// The server refused something.
    pub(super) refused: bool,
}

impl InnerRow {
    /// The name below that of its step.
    pub(super) fn label(&self) -> String {
        format!("{}{}", "  ".repeat(self.depth), self.name)
    }
}

/// The rows of a run.
#[derive(Debug, Default)]
pub(super) struct InnerRows {
    /// Those of each step.
    steps: Vec<Vec<InnerRow>>,
    /// Those of all of the session.
    session: Vec<InnerRow>,
    /// The index of the step behind which the latter stand.
    login: usize,
}

impl InnerRows {
    pub(super) fn of(run: &Run, style: Style) -> Self {
        let empty = ServerEvents::default();
        let server = run.server_events.as_deref().unwrap_or(&empty);
        let mut rows = ServerRows { server, times: ServerTimes::of(run), drawn: HashSet::new(), style };
        let mut steps: Vec<Vec<InnerRow>> = Vec::new();
        for step in &run.steps {
            let mut inside: Vec<_> = step.waits.iter().map(|wait| wait_row(wait, style)).collect();
            if let Some(id) = step.span_id.filter(|_| step.has_span()) {
                rows.below(id, 1, &mut inside);
                let processes = server.processes.iter().filter(|process| process.span_id == Some(id));
                inside
                    .extend(processes.filter(|process| is_notable(process)).map(|process| rows.process(process, 1, 0)));
            }
            steps.push(inside);
        }
        let mut session = Vec::new();
        // Those below the root or without a known parent; last those that are below each other, in a file that holds any.
        let ids: HashSet<_> = server.events.iter().map(|event| event.span_id).collect();
        let is_inner = |event: &&ServerEvent| ids.contains(&event.parent_span_id);
        for event in server.events.iter().filter(|event| !is_inner(event)).chain(server.events.iter().filter(is_inner))
        {
            rows.event(event, 0, &mut session);
        }
        let sums = server.processes.iter().filter(|process| process.span_id.is_none() && is_notable(process));
        let sums: Vec<_> = sums.collect();
        for (index, process) in sums.iter().enumerate() {
            let same = |other: &&&ServerProcess| other.process == process.process && other.host == process.host;
            // The first of a name has the most time.
            if !sums.iter().take(index).any(|other| same(&other)) {
                session.push(rows.process(process, 0, sums.iter().filter(same).count() - 1));
            }
        }
        let is_login = |step: &Step| step.name.command().is_some_and(CommandName::is_login);
        let login = run.steps.iter().rposition(is_login).unwrap_or_else(|| run.steps.len().saturating_sub(1));
        Self { steps, session, login }
    }

    /// The rows below the step with this index.
    pub(super) fn of_step(&self, index: usize) -> &[InnerRow] {
        self.steps.get(index).map(Vec::as_slice).unwrap_or_default()
    }

    /// The rows of the session.
    pub(super) fn of_session(&self) -> &[InnerRow] {
        &self.session
    }

    /// The rows that stand behind the step with this index, in their order.
    pub(super) fn behind(&self, index: usize) -> impl Iterator<Item = &InnerRow> {
        let session = if index == self.login { self.session.as_slice() } else { &[] };
        self.of_step(index).iter().chain(session)
    }

    /// All rows.
    pub(super) fn all(&self) -> impl Iterator<Item = &InnerRow> {
        self.steps.iter().flatten().chain(&self.session)
    }
}

fn wait_row(wait: &ServerWait, style: Style) -> InnerRow {
    InnerRow {
        depth: 1,
        name: WAIT.to_owned(),
        times: Some((wait.start_s, wait.start_s.saturating_add(wait.duration_s))),
        took: wait.duration_s,
        facts: vec![format!("server {}", duration(wait.server_s, style))],
        refused: false,
    }
}

/// Most processes use next to nothing in most steps. In a longer one that shows that they waited.
fn is_notable(process: &ServerProcess) -> bool {
    let parts = [Some(process.cpu_s), Some(process.run_queue_s), process.block_wait_s, process.rest_s];
    let used = parts.into_iter().flatten().fold(Seconds::ZERO, Seconds::saturating_add);
    used >= MUCH || (used > Seconds::ZERO && process.sampled_s >= ServerWait::SHORTEST)
}

/// Makes rows of what the server reported, each once.
struct ServerRows<'a> {
    server: &'a ServerEvents,
    times: ServerTimes,
    drawn: HashSet<SpanId>,
    style: Style,
}

impl<'a> ServerRows<'a> {
    /// The events below a span, each before those below it.
    fn below(&mut self, parent: SpanId, depth: usize, rows: &mut Vec<InnerRow>) {
        let server = self.server;
        for event in server.events.iter().filter(|event| event.parent_span_id == parent) {
            self.event(event, depth, rows);
        }
    }

    fn event(&mut self, event: &'a ServerEvent, depth: usize, rows: &mut Vec<InnerRow>) {
        if !self.drawn.insert(event.span_id) {
            return;
        }
        rows.push(InnerRow {
            depth,
            name: event_name(event),
            times: self.times.get(event.span_id),
            took: event.duration_s,
            facts: self.event_facts(event),
            refused: is_refused(event),
        });
        self.below(event.span_id, depth + 1, rows);
    }

    /// `lock wait 2.54 s, running 2.55 s, 3 mails opened: 9/9 headers not cached`.
    fn event_facts(&self, event: &ServerEvent) -> Vec<String> {
        let time = |name: &str, time: Option<Seconds>| Some(format!("{name} {}", duration(time?, self.style)));
        let mut facts = Vec::new();
        facts.extend(event.status.filter(|status| *status != Condition::Ok).map(|status| status.to_string()));
        facts.extend((event.success == Some(false)).then(|| "refused".to_owned()));
        facts.extend(time("lock wait", event.lock_wait_s.filter(|wait| *wait > Seconds::ZERO)));
        facts.extend(time("running", event.running_s));
        let opened = event.mail_opened.filter(|count| *count > 0);
        facts.extend(opened.map(|count| {
            let reasons: Vec<_> = event.reasons.iter().map(|reason| safe(reason.as_str(), self.style)).collect();
            let why = if reasons.is_empty() { String::new() } else { format!(": {}", reasons.join("; ")) };
            format!("{count} {} opened{why}", if count == 1 { "mail" } else { "mails" })
        }));
        facts.extend(time("by its own figure", event.reported_s));
        facts.extend(self.host(event.host));
        facts
    }

    /// A sum, and how many others of its name there are.
    fn process(&self, process: &ServerProcess, depth: usize, others: usize) -> InnerRow {
        let time = |name: &str, time: Seconds| format!("{name} {}", duration(time, self.style));
        let mut facts = vec![time("CPU", process.cpu_s), time("run queue", process.run_queue_s)];
        facts.extend(process.rest_s.map(|rest| time("storage", rest)));
        facts.extend(process.block_wait_s.map(|wait| time("block devices", wait)));
        facts.push(time("of", process.sampled_s));
        facts.extend((others > 0).then(|| format!("and {others} more")));
        facts.extend(self.host(process.host));
        let name = format!("process {}", process.process.as_str());
        InnerRow { depth, name, times: None, took: process.sampled_s, facts, refused: false }
    }

    /// The host's name, where several have reported.
    fn host(&self, index: u32) -> Option<String> {
        let host = self.server.hosts.get(usize::try_from(index).ok()?)?;
        (self.server.hosts.len() > 1).then(|| format!("on {}", safe(host.name.as_str(), self.style)))
    }
}

/// That of its span in the trace, and of a command with `server`, to tell it from the step.
fn event_name(event: &ServerEvent) -> String {
    match event.name {
        ServerEventName::ImapCommandFinished => {
            return format!("server {}", event.command.map_or("command", CommandName::as_str));
        }
        ServerEventName::AuthPassdbRequestFinished => "passdb",
        ServerEventName::AuthUserdbRequestFinished => "userdb",
        ServerEventName::AuthRequestFinished => "auth",
        ServerEventName::AuthClientRequestFinished => "auth client",
        ServerEventName::MailUserSessionFinished => "session",
    }
    .to_owned()
}

fn is_refused(event: &ServerEvent) -> bool {
    event.success == Some(false) || matches!(event.status, Some(Condition::No | Condition::Bad))
}

/// Who reported, how far each clock was off, and what had no room.
pub(super) fn reporters(run: &Run, style: Style) -> Option<String> {
    let server = run.server_events.as_deref()?;
    let mut words: Vec<_> = server
        .hosts
        .iter()
        .map(|host| {
            let offset = host.clock_offset_s.map_or(0, SignedSeconds::as_micros);
            let by = duration(Seconds::from_micros(offset.unsigned_abs()), style);
            let clock = match offset {
                _ if host.uncertain == Some(true) => ", whose clock fits no single offset: bars may be off".to_owned(),
                0 => String::new(),
                1.. => format!(", its clock {by} ahead"),
                _ => format!(", its clock {by} behind"),
            };
            format!("{}{clock}", safe(host.name.as_str(), style))
        })
        .collect();
    words.extend(server.dropped.map(|count| format!("{count} more had no room")));
    (!words.is_empty()).then(|| words.join(" - "))
}

#[cfg(test)]
mod tests {
    use imaptrace_record::{ServerHost, ServerText};

    use super::*;
    use crate::terminal::{samples, server_samples::reported};

    const PLAIN: Style = Style { width: 100, colour: false, ascii: true };

    fn run() -> Run {
        reported(samples::slow_fetch())
    }

    /// Label, begin in milliseconds and facts of each row.
    fn lines<'a>(rows: impl IntoIterator<Item = &'a InnerRow>) -> Vec<String> {
        let line = |row: &InnerRow| {
            let from = row.times.map_or_else(|| "-".to_owned(), |(from, _)| (from.as_micros() / 1_000).to_string());
            format!("{} {from} {}", row.label(), row.facts.join(", "))
        };
        rows.into_iter().map(line).collect()
    }

    #[test]
    fn waits_events_and_processes_stand_below_their_step_and_the_session_behind_the_login() {
        let rows = InnerRows::of(&run(), PLAIN);
        let login = [
            "  auth client 6 ",
            "    auth 7 ",
            "      passdb 8 ",
            "  userdb 16 ",
            "session 18 ",
            "process imap - CPU 9.30 ms, run queue 4.00 ms, of 470 ms",
            "process auth - CPU 1.00 ms, run queue 0 us, block devices 10.0 ms, of 200 ms, and 1 more",
        ];
        assert_eq!(lines(rows.behind(5)), login);
        assert_eq!(lines(rows.of_step(7)), ["  server SELECT 21 running 7.90 ms"]);
        let fetch = [
            "  wait 54 server 350 ms",
            "  wait 430 server 30.0 ms",
            "  server FETCH 30 lock wait 20.0 ms, running 421 ms, 20 mails opened: 9/9 headers not cached",
            "  process imap - CPU 4.10 ms, run queue 2.20 ms, storage 395 ms, of 430 ms",
        ];
        assert_eq!(lines(rows.behind(8)), fetch);
        assert_eq!((rows.of_step(6), rows.of_step(99)), (&[][..], &[][..]));
        assert_eq!(rows.all().count(), login.len() + 1 + fetch.len());
        let plain = InnerRows::of(&samples::slow_fetch(), PLAIN);
        assert_eq!(plain.all().count(), 0);
    }

    #[test]
    fn each_event_is_drawn_once_below_whatever_it_is_in_a_file() {
        let mut run = run();
        let server = run.server_events.as_mut().unwrap();
        // Below each other, below itself, and below nothing that is there.
        let [first, second, third, ..] = server.events.as_mut_slice() else { panic!() };
        (first.parent_span_id, second.parent_span_id) = (second.span_id, first.span_id);
        third.parent_span_id = third.span_id;
        server.events[3].parent_span_id = SpanId::from_bytes([0xee; 8]).unwrap();
        let all = server.events.len();
        let rows = InnerRows::of(&run, PLAIN);
        assert_eq!(rows.all().filter(|row| row.times.is_some()).count(), all + run.steps[8].waits.len());
        let lines = lines(rows.of_session());
        assert_eq!(lines[..2], ["userdb 16 ", "session 18 "]);
        assert_eq!(lines[lines.len() - 5..][..3], ["auth client 6 ", "  passdb 8 ", "auth 7 "]);
    }

    #[test]
    fn a_process_that_used_nothing_or_next_to_nothing_in_a_short_step_has_no_row() {
        let us = Seconds::from_micros;
        for (cpu, sampled, is_shown) in [(0, 900_000, false), (1, 9_999, false), (1, 10_000, true), (1_000, 0, true)] {
            let mut run = run();
            let process = &mut run.server_events.as_mut().unwrap().processes[0];
            (process.cpu_s, process.run_queue_s, process.rest_s) = (us(cpu), us(0), None);
            process.sampled_s = us(sampled);
            let lines = lines(InnerRows::of(&run, PLAIN).of_step(8));
            assert_eq!(lines.iter().any(|line| line.starts_with("  process imap")), is_shown, "{cpu} {sampled}");
        }
    }

    #[test]
    fn of_a_run_without_a_login_the_session_stands_at_the_end() {
        let mut run = run();
        run.steps[5].name = "resolve".into();
        let last = run.steps.len() - 1;
        assert_eq!(lines(InnerRows::of(&run, PLAIN).behind(last)).first().unwrap(), "session 18 ");
    }

    #[test]
    fn what_was_refused_is_marked_and_several_hosts_are_named() {
        let mut run = run();
        let server = run.server_events.as_mut().unwrap();
        server.hosts.push(ServerHost {
            name: ServerText::new(b"proxy\x1b", 64),
            clock_offset_s: None,
            uncertain: Some(true),
        });
        (server.events[0].success, server.events[5].status, server.events[5].host) =
            (Some(false), Some(Condition::No), 1);
        server.events[5].mail_opened = Some(1);
        let rows = InnerRows::of(&run, PLAIN);
        let refused: Vec<_> = rows.all().filter(|row| row.refused).cloned().collect();
        let expected = [
            "  auth client 6 refused, on mail01",
            "  server SELECT 29 NO, running 7.90 ms, 1 mail opened, on proxy\\x1b",
        ];
        assert_eq!(lines(&refused), expected);
        assert_eq!(
            reporters(&run, PLAIN).unwrap(),
            "mail01, its clock 1.20 s ahead - proxy\\x1b, whose clock fits no single offset: bars may be off - \
             2 more had no room"
        );
        let server = run.server_events.as_mut().unwrap();
        (server.hosts[0].clock_offset_s, server.dropped) = (Some(SignedSeconds::from_micros(-20)), None);
        server.hosts.truncate(1);
        assert_eq!(reporters(&run, PLAIN).unwrap(), "mail01, its clock 20 us behind");
        run.server_events = None;
        assert_eq!(reporters(&run, PLAIN), None);
    }
}
