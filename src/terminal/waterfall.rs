//! The waterfall: one run, its steps on one time axis, what was slow, what failed and what to try. [`table`](super::table) has
//! the rows. Called by `cli` for one run, or for the slowest of several.

use imaptrace_record::{
    EventName, JourneyName, NoteLevel, Run, RunOutcome, Security, StepOutcome, Timestamp, TlsFacts, Verified,
};
use unicode_width::UnicodeWidthStr as _;

use super::{
    Style,
    cause_hints::cause_hint,
    failure::{endpoint, outcome_text},
    hints::failure_hint,
    inner_rows::reporters,
    line::tone,
    table::{TextTable, doubtful, label},
    text::{TextLine, Tone, clip, duration, safe, wrap},
    wait_hints::wait_hint,
};

/// Days before a certificate's end from which it is coloured.
const CERTIFICATE_SOON: i64 = 21;

/// Draws `run`.
pub fn waterfall(run: &Run, style: Style) -> String {
    let mut page = String::new();
    head(run, style, &mut page);
    page.push('\n');
    let table = TextTable::new(run, style);
    if !run.steps.is_empty() {
        table.titles(&mut page);
    }
    let latency_row = run.steps.iter().rposition(|step| !step.is_logout());
    let mut connection = None;
    for (index, step) in run.steps.iter().enumerate() {
        if step.connection > connection {
            connection = step.connection;
            TextLine::of(Tone::Dim, format!("connection {}", step.connection.unwrap_or_default()))
                .write(style, &mut page);
        }
        table.step(step, &mut page);
        table.error(step, &mut page);
        table.inside(index, &mut page);
        if Some(index) == latency_row {
            table.latency(&mut page);
        }
    }
    table.legend(&mut page);
    page.push('\n');
    if run.outcome != RunOutcome::Passed && run.failing_step().is_none() {
        // The run ended before, or between, its steps, so no row contains the failure.
        let hint = run.error_type.map(|class| format!("; {}", failure_hint(run, class, style))).unwrap_or_default();
        paragraph(tone(run.outcome), &format!("{}{hint}", outcome_text(run, style)), style, &mut page);
    }
    sum(run, style, &mut page);
    if let Some(hint) = cause_hint(run, style).or_else(|| wait_hint(run, style)) {
        let sign = if style.ascii { ">" } else { "→" };
        table.indented(sign, Tone::Plain, &hint, &mut page);
    }
    details(run, style, &mut page);
    page
}

/// Target, address, security, journey, outcome. The address is shortened first.
fn head(run: &Run, style: Style, page: &mut String) {
    // The target of a one-shot probe has the name of its server, which is shown once.
    let (mut who, mut place) = if run.target == run.server.address {
        (endpoint(run, style), String::new())
    } else {
        (safe(&run.target, style), format!("  {}", endpoint(run, style)))
    };
    if run.account != "default" {
        who = format!("{who}/{}", safe(&run.account, style));
    }
    let family = run.family.map(|family| format!("  {}", family.as_str())).unwrap_or_default();
    // The figures of another journey cannot be compared with those of the usual one.
    let usual = run.journey == JourneyName::FIRST_LOAD;
    let journey = if usual { String::new() } else { format!("  {}", run.journey) };
    let right = format!("  {}{family}{journey}  ", security(run, style));
    let space = style.width.saturating_sub(right.width() + run.outcome.as_str().width());
    if let Some(peer) = run.server.peer.map(|peer| peer.ip().to_string()).filter(|peer| *peer != run.server.address) {
        let peer = format!(" ({peer})");
        if who.width() + place.width() + peer.width() <= space {
            place.push_str(&peer);
        }
    }
    let who = clip(&who, space, style);
    let place = clip(&place, space.saturating_sub(who.width()), style);
    let mut line = TextLine::of(Tone::Bold, who);
    line.push(Tone::Plain, place + &right).push(tone(run.outcome), run.outcome.as_str()).write(style, page);
}

pub(super) fn security(run: &Run, style: Style) -> String {
    let version = run.server.tls_version.as_deref().map(|version| format!(" {}", safe(version, style)));
    let version = clip(&version.unwrap_or_default(), 8, style);
    match run.server.security {
        Security::Tls => format!("TLS{version}"),
        Security::StartTls => format!("STARTTLS{version}"),
        Security::None => "no TLS".to_owned(),
    }
}

/// The numbers in words.
fn sum(run: &Run, style: Style, page: &mut String) {
    let uncertain = run.is_latency_uncertain();
    let mut words = vec![match run.first_loading_latency_s {
        Some(latency) => format!("First Loading Latency {}", doubtful(latency, uncertain, style)),
        None => "no First Loading Latency".to_owned(),
    }];
    words.extend(run.first_row_s.map(|row| format!("first row {}", duration(row, style))));
    words.push(format!("run {}", duration(run.duration_s, style)));
    if let Some(agent) = run.agent_s.filter(|_| uncertain) {
        words.push(format!("imaptrace itself {}", duration(agent, style)));
    }
    if run.outcome == RunOutcome::Void {
        words.push("void: no result for the server".to_owned());
    }
    paragraph(Tone::Bold, &words.join(", "), style, page);
}

fn paragraph(tone: Tone, text: &str, style: Style, page: &mut String) {
    for part in wrap(text, style.width) {
        TextLine::of(tone, part).write(style, page);
    }
}

/// Facts beside the times, a line each.
fn details(run: &Run, style: Style, page: &mut String) {
    let mut detail = |tone: Tone, name: &str, text: String| {
        for (index, part) in wrap(&text, style.width.saturating_sub(9)).into_iter().enumerate() {
            let name = format!("{:<9}", if index == 0 { name } else { "" });
            TextLine::of(Tone::Dim, name).push(tone, part).write(style, page);
        }
    };
    if let Some(doubts) = doubts(run, style) {
        detail(Tone::Warn, "timing", doubts);
    }
    if let Some(delays) = delays(run, style) {
        detail(Tone::Warn, "delayed", delays);
    }
    let attempts = run.steps.iter().filter_map(|step| step.connect.as_ref()).flat_map(|facts| &facts.attempts);
    for attempt in attempts.filter(|attempt| attempt.outcome != StepOutcome::Passed) {
        let why = attempt.error_type.map_or("given up, another was first", |class| class.as_str());
        let text = format!("{} after {}: {why}", attempt.peer, duration(attempt.duration_s, style));
        detail(Tone::Warn, "attempt", text);
    }
    let facts = run.steps.iter().filter_map(|step| step.tls.as_deref()).next_back();
    let (tone, words) = tls(run, facts, style);
    if !words.is_empty() {
        detail(tone, "tls", words.join(", "));
    }
    let id = [&run.server.id_name, &run.server.id_version].into_iter().flatten();
    let id: Vec<_> = id.map(|text| safe(text.as_str(), style)).collect();
    let mut words = Vec::new();
    words.extend((!id.is_empty()).then(|| id.join(" ")));
    // Of two mechanisms the first was refused, and the last is the login.
    let mut mechanisms: Vec<_> = run.steps.iter().filter_map(|step| step.mechanism).collect();
    let login = mechanisms.pop();
    words.extend(login.map(|name| format!("login by {name}")));
    words.extend(mechanisms.first().map(|name| format!("{name} was refused")));
    words.extend(run.server.rtt_min_s.map(|rtt| format!("round trip {}", duration(rtt, style))));
    words.extend(lost(run.server.retransmits, run.server.out_of_order));
    if !words.is_empty() {
        detail(Tone::Dim, "server", words.join(" - "));
    }
    if let Some(words) = reporters(run, style) {
        detail(Tone::Dim, "events", words);
    }
    let opened = run.steps.iter().rfind(|step| step.mailbox_messages.is_some());
    if let Some((opened, messages)) = opened.and_then(|step| Some((step, step.mailbox_messages?))) {
        let fetched = run.steps.iter().rev().find_map(|step| step.messages);
        let fetched = fetched.map(|count| format!(", {count} fetched")).unwrap_or_default();
        let name = opened.mailbox.as_deref().unwrap_or("mailbox");
        detail(Tone::Dim, "mailbox", format!("{}: {messages} messages{fetched}", safe(name, style)));
    }
    let events = run.steps.iter().flat_map(|step| &step.events).filter(|event| event.name == EventName::Alert);
    for alert in events.filter_map(|event| event.text.as_ref()) {
        detail(Tone::Warn, "alert", safe(alert.as_str(), style));
    }
    for note in run.notes.iter().filter(|note| note.level != NoteLevel::Info) {
        detail(Tone::Warn, "note", safe(&note.text, style));
    }
    detail(Tone::Dim, "trace", run.trace_id.to_string());
}

/// All reasons why the times that are marked with `~` may be wrong: those of the steps, and the run's own.
pub(super) fn doubts(run: &Run, style: Style) -> Option<String> {
    let uncertain = run.loading_steps().filter(|step| step.uncertain == Some(true));
    let mut doubts: Vec<_> = uncertain
        .map(|step| {
            let why = lost(step.retransmits, step.out_of_order);
            let why = why.unwrap_or_else(|| "imaptrace itself was late".to_owned());
            let by = step.uncertainty_s.map(|by| format!(" by up to {}", duration(by, style))).unwrap_or_default();
            format!("{}{by} ({why})", label(step, style))
        })
        .collect();
    if run.uncertain == Some(true) && run.paused() {
        doubts.push("imaptrace itself took long between the steps".to_owned());
    } else if let Some(by) = run.uncertainty_s.filter(|_| run.is_latency_uncertain() && doubts.is_empty()) {
        // The uncertainty of each step is small, and their sum is not.
        doubts.push(format!("all steps together by up to {}", duration(by, style)));
    }
    (!doubts.is_empty()).then(|| format!("~ may be wrong: {}", doubts.join(", ")))
}

/// How long pauses of this process delayed a run and its steps, or single steps alone.
pub(super) fn delays(run: &Run, style: Style) -> Option<String> {
    let steps = run.steps.iter().filter_map(|step| Some((step, step.delayed_s?)));
    let steps: Vec<_> = steps.map(|(step, by)| format!("{} by {}", label(step, style), duration(by, style))).collect();
    let steps = steps.join(", ");
    let all = run.delayed_s.map(|all| format!("the run by {}", duration(all, style)));
    let delayed = all.into_iter().chain((!steps.is_empty()).then_some(steps)).collect::<Vec<_>>();
    (!delayed.is_empty()).then(|| format!("this machine delayed {}", delayed.join(": ")))
}

/// `segments: 2 sent again, 1 out of order`.
fn lost(retransmits: Option<u64>, out_of_order: Option<u64>) -> Option<String> {
    let counts = [(retransmits, "sent again"), (out_of_order, "out of order")];
    let counts = counts.into_iter().filter_map(|(count, what)| Some((count.filter(|count| *count > 0)?, what)));
    let words: Vec<_> = counts.map(|(count, what)| format!("{count} {what}")).collect();
    (!words.is_empty()).then(|| format!("segments: {}", words.join(", ")))
}

fn tls(run: &Run, facts: Option<&TlsFacts>, style: Style) -> (Tone, Vec<String>) {
    let mut tone = Tone::Dim;
    let mut words = Vec::new();
    if facts.is_some_and(|facts| facts.verified == Verified::Insecure) {
        tone = Tone::Bad;
        words.push("certificate NOT verified (--insecure)".to_owned());
    }
    words.extend(run.server.tls_cipher.as_deref().map(|cipher| safe(cipher, style)));
    let key = facts.and_then(|facts| facts.key.as_deref());
    words.extend(key.map(|key| format!("key {}", safe(key, style))));
    let not_after = run.server.certificate_not_after.or_else(|| facts.and_then(|facts| facts.not_after));
    if let Some(not_after) = not_after {
        let days = days(run, not_after);
        if days < CERTIFICATE_SOON && tone == Tone::Dim {
            tone = Tone::Warn;
        }
        words.push(match days {
            0.. => format!("certificate good for {days} days, to {}", not_after.date()),
            _ => format!("certificate expired on {}", not_after.date()),
        });
    }
    (tone, words)
}

/// Whole days from the start of the run: this module reads no clock.
#[expect(clippy::cast_possible_truncation, reason = "no calendar has so many days")]
fn days(run: &Run, not_after: Timestamp) -> i64 {
    ((not_after.epoch_seconds() - run.started_at.epoch_seconds()) / 86_400.0).floor() as i64
}

#[cfg(test)]
mod tests {
    use imaptrace_imap::{LoginMethod, Mechanism};
    use imaptrace_record::{ErrorType, Seconds};
    use proptest::prelude::*;

    use super::*;
    use crate::terminal::{Summary, failure, line, samples};

    const STYLES: [(bool, bool, &str); 2] = [(true, false, "colour"), (false, true, "ascii")];

    #[test]
    fn the_cases_that_users_meet_look_like_this() {
        for (name, run) in samples::all() {
            let mut pages = String::new();
            for (colour, ascii, kind) in STYLES {
                for width in [60, 80, 120] {
                    let page = waterfall(&run, Style { width, colour, ascii });
                    pages.push_str(
                        &["--- ", &width.to_string(), " columns, ", kind, "\n", &page.replace('\x1b', "\\e")].concat(),
                    );
                }
            }
            insta::assert_snapshot!(name, pages);
        }
    }

    #[test]
    fn the_login_is_by_the_last_mechanism_and_the_refused_one_is_named() {
        let mut run = samples::passed();
        let at = run.steps.iter().position(|step| step.name == "LOGIN").unwrap();
        let mut refused = run.steps[at].clone();
        refused.mechanism = Some(LoginMethod::Sasl(Mechanism::ScramSha256));
        run.steps[at].mechanism = Some(LoginMethod::Sasl(Mechanism::Plain));
        run.steps.insert(at, refused);
        let page = waterfall(&run, Style { width: 120, colour: false, ascii: true });
        assert!(page.contains("login by PLAIN - SCRAM-SHA-256 was refused - round trip"), "{page}");
    }

    #[test]
    fn a_target_called_as_its_server_is_named_once_and_an_account_always() {
        let mut run = samples::passed();
        run.target = run.server.address.clone();
        run.account = "second".to_owned();
        let page = waterfall(&run, Style { width: 80, colour: false, ascii: true });
        assert!(page.starts_with("mail01.example.org:993/second (192.0.2.7)  TLS 1.3  passed\n"), "{page}");
        run.journey = JourneyName::FIRST_LOAD_COLD;
        let page = waterfall(&run, Style { width: 80, colour: false, ascii: true });
        assert!(
            page.starts_with("mail01.example.org:993/second (192.0.2.7)  TLS 1.3  first-load-cold  passed\n"),
            "{page}"
        );
    }

    #[test]
    fn an_insecure_handshake_is_shown_in_capitals() {
        let mut run = samples::passed();
        run.steps[2].tls.as_mut().unwrap().verified = Verified::Insecure;
        let page = waterfall(&run, Style { width: 80, colour: false, ascii: true });
        assert!(page.contains("NOT verified (--insecure)"), "{page}");
    }

    #[test]
    fn a_run_that_ended_before_its_first_step_has_its_failure_and_hint() {
        let mut run = samples::connect_refused();
        run.steps.clear();
        (run.failed_step, run.outcome, run.error_type) = (None, RunOutcome::Void, Some(ErrorType::Cancelled));
        let page = waterfall(&run, Style { width: 100, colour: false, ascii: true });
        assert!(page.contains("void: cancelled; imaptrace was stopped during the run"), "{page}");
    }

    const WIDE: Style = Style { width: 120, colour: false, ascii: true };

    #[test]
    fn the_legend_has_the_sums_of_all_steps_and_is_left_out_where_none_is_divided() {
        let page = waterfall(&samples::slow_fetch(), WIDE);
        let legend = page.lines().find(|line| line.starts_with("all steps")).unwrap();
        assert_eq!(legend, "all steps    # server 459 ms  : network 2.79 ms  . transfer 2.60 ms");
        let mut run = samples::slow_fetch();
        for step in &mut run.steps {
            step.network_s = None;
        }
        let page = waterfall(&run, WIDE);
        assert!(!page.contains("all steps") && !page.contains("transfer"), "{page}");
    }

    #[test]
    fn of_a_run_that_failed_the_failing_step_is_marked_and_coloured_and_the_slowest_is_not() {
        let mut run = samples::login_refused();
        // The handshake took longest, and is slow by its history besides.
        let tls = run.steps.iter_mut().find(|step| step.name == "tls").unwrap();
        (tls.duration_s, tls.slow, tls.ratio) = (Seconds::from_micros(9_000_000), Some(true), Some(8.2));
        run.slowest_step = Some("tls".into());
        let row = |run: &Run, colour: bool, name: &str| {
            let page = waterfall(run, Style { width: 120, colour, ascii: true });
            assert!(!page.contains("slowest"), "{page}");
            page.lines().find(|line| line.contains(name)).unwrap().to_owned()
        };
        assert!(row(&run, false, "LOGIN").ends_with("< failed"));
        let (tls, login) = (row(&run, true, "tls "), row(&run, true, "LOGIN"));
        assert!(
            tls.contains("\x1b[2m < slow 8.2x")
                && !["\x1b[1m", "\x1b[33m", "\x1b[31m"].iter().any(|loud| tls.contains(loud)),
            "{tls:?}"
        );
        assert!(login.starts_with("\x1b[31mLOGIN") && login.contains("\x1b[31m < failed"), "{login:?}");
        run.outcome = RunOutcome::Void;
        assert!(row(&run, false, "LOGIN").ends_with("< ended here"));
    }

    #[test]
    fn a_step_that_is_slow_and_the_slowest_has_one_mark_for_both() {
        let mut run = samples::slow_fetch();
        let mark = |run: &Run| {
            let page = waterfall(run, WIDE);
            let fetch = page.lines().find(|line| line.starts_with("FETCH")).unwrap();
            fetch.split_once('<').unwrap().1.trim().to_owned()
        };
        assert_eq!(mark(&run), "slowest 18.7x");
        // Past a fixed limit, without any history.
        run.steps[8].ratio = None;
        assert_eq!(mark(&run), "slowest, slow");
        run.steps[8].slow = Some(false);
        run.steps[8].ratio = Some(1.1);
        assert_eq!(mark(&run), "slowest");
        run.slowest_step = Some("LOGIN".into());
        run.steps[8].slow = Some(true);
        assert_eq!(mark(&run), "slow 1.1x");
    }

    #[test]
    fn pauses_of_imaptrace_itself_are_shown_where_they_make_the_latency_doubtful() {
        let mut run = samples::passed();
        assert!(!waterfall(&run, WIDE).contains("imaptrace"));
        (run.uncertain, run.agent_s) = (Some(true), Some(Seconds::from_micros(6_200)));
        run.uncertainty_s = run.agent_s;
        let page = waterfall(&run, WIDE);
        let expected = [
            "First Loading Latency ~53.4 ms, first row 51.9 ms, run 54.1 ms, imaptrace itself 6.20 ms\n",
            "timing   ~ may be wrong: imaptrace itself took long between the steps\n",
        ];
        assert!(expected.iter().all(|line| page.contains(line)), "{page}");
    }

    #[test]
    fn every_reason_for_a_doubtful_time_is_shown() {
        let mut run = samples::uncertain();
        run.agent_s = Some(Seconds::from_micros(6_200));
        let lost = "SELECT INBOX by up to 2.60 ms (imaptrace itself was late), \
                    FETCH INBOX by up to 14.2 ms (segments: 2 sent again, 1 out of order)";
        let paused = "imaptrace itself took long between the steps";
        let page = waterfall(&run, Style { width: 300, ..WIDE });
        assert!(page.contains(&format!("timing   ~ may be wrong: {lost}, {paused}\n")), "{page}");
    }

    #[test]
    fn a_latency_that_is_right_has_no_mark_where_only_a_part_of_a_step_may_be_wrong() {
        let mut run = samples::uncertain();
        run.uncertainty_s = None;
        let page = waterfall(&run, WIDE);
        assert!(page.contains("First Loading Latency 53.4 ms") && page.contains("~23.3 ms"), "{page}");
        assert!(page.contains("timing   ~ may be wrong: SELECT INBOX by up to 2.60 ms"), "{page}");
        // Many steps, each by too little for a mark of its own.
        let mut run = samples::passed();
        (run.uncertain, run.uncertainty_s) = (Some(true), Some(Seconds::from_micros(3_100)));
        let page = waterfall(&run, WIDE);
        assert!(page.contains("First Loading Latency ~53.4 ms"), "{page}");
        assert!(page.contains("timing   ~ may be wrong: all steps together by up to 3.10 ms\n"), "{page}");
    }

    #[test]
    fn a_command_that_failed_shows_its_parts_in_the_one_colour_of_a_failure() {
        let run = samples::login_refused();
        let page = waterfall(&run, Style { width: 120, colour: true, ascii: false });
        let login = page.lines().find(|line| line.contains("LOGIN")).unwrap();
        assert!(login.contains("\x1b[31m█") && login.contains('░') && !login.contains("\x1b[36m"), "{login:?}");
    }

    /// Takes away the style's own sequences.
    fn bare(page: &str) -> String {
        let mut pieces = page.split("\x1b[");
        let mut bare = pieces.next().unwrap_or_default().to_owned();
        for piece in pieces {
            let (parameters, rest) = piece.split_once('m').unwrap();
            assert!(parameters.chars().all(|digit| digit.is_ascii_digit()), "{parameters:?}");
            bare.push_str(rest);
        }
        bare
    }

    proptest! {
        #[test]
        fn whatever_a_run_holds_no_line_passes_the_width_and_no_control_character_leaves(
            run in samples::any_run(), width in 40_usize..140, colour in any::<bool>(), ascii in any::<bool>(),
        ) {
            let style = Style { width, colour, ascii };
            let mut twice = Summary::default();
            twice.add(&run, style);
            twice.add(&run, style);
            for page in [waterfall(&run, style), line(&run, style), twice.text(style)] {
                prop_assert!(colour || !page.contains('\x1b'));
                let page = bare(&page);
                prop_assert!(!ascii || page.is_ascii(), "{page}");
                for line in page.split('\n') {
                    prop_assert!(line.width() <= width, "{} columns: {line:?}", line.width());
                    prop_assert!(!line.contains(char::is_control), "{line:?}");
                }
            }
            if let Some(line) = failure(&run, style) {
                prop_assert!(!line.trim_end_matches('\n').contains(char::is_control), "{line:?}");
            }
        }
    }
}
