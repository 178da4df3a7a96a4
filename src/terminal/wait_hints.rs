//! What to examine when a run passed and was slow: the part, and for the server's part the step, that is most of First Loading
//! Latency. `hints` is for failures. Called by `waterfall`.

use imaptrace_imap::CommandName;
use imaptrace_record::{Run, RunOutcome, Seconds, Step, StepName};

use super::{
    Style,
    parts::{TimePart, TimeParts},
    text::{duration, safe, size},
};

/// A user does not notice a shorter part: it is not named unless the run was slow by its history.
const NOTICED: Seconds = Seconds::from_micros(100_000);

/// What to examine when one part is more than half of a passed run's latency, and no uncertainty could change that.
pub(super) fn wait_hint(run: &Run, style: Style) -> Option<String> {
    let latency = run.first_loading_latency_s.filter(|_| run.outcome == RunOutcome::Passed)?;
    let parts = TimeParts::sum(run.loading_steps())?;
    let part = parts.largest();
    let took = parts.get(part);
    let sure = total(run.loading_steps().map(|step| least(step, part)));
    let longer = total(run.loading_steps().map(longer));
    if !most(sure, latency.saturating_add(longer)) || (took < NOTICED && run.slow != Some(true)) {
        return None;
    }
    let time = duration(took, style);
    Some(match part {
        TimePart::Server => match server_share(run) {
            ServerShare::Unknown => return None,
            ServerShare::One(step) => {
                let (name, time) = (safe(step.name.as_str(), style), duration(time_of(step, part), style));
                format!("mostly the server in {name}, {time}: {}", usual_causes(step))
            }
            ServerShare::Several => format!("mostly the server, {time} over several commands: {LOAD}"),
        },
        TimePart::Network => {
            let round_trip = run.server.rtt_min_s.filter(|time| *time > Seconds::ZERO);
            let turns = round_trip.map_or_else(
                || "round trips".to_owned(),
                |each| {
                    let half = Seconds::from_micros(each.as_micros() / 2);
                    let count = took.saturating_add(half).as_micros() / each.as_micros();
                    format!("{count} round trips of {}", duration(each, style))
                },
            );
            format!("mostly the network, {time}: {turns}; only a shorter path helps")
        }
        TimePart::Transfer => {
            let commands = run.loading_steps().filter(|step| TimeParts::of(step).is_some());
            let bytes = commands.filter_map(|step| step.received_bytes).fold(0, u64::saturating_add);
            format!("mostly transfer, {time} for {}: the bandwidth, or long headers", size(bytes))
        }
    })
}

/// How the server's time is spread over the steps.
enum ServerShare<'a> {
    /// More than half is in this one.
    One(&'a Step),
    /// No step has so much.
    Several,
    /// An uncertainty could change which it is.
    Unknown,
}

fn server_share(run: &Run) -> ServerShare<'_> {
    let of = |figure: fn(&Step, TimePart) -> Seconds, but: &Step| {
        let others = run.loading_steps().filter(|other| !std::ptr::eq(*other, but));
        total(others.map(|other| figure(other, TimePart::Server)))
    };
    let is_most = |step: &&Step| least(step, TimePart::Server) > of(greatest, step);
    let could_be_most = |step: &Step| greatest(step, TimePart::Server) > of(least, step);
    match run.loading_steps().find(is_most) {
        Some(step) => ServerShare::One(step),
        None if run.loading_steps().any(could_be_most) => ServerShare::Unknown,
        None => ServerShare::Several,
    }
}

/// A part of a step, as it was measured.
fn time_of(step: &Step, part: TimePart) -> Seconds {
    TimeParts::sum([step]).map(|parts| parts.get(part)).unwrap_or_default()
}

/// A part of a step, less its uncertainty. The network's part is a count of round trips, and exact.
fn least(step: &Step, part: TimePart) -> Seconds {
    let time = time_of(step, part);
    if part == TimePart::Network { time } else { time.saturating_sub(doubt(step)) }
}

/// A part of a step with what of the others could be its own; none in a step that does not have that part.
fn greatest(step: &Step, part: TimePart) -> Seconds {
    let time = time_of(step, part);
    if part == TimePart::Network || TimeParts::of(step).is_none() {
        return time;
    }
    let all = step.duration_s.saturating_sub(step.network_s.unwrap_or_default()).saturating_add(longer(step));
    time.max(time.saturating_add(doubt(step)).min(all))
}

/// By how much a step could have taken longer than its duration: only data that waited for a lost segment has too early a stamp.
fn longer(step: &Step) -> Seconds {
    if step.out_of_order.is_some_and(|count| count > 0) { doubt(step) } else { Seconds::ZERO }
}

/// The uncertainty of a step's times; all of its duration if the record does not contain it.
fn doubt(step: &Step) -> Seconds {
    let uncertain = step.uncertain == Some(true);
    if uncertain { step.uncertainty_s.unwrap_or(step.duration_s) } else { Seconds::ZERO }
}

fn total(times: impl Iterator<Item = Seconds>) -> Seconds {
    times.fold(Seconds::ZERO, Seconds::saturating_add)
}

/// Whether `part` is more than half of `whole`.
fn most(part: Seconds, whole: Seconds) -> bool {
    part > whole.saturating_sub(part)
}

const LOAD: &str = "its load, CPU or memory";

/// The usual causes of a slow command in a server.
fn usual_causes(step: &Step) -> &'static str {
    let StepName::Command(command) = step.name else { return LOAD };
    match command {
        CommandName::Login | CommandName::Authenticate => "the authentication back end",
        CommandName::List | CommandName::Namespace => "its namespaces, and the number of mailboxes",
        CommandName::Select | CommandName::Examine => "the mailbox's index, or a lock on it",
        CommandName::Fetch => "its disk, or a cold cache",
        CommandName::Append
        | CommandName::Capability
        | CommandName::Close
        | CommandName::Compress
        | CommandName::Create
        | CommandName::Enable
        | CommandName::Id
        | CommandName::Idle
        | CommandName::Logout
        | CommandName::Noop
        | CommandName::Search
        | CommandName::StartTls
        | CommandName::Status
        | CommandName::Unselect => LOAD,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terminal::samples;

    const PLAIN: Style = Style { width: 100, colour: false, ascii: true };

    fn us(micros: u64) -> Seconds {
        Seconds::from_micros(micros)
    }

    /// A passed run in which `name` takes half a second longer, in one of its parts.
    fn delayed(name: &str, part: TimePart) -> Run {
        let mut run = samples::passed();
        let step = run.steps.iter_mut().find(|step| step.name == name).unwrap();
        let times = match part {
            TimePart::Server => &mut step.server_s,
            TimePart::Network => &mut step.network_s,
            TimePart::Transfer => &mut step.transfer_s,
        };
        *times = times.map(|time| time.saturating_add(us(500_000)));
        step.duration_s = step.duration_s.saturating_add(us(500_000));
        run.first_loading_latency_s = run.first_loading_latency_s.map(|latency| latency.saturating_add(us(500_000)));
        run
    }

    #[test]
    fn the_part_that_is_more_than_half_of_the_wait_is_named_with_its_usual_causes() {
        for (name, expected) in [
            ("LOGIN", "mostly the server in LOGIN, 511 ms: the authentication back end"),
            ("LIST", "mostly the server in LIST, 501 ms: its namespaces, and the number of mailboxes"),
            ("SELECT", "mostly the server in SELECT, 509 ms: the mailbox's index, or a lock on it"),
            ("FETCH", "mostly the server in FETCH, 522 ms: its disk, or a cold cache"),
            ("ID", "mostly the server in ID, 500 ms: its load, CPU or memory"),
        ] {
            assert_eq!(wait_hint(&delayed(name, TimePart::Server), PLAIN).as_deref(), Some(expected));
        }
        assert_eq!(
            wait_hint(&samples::far_away(), PLAIN).unwrap(),
            "mostly the network, 1.12 s: 8 round trips of 140 ms; only a shorter path helps"
        );
        assert_eq!(
            wait_hint(&delayed("FETCH", TimePart::Transfer), PLAIN).unwrap(),
            "mostly transfer, 503 ms for 50.0 kB: the bandwidth, or long headers"
        );
        let mut run = delayed("FETCH", TimePart::Server);
        let select = run.steps.iter_mut().find(|step| step.name == "SELECT").unwrap();
        select.server_s = Some(us(600_000));
        let list = run.steps.iter_mut().find(|step| step.name == "LIST").unwrap();
        list.server_s = Some(us(600_000));
        assert_eq!(
            wait_hint(&run, PLAIN).unwrap(),
            "mostly the server, 1.74 s over several commands: its load, CPU or memory"
        );
    }

    #[test]
    fn there_is_no_hint_where_nothing_stands_out_or_the_times_may_be_wrong() {
        // Mostly the server, but too short to notice.
        assert_eq!(wait_hint(&samples::passed(), PLAIN), None);
        let slow = Run { slow: Some(true), ..samples::passed() };
        assert!(wait_hint(&slow, PLAIN).is_some(), "what is slow by its history has a hint however short");
        let run = delayed("FETCH", TimePart::Server);
        let longer = Run { first_loading_latency_s: Some(us(1_200_000)), ..run.clone() };
        assert_eq!(wait_hint(&longer, PLAIN), None, "more than half was elsewhere");
        assert_eq!(wait_hint(&Run { outcome: RunOutcome::Failed, ..run.clone() }, PLAIN), None);
        let paused = Run { uncertain: Some(true), uncertainty_s: Some(us(30_000)), ..run };
        assert!(wait_hint(&paused, PLAIN).is_some(), "pauses of imaptrace between the steps are in none of them");
    }

    #[test]
    fn a_doubt_suppresses_the_hint_only_if_it_could_change_the_part_or_the_step_that_is_named() {
        // 553 ms: 547 ms are the server's, 522 ms of them in FETCH.
        let run = delayed("FETCH", TimePart::Server);
        let with = |index: usize, doubt: Option<u64>| {
            let mut run = run.clone();
            let step: &mut Step = &mut run.steps[index];
            (step.uncertain, step.uncertainty_s) = (Some(true), doubt.map(us));
            wait_hint(&run, PLAIN)
        };
        let named = wait_hint(&run, PLAIN);
        assert!(named.as_deref().is_some_and(|text| text.starts_with("mostly the server in FETCH")), "{named:?}");
        for (index, doubt, stays) in [
            (7, Some(1_400), true),
            (8, Some(1_400), true),
            (8, Some(100_000), true),
            // With 270 ms less the server would have half.
            (8, Some(269_000), true),
            (8, Some(271_000), false),
            // By how much is not on record: by all of SELECT's 9.6 ms, or of FETCH.
            (7, None, true),
            (8, None, false),
            // No user waits for it.
            (9, Some(900_000), true),
        ] {
            let expected = named.clone().filter(|_| stays);
            assert_eq!(with(index, doubt), expected, "{index} {doubt:?}");
        }
    }

    #[test]
    fn a_doubt_suppresses_the_hint_if_it_could_change_between_one_step_and_several() {
        // SELECT has 300 ms of the server's 600 ms, or a little more or less, and FETCH the others, beside its transfer.
        let of = |select: u64, transfer: u64, doubt: u64| {
            let mut run = samples::passed();
            for step in &mut run.steps {
                step.server_s = step.server_s.map(|_| Seconds::ZERO);
            }
            divided(&mut run.steps[7], select, 0);
            divided(&mut run.steps[8], 600_000 - select, transfer);
            run.first_loading_latency_s = Some(us(640_000));
            (run.steps[8].uncertain, run.steps[8].uncertainty_s) = (Some(true), Some(us(doubt)));
            wait_hint(&run, PLAIN)
        };
        assert!(of(310_000, 30_000, 19_000).unwrap().contains("in SELECT"));
        assert_eq!(of(310_000, 30_000, 21_000), None, "FETCH could have as much");
        assert!(of(310_000, 9_000, 21_000).unwrap().contains("in SELECT"), "FETCH has no more than its duration");
        assert!(of(200_000, 30_000, 199_000).unwrap().contains("in FETCH"));
        // Of several none is most, even with the doubt.
        let mut run = samples::passed();
        for (index, server, transfer) in [(5, 180_000, 0), (7, 180_000, 0), (8, 240_000, 150_000)] {
            divided(&mut run.steps[index], server, transfer);
        }
        run.first_loading_latency_s = Some(us(770_000));
        assert!(wait_hint(&run, PLAIN).unwrap().contains("over several commands"));
        (run.steps[8].uncertain, run.steps[8].uncertainty_s) = (Some(true), Some(us(100_000)));
        assert!(wait_hint(&run, PLAIN).unwrap().contains("over several commands"));
        run.steps[8].uncertainty_s = Some(us(150_000));
        assert_eq!(wait_hint(&run, PLAIN), None);
    }

    /// Gives a step these times of the server and of transfer beside its round trip.
    fn divided(step: &mut Step, server: u64, transfer: u64) {
        (step.server_s, step.transfer_s) = (Some(us(server)), Some(us(transfer)));
        step.duration_s = us(server + transfer).saturating_add(step.network_s.unwrap());
    }

    #[test]
    fn a_doubt_in_a_step_without_the_time_that_is_named_suppresses_nothing() {
        // The first SYN was lost, and what the server took in LOGIN is none of that second.
        let mut run = delayed("LOGIN", TimePart::Server);
        let more = us(900_000);
        divided(&mut run.steps[5], 1_400_000, 0);
        run.steps[1].duration_s = run.steps[1].duration_s.saturating_add(us(1_000_000));
        (run.steps[1].uncertain, run.steps[1].uncertainty_s, run.steps[1].retransmits) =
            (Some(true), Some(us(1_000_000)), Some(1));
        run.first_loading_latency_s =
            run.first_loading_latency_s.map(|latency| latency.saturating_add(us(1_000_000)).saturating_add(more));
        let hint = wait_hint(&run, PLAIN);
        assert_eq!(hint.as_deref(), Some("mostly the server in LOGIN, 1.40 s: the authentication back end"));
        // Data that waited for a lost segment has too early a stamp: what else there is may have taken longer.
        run.steps[1].out_of_order = Some(1);
        assert_eq!(wait_hint(&run, PLAIN), None);
        // Round trips are counted, and exact.
        let mut run = samples::far_away();
        let named = wait_hint(&run, PLAIN);
        divided(&mut run.steps[8], 22_000, 500_000);
        run.first_loading_latency_s = run.first_loading_latency_s.map(|latency| latency.saturating_add(us(500_000)));
        (run.steps[8].uncertain, run.steps[8].uncertainty_s, run.steps[8].retransmits) =
            (Some(true), Some(us(500_000)), Some(2));
        assert_eq!(wait_hint(&run, PLAIN), named);
    }
}
