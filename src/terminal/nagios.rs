//! Plug-in output for Nagios, Icinga and compatible systems: a line, performance data, and below a line for each run.
//!
//! The format is that of the Monitoring Plugins Development Guidelines: `TEXT | PERFDATA`, then long output. A `|` in other
//! text would begin performance data, so it is escaped like a control character.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Write as _,
};

use imaptrace_record::{AddressFamily, Run, RunOutcome, Seconds};

use super::{
    Style,
    failure::outcome_text,
    text::{duration, safe},
    waterfall::delays,
};

/// The states, with their exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NagiosState {
    Ok = 0,
    Warning = 1,
    Critical = 2,
    Unknown = 3,
}

const PLAIN: Style = Style { width: usize::MAX, colour: false, ascii: true };
/// The most runs that have a line: the last ones.
const LINES: usize = 100;

/// The results of all runs, in memory that does not grow with their number.
#[derive(Debug, Default)]
pub struct Nagios {
    /// Limits on First Loading Latency, `-w` and `-c`: more than the limit is an alert.
    warning: Option<Seconds>,
    critical: Option<Seconds>,
    runs: u64,
    bad: u64,
    /// The worst of all, and the worst of each address family.
    worst: Option<(Run, NagiosState)>,
    families: BTreeMap<Option<AddressFamily>, (Run, NagiosState)>,
    lines: VecDeque<String>,
}

impl Nagios {
    /// No run yet. The limits on First Loading Latency are those of `-w` and `-c`.
    pub fn new(warning: Option<Seconds>, critical: Option<Seconds>) -> Self {
        Self { warning, critical, ..Self::default() }
    }

    /// Adds a run.
    pub fn add(&mut self, run: &Run) {
        let state = self.state(run);
        self.runs += 1;
        self.bad += u64::from(state != NagiosState::Ok);
        if self.worst.as_ref().is_none_or(|worst| is_as_severe((run, state), worst)) {
            self.worst = Some((run.clone(), state));
        }
        if self.families.get(&run.family).is_none_or(|worst| is_as_severe((run, state), worst)) {
            self.families.insert(run.family, (run.clone(), state));
        }
        if self.lines.len() == LINES {
            self.lines.pop_front();
        }
        let family = run.family.map(|family| format!(" {}", family.as_str())).unwrap_or_default();
        let (time, word) = (run.started_at.time_of_day(), state.word());
        self.lines.push_back(format!("{time}{family} {word} - {}\n", describe(run)));
    }

    fn state(&self, run: &Run) -> NagiosState {
        let beyond = |limit: Option<Seconds>| limit.is_some_and(|limit| run.counted_latency() > Some(limit));
        match run.outcome {
            RunOutcome::Void => NagiosState::Unknown,
            RunOutcome::Failed => NagiosState::Critical,
            RunOutcome::Passed if beyond(self.critical) => NagiosState::Critical,
            RunOutcome::Passed if beyond(self.warning) => NagiosState::Warning,
            RunOutcome::Passed => NagiosState::Ok,
        }
    }

    /// The text and the exit code, of one run or several. The worst run decides and is described, critical before warning
    /// before unknown; performance data is of the worst run of each address family. Below are lines of the last hundred runs.
    pub fn conclude(&self) -> (String, u8) {
        let Some((worst, state)) = &self.worst else {
            return ("IMAP UNKNOWN - no run was made\n".to_owned(), NagiosState::Unknown as u8);
        };
        let mut text = format!("IMAP {} - {}", state.word(), describe(worst));
        if self.runs > 1 {
            let _ = write!(text, " ({} of {} runs not OK)", self.bad, self.runs);
        }
        text.push_str(" |");
        for (run, _) in self.families.values() {
            self.perfdata(run, &mut text);
        }
        text.push('\n');
        if self.runs > 1 {
            let before = self.runs - self.lines.len() as u64;
            if before > 0 {
                let _ = writeln!(text, "{before} runs before these");
            }
            text.extend(self.lines.iter().map(String::as_str));
        }
        (text, *state as u8)
    }

    fn perfdata(&self, run: &Run, text: &mut String) {
        let suffix = run.family.map(|family| format!("_{}", family.as_str())).unwrap_or_default();
        let mut used: Vec<String> = Vec::new();
        let mut datum = |name: &str, value: String| {
            let times = used.iter().filter(|other| *other == name).count() + 1;
            used.push(name.to_owned());
            let number = if times > 1 { format!("_{times}") } else { String::new() };
            let _ = write!(text, " {}={value}", quoted(&format!("{name}{number}{suffix}")));
        };
        let limit = |limit: Option<Seconds>| limit.map(|limit| limit.as_f64().to_string()).unwrap_or_default();
        let seconds = |time: Seconds| format!("{:.6}s", time.as_f64());
        if let Some(latency) = run.counted_latency() {
            datum("fll", format!("{};{};{};0", seconds(latency), limit(self.warning), limit(self.critical)));
        }
        if let Some(row) = run.first_row_s.filter(|_| !run.is_latency_delayed()) {
            datum("first_row", format!("{};;;0", seconds(row)));
        }
        datum("duration", format!("{};;;0", seconds(run.duration_s)));
        for step in run.steps.iter().filter(|step| step.was_started()) {
            datum(step.name.as_str(), format!("{};;;0", seconds(step.duration_s)));
        }
        datum("wire_sent", format!("{}B;;;0", run.wire_sent_bytes));
        datum("wire_received", format!("{}B;;;0", run.wire_received_bytes));
    }
}

/// Whether a run is at least as bad as the worst before; among equals the slowest is, and then the last.
fn is_as_severe((run, state): (&Run, NagiosState), (worst, worst_state): &(Run, NagiosState)) -> bool {
    let severity = |state| match state {
        NagiosState::Ok => 0,
        NagiosState::Unknown => 1,
        NagiosState::Warning => 2,
        NagiosState::Critical => 3,
    };
    let weight = |run: &Run, state| (severity(state), run.first_loading_latency_s, run.duration_s);
    weight(run, state) >= weight(worst, *worst_state)
}

impl NagiosState {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warning => "WARNING",
            Self::Critical => "CRITICAL",
            Self::Unknown => "UNKNOWN",
        }
    }
}

fn describe(run: &Run) -> String {
    let target = clean(&run.target);
    match (run.outcome, run.first_loading_latency_s) {
        (RunOutcome::Passed, Some(latency)) => {
            let slowest = run.slowest_step.as_ref().map(|step| format!(", slowest {}", clean(step.as_str())));
            let unlimited = if run.is_latency_delayed() { ", no limit applies: " } else { ", " };
            let delayed = delays(run, PLAIN).map(|delays| format!("{unlimited}{}", pipeless(&delays)));
            let more = delayed.or(slowest).unwrap_or_default();
            format!("First Loading Latency {:.3} s on {target}{more}", latency.as_f64())
        }
        (RunOutcome::Passed, None) => {
            format!("passed in {} on {target}{}", duration(run.duration_s, PLAIN), delay_suffix(run))
        }
        _ => format!("{target}: {}{}", pipeless(&outcome_text(run, PLAIN)), delay_suffix(run)),
    }
}

/// The delays by imaptrace's own pauses.
fn delay_suffix(run: &Run) -> String {
    delays(run, PLAIN).map(|delays| format!(", {}", pipeless(&delays))).unwrap_or_default()
}

/// A label, without the invalid `=` and `'`, and quoted if it has other than the usual characters.
fn quoted(label: &str) -> String {
    let label = clean(label).replace(['=', '\''], "_");
    let usual = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    if !label.is_empty() && label.bytes().all(usual) { label } else { format!("'{label}'") }
}

fn clean(text: &str) -> String {
    pipeless(&safe(text, PLAIN))
}

fn pipeless(text: &str) -> String {
    text.replace('|', "\\x7c")
}

#[cfg(test)]
mod tests {
    use imaptrace_record::ServerText;
    use proptest::prelude::*;

    use super::*;
    use crate::terminal::samples::{self, us};

    type Limits = [Option<Seconds>; 2];

    fn nagios(runs: &[Run], [warning, critical]: &Limits) -> (String, u8) {
        let mut nagios = Nagios::new(*warning, *critical);
        for run in runs {
            nagios.add(run);
        }
        nagios.conclude()
    }

    const NONE: Limits = [None; 2];

    fn limits(warning: u64, critical: u64) -> Limits {
        [warning, critical].map(|limit| Some(us(limit)))
    }

    #[test]
    fn one_passed_run_is_one_line_with_perfdata_in_seconds_and_bytes() {
        let (text, code) = nagios(&[samples::passed()], &limits(500_000, 1_000_000));
        assert_eq!(code, 0);
        insta::assert_snapshot!(text);
    }

    #[test]
    fn the_state_follows_limits_and_outcome() {
        let code = |run: &Run, limits: Limits| nagios(std::slice::from_ref(run), &limits).1;
        let passed = samples::passed(); // 53,412 µs
        assert_eq!(code(&passed, limits(53_412, 60_000)), 0);
        assert_eq!(code(&passed, limits(53_411, 60_000)), 1);
        assert_eq!(code(&passed, limits(10_000, 53_411)), 2);
        assert_eq!(code(&samples::login_refused(), NONE), 2);
        let void = Run { outcome: RunOutcome::Void, ..samples::passed() };
        assert_eq!(code(&void, limits(1, 1)), 3);
        assert_eq!(nagios(&[], &NONE).1, 3);
    }

    #[test]
    fn among_several_the_worst_run_decides_and_each_family_has_its_own_data() {
        let v4 = Run { family: Some(AddressFamily::Ipv4), ..samples::passed() };
        let v6 = Run { family: Some(AddressFamily::Ipv6), ..samples::login_refused() };
        let (text, code) = nagios(&[v4, v6], &NONE);
        assert_eq!(code, 2);
        let first = text.lines().next().unwrap();
        assert!(first.starts_with("IMAP CRITICAL - mail01: LOGIN failed: auth_failed"), "{first}");
        assert!(first.contains(" fll_ipv4=0.053412s;;;0 ") && first.contains(" LOGIN_ipv6=2.004000s;;;0 "), "{first}");
        assert_eq!(text.lines().count(), 3, "{text}");
    }

    #[test]
    fn of_many_runs_the_last_have_lines_and_all_are_counted() {
        let slow = Run { first_loading_latency_s: Some(us(9_000_000)), ..samples::passed() };
        let mut runs = vec![samples::passed(); 249];
        runs.insert(3, slow);
        let (text, code) = nagios(&runs, &limits(1_000_000, 10_000_000));
        let lines: Vec<_> = text.lines().collect();
        assert_eq!((code, lines.len(), lines[1]), (1, 102, "150 runs before these"));
        assert!(lines[0].contains("9.000 s") && lines[0].contains("(1 of 250 runs not OK)"), "{}", lines[0]);
    }

    #[test]
    fn bars_and_line_ends_in_a_servers_words_begin_no_perfdata() {
        let mut run = samples::login_refused();
        run.steps[5].text = Some(ServerText::new(b"no | x=1s\r\n| y=2", ServerText::STATUS));
        let (text, _) = nagios(&[run], &NONE);
        assert_eq!((text.matches('|').count(), text.lines().count()), (1, 1), "{text}");
        assert!(text.contains("no \\x7c x=1s\\x0d\\x0a\\x7c y=2"), "{text}");
    }

    proptest! {
        #[test]
        fn any_run_keeps_to_the_format(run in samples::any_run()) {
            let (text, code) = nagios(&[run], &limits(1, 2));
            prop_assert!(code <= 3 && text.is_ascii());
            let line = text.strip_suffix('\n').unwrap();
            prop_assert!(!line.contains(char::is_control));
            prop_assert_eq!(line.matches('|').count(), 1, "{}", line);
        }
    }
}
