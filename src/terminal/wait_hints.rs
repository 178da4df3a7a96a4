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
    let doubt = run.loading_steps().map(doubt).fold(Seconds::ZERO, Seconds::saturating_add);
    // The uncertain time could belong to another part.
    if !most(took.saturating_sub(doubt), latency) || (took < NOTICED && run.slow != Some(true)) {
        return None;
    }
    let time = duration(took, style);
    Some(match part {
        TimePart::Server => {
            let of = |step: &Step| TimeParts::of(step).map(|parts| parts.get(TimePart::Server)).unwrap_or_default();
            let step = run.loading_steps().max_by_key(|step| of(step))?;
            // The uncertain time could belong to this step or to others.
            if most(of(step), took.saturating_add(doubt)) {
                let (name, time) = (safe(step.name.as_str(), style), duration(of(step), style));
                format!("mostly the server in {name}, {time}: {}", usual_causes(step))
            } else if most(of(step), took.saturating_sub(doubt)) {
                return None;
            } else {
                format!("mostly the server, {time} over several commands: {LOAD}")
            }
        }
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

/// The uncertainty of a step's times; all of its duration if the record does not contain it.
fn doubt(step: &Step) -> Seconds {
    let uncertain = step.uncertain == Some(true);
    if uncertain { step.uncertainty_s.unwrap_or(step.duration_s) } else { Seconds::ZERO }
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
        // SELECT has 300 ms of the server's 600 ms, or a little more or less, and FETCH most of the others.
        let of = |select: u64, doubt: u64| {
            let mut run = samples::passed();
            for step in &mut run.steps {
                step.server_s = step.server_s.map(|_| Seconds::ZERO);
            }
            (run.steps[7].server_s, run.steps[8].server_s) = (Some(us(select)), Some(us(600_000 - select)));
            run.first_loading_latency_s = Some(us(640_000));
            (run.steps[8].uncertain, run.steps[8].uncertainty_s) = (Some(true), Some(us(doubt)));
            wait_hint(&run, PLAIN)
        };
        assert!(of(310_000, 19_000).unwrap().contains("in SELECT"));
        assert_eq!(of(310_000, 21_000), None, "FETCH could have as much");
        assert!(of(200_000, 199_000).unwrap().contains("in FETCH"));
        // Of several none is most, even with the doubt.
        let mut run = samples::passed();
        for (index, server) in [(5, 200_000), (7, 200_000), (8, 200_000)] {
            run.steps[index].server_s = Some(us(server));
        }
        run.first_loading_latency_s = Some(us(640_000));
        assert!(wait_hint(&run, PLAIN).unwrap().contains("over several commands"));
        (run.steps[8].uncertain, run.steps[8].uncertainty_s) = (Some(true), Some(us(150_000)));
        assert!(wait_hint(&run, PLAIN).unwrap().contains("over several commands"));
        run.steps[8].uncertainty_s = Some(us(250_000));
        assert_eq!(wait_hint(&run, PLAIN), None);
    }
}
