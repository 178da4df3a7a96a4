//! No coordinated omission, by random plans, run times, limits, reloads and pauses of the process: each planned start is
//! a run or counted as skipped, and nothing happens that the limits forbid.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, Instant},
};

use proptest::prelude::*;

use super::{
    grid,
    planner::{Action, PlanChange, Planner},
    slot::Slot,
};
use crate::{clock, plan::RunLimits};

const MS: Duration = Duration::from_millis(1);

/// What is done to a planner.
#[derive(Debug, Clone)]
enum PlannerEvent {
    /// This many milliseconds pass without a poll.
    Wait(u64),
    /// The oldest run ends, or the one after it.
    End(usize),
    /// These slots: number, interval in 100 ms, whether its work is new.
    Apply(Vec<(u8, u64, bool)>, RunLimits),
}

fn limits() -> impl Strategy<Value = RunLimits> {
    let per_second = || proptest::option::of((1u32..20).prop_map(|limit| NonZeroU32::new(limit).unwrap()));
    (1usize..6, 1usize..4, per_second(), per_second(), 0u64..2000).prop_map(|(all, one, fast, fast_one, wait)| {
        RunLimits {
            in_flight: all,
            in_flight_per_server: one,
            logins_per_second: fast,
            logins_per_second_per_server: fast_one,
            wait: MS * u32::try_from(wait).unwrap(),
        }
    })
}

fn event() -> impl Strategy<Value = PlannerEvent> {
    let slots = proptest::collection::vec((0u8..8, 1u64..30, any::<bool>()), 0..8);
    prop_oneof![
        6 => (1u64..400).prop_map(PlannerEvent::Wait),
        1 => (400u64..9000).prop_map(PlannerEvent::Wait),
        4 => (0usize..2).prop_map(PlannerEvent::End),
        1 => (slots, limits()).prop_map(|(slots, limits)| PlannerEvent::Apply(slots, limits)),
    ]
}

/// The expected starts of a slot.
struct Model {
    interval: Duration,
    work: Arc<String>,
    next: Instant,
}

proptest! {
    #[test]
    fn each_planned_start_is_a_run_or_counted_as_skipped(events in proptest::collection::vec(event(), 1..120)) {
        let origin = clock::now();
        let mut now = origin;
        let mut limits = RunLimits::default();
        let mut planner = Planner::new(origin, limits);
        let mut model: HashMap<String, Model> = HashMap::new();
        let mut planned: HashMap<String, u64> = HashMap::new();
        let mut happened: HashMap<String, u64> = HashMap::new();
        let mut running: Vec<(u64, String)> = Vec::new();
        let mut take = |actions: Vec<Action<String>>, running: &mut Vec<(u64, String)>, limits: &RunLimits| {
            for action in actions {
                match action {
                    Action::Start { run, work, lag } => {
                        *happened.entry((*work).clone()).or_default() += 1;
                        assert!(running.iter().all(|(_, name)| *name != *work), "{work} overlaps");
                        // A reload may have set lower limits than the runs in flight.
                        assert!(running.len() < limits.in_flight, "one too many");
                        let server = work.as_bytes()[0] % 2;
                        let beside = running.iter().filter(|(_, name)| name.as_bytes()[0] % 2 == server).count();
                        assert!(beside < limits.in_flight_per_server, "one too many on a server");
                        assert!(lag < 30 * 100 * MS);
                        running.push((run, (*work).clone()));
                    }
                    Action::Skip { work, count, .. } => *happened.entry((*work).clone()).or_default() += count,
                    Action::GiveUp { .. } => panic!("no run takes too long"),
                }
            }
        };
        for event in events {
            match event {
                PlannerEvent::Wait(time) => now += MS * u32::try_from(time).unwrap(),
                PlannerEvent::End(which) if which < running.len() => planner.ended(running.remove(which).0),
                PlannerEvent::End(_) => {}
                PlannerEvent::Apply(slots, new) => {
                    take(planner.poll(now, |_| false), &mut running, &limits);
                    count(&mut model, &mut planned, now);
                    limits = new;
                    let mut wanted = HashMap::new();
                    for (number, tenths, fresh) in slots {
                        let (name, interval) = (number.to_string(), 100 * MS * u32::try_from(tenths).unwrap());
                        let old = model.remove(&name).or_else(|| wanted.remove(&name));
                        let work = old.as_ref().filter(|_| !fresh).map(|old| old.work.clone());
                        let next = old.filter(|old| old.interval == interval).map(|old| old.next);
                        let next = next.unwrap_or_else(|| grid::after(origin, now, &name, interval));
                        let work = work.unwrap_or_else(|| Arc::new(name.clone()));
                        wanted.insert(name, Model { interval, work, next });
                    }
                    model = wanted;
                    let slots = model.iter().map(|(name, model)| Slot {
                        name: name.as_str().into(),
                        server: (name.as_bytes()[0] % 2).to_string().into(),
                        interval: model.interval,
                        max_run_time: Duration::from_secs(1 << 20),
                        logins: 1,
                        work: model.work.clone(),
                    });
                    take(planner.apply(slots.collect(), limits, now), &mut running, &limits);
                }
            }
            take(planner.poll(now, |_| false), &mut running, &limits);
            count(&mut model, &mut planned, now);
            // Nothing is forgotten: the next action without an event has a time.
            prop_assert!(model.is_empty() || planner.next(now).is_some_and(|next| next > now));
        }
        take(planner.stop(), &mut running, &limits);
        prop_assert_eq!(planned, happened);
    }
}

/// Planned starts up to now.
fn count(model: &mut HashMap<String, Model>, planned: &mut HashMap<String, u64>, now: Instant) {
    for (name, slot) in model {
        while slot.next <= now {
            slot.next += slot.interval;
            *planned.entry(name.clone()).or_default() += 1;
        }
    }
}

#[test]
fn what_is_due_between_two_steps_to_a_large_plan_starts_and_nothing_is_left_out_of_it() {
    let origin = clock::now();
    let slot = |name: String| Slot {
        work: Arc::new(name.clone()),
        name: name.into(),
        server: "s".into(),
        interval: 1000 * MS,
        max_run_time: Duration::from_secs(60),
        logins: 1,
    };
    let limits = RunLimits {
        in_flight: 10_000,
        in_flight_per_server: 10_000,
        logins_per_second: None,
        logins_per_second_per_server: None,
        wait: 400 * MS,
    };
    let mut planner = Planner::new(origin, limits);
    planner.apply(vec![slot("old".to_owned())], limits, origin);
    let mut change = PlanChange::new((0..5000).map(|number| slot(number.to_string())).collect(), limits);
    let (mut now, mut steps, mut starts) = (origin, 0, HashMap::<String, u32>::new());
    loop {
        for action in planner.poll(now, |_| false) {
            if let Action::Start { run, work, .. } = action {
                *starts.entry((*work).clone()).or_default() += 1;
                planner.ended(run);
            }
        }
        let mut actions = Vec::new();
        if planner.step(&mut change, now, &mut actions) {
            break;
        }
        steps += 1;
        now += 100 * MS;
    }
    assert!(steps > 20, "{steps} steps");
    // After two seconds both the old plan and the applied part of the new one have had starts.
    assert!(starts["old"] >= 1 && starts.len() > 1000, "{starts:?}");
    let actions = planner.poll(now + 1000 * MS, |_| false);
    let left: std::collections::HashSet<_> = actions
        .iter()
        .filter_map(|action| if let Action::Start { work, .. } = action { Some(work.as_str()) } else { None })
        .collect();
    assert!(!left.contains("old"));
    assert_eq!(left.len(), 5000);
}
