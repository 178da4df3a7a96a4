//! What the server's events and processes report about each step of a run. All times are in seconds. Read by the rules.

use std::collections::BTreeMap;

use imaptrace_imap::CommandName;
use imaptrace_record::{
    Run, Seconds, ServerEvent, ServerEventName, ServerEvents, ServerProcess, ServerProcessName, SpanId, StepOutcome,
};

use super::{ledger::StepExcess, usual::usual_step};

/// What the server reported about a command.
#[derive(Debug, Clone, Copy)]
pub(super) struct CommandTimes {
    /// In the command, a wait for a lock included.
    pub(super) running: f64,
    /// Waiting for locks.
    pub(super) lock: f64,
    pub(super) opened: u64,
}

/// What the server reported about the login.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LoginTimes {
    /// Lookups in password and user databases.
    pub(super) lookups: f64,
    /// The authentication in the auth process less the password lookups: penalty and delays.
    pub(super) delay: f64,
    /// From the end of the authentication to the first look-up of the process that serves the session: until there was one.
    pub(super) until_process: Option<f64>,
}

/// What the imap process used while it served commands.
#[derive(Debug, Clone, Copy)]
pub(super) struct ImapProcess {
    pub(super) cpu: f64,
    pub(super) run_queue: f64,
}

/// What login processes used.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LoginProcesses {
    pub(super) count: usize,
    pub(super) cpu: f64,
    pub(super) run_queue: f64,
    /// The longest time that one of them was sampled.
    pub(super) sampled: f64,
    /// The CPU time of the second of them.
    pub(super) second_cpu: f64,
    /// The longest wait for a CPU of one of them.
    pub(super) longest_queue: f64,
}

/// All of it, by step.
#[derive(Debug, Default)]
pub(super) struct ServerSide<'a> {
    events: Option<&'a ServerEvents>,
    commands: BTreeMap<SpanId, CommandTimes>,
    pub(super) login: Option<LoginTimes>,
}

impl<'a> ServerSide<'a> {
    pub(super) fn of(run: &'a Run) -> Self {
        let Some(events) = run.server_events.as_deref() else { return Self::default() };
        let commands = events.named(ServerEventName::ImapCommandFinished).map(|event| {
            let running = event.running_s.or(event.reported_s).unwrap_or(event.duration_s);
            let lock = event.lock_wait_s.unwrap_or_default().min(running);
            let times = CommandTimes {
                running: running.as_f64(),
                lock: lock.as_f64(),
                opened: event.mail_opened.unwrap_or_default(),
            };
            (event.parent_span_id, times)
        });
        Self { events: Some(events), commands: commands.collect(), login: login_times(events) }
    }

    /// Whether the server has reported anything.
    pub(super) fn is_reported(&self) -> bool {
        self.events.is_some()
    }

    pub(super) fn command(&self, entry: &StepExcess<'_>) -> Option<CommandTimes> {
        self.commands.get(&entry.span()?).copied()
    }

    /// What the server itself reports as its time in a command, by an event or in its tagged line.
    pub(super) fn own_time(&self, entry: &StepExcess<'_>) -> Option<f64> {
        let is_login = entry.step.name.command().is_some_and(CommandName::is_login);
        let in_line = || entry.step.reported_s.filter(|_| !is_login).map(Seconds::as_f64);
        self.command(entry).map(|times| times.running).or_else(in_line)
    }

    /// What is left of a step's excess outside the server's own time; none where the server does not report that.
    pub(super) fn outside(&self, entry: &StepExcess<'_>) -> Option<f64> {
        let own = self.own_time(entry)?;
        Some((entry.left - (own - entry.usual).max(0.0)).clamp(0.0, entry.left))
    }

    /// What the imap process used in commands: in all of the session less in the login.
    pub(super) fn imap(&self, login: Option<SpanId>) -> Option<ImapProcess> {
        let of_imap = || self.processes(ServerProcessName::Imap);
        let all = of_imap().filter(|process| process.span_id.is_none()).max_by_key(|process| process.sampled_s)?;
        let start = of_imap().find(|process| process.span_id.is_some() && process.span_id == login);
        let less =
            |of: fn(&ServerProcess) -> Seconds| of(all).saturating_sub(start.map(of).unwrap_or_default()).as_f64();
        Some(ImapProcess { cpu: less(|process| process.cpu_s), run_queue: less(|process| process.run_queue_s) })
    }

    /// The longest wait for a CPU of a process that has a part in a step, in that step.
    pub(super) fn run_queue_in(&self, entry: &StepExcess<'_>) -> Option<f64> {
        let of_step =
            self.all_processes().filter(|process| process.span_id.is_some() && process.span_id == entry.span());
        of_step.map(|process| process.run_queue_s.as_f64()).reduce(f64::max)
    }

    /// What the login processes used while the run lasted; none without a sample of them.
    pub(super) fn login_processes(&self) -> Option<LoginProcesses> {
        let of_login = self.processes(ServerProcessName::ImapLogin).filter(|process| process.span_id.is_none());
        let mut all = LoginProcesses::default();
        let mut cpu: Vec<f64> = Vec::new();
        for process in of_login {
            let queue = process.run_queue_s.as_f64();
            all.count += 1;
            all.cpu += process.cpu_s.as_f64();
            all.run_queue += queue;
            all.sampled = all.sampled.max(process.sampled_s.as_f64());
            all.longest_queue = all.longest_queue.max(queue);
            cpu.push(process.cpu_s.as_f64());
        }
        cpu.sort_by(|one, other| other.total_cmp(one));
        all.second_cpu = cpu.get(1).copied().unwrap_or_default();
        (all.count > 0).then_some(all)
    }

    /// How late LOGOUT was outside its command.
    pub(super) fn late_logout(&self, run: &Run) -> f64 {
        let logout = run.steps.iter().rfind(|step| step.is_logout() && step.outcome == StepOutcome::Passed);
        let late = logout.and_then(|step| {
            let own = self.commands.get(&step.span_id?)?.running;
            let usual = usual_step(step)?.as_f64();
            Some(step.duration_s.as_f64() - usual - own)
        });
        late.map_or(0.0, |late| late.max(0.0))
    }

    fn all_processes(&self) -> impl Iterator<Item = &'a ServerProcess> {
        self.events.into_iter().flat_map(|events| &events.processes)
    }

    fn processes(&self, name: ServerProcessName) -> impl Iterator<Item = &'a ServerProcess> {
        self.all_processes().filter(move |process| process.process == name)
    }
}

/// What the server itself reports as the duration: a process that got no CPU reports it later.
fn reported(event: &ServerEvent) -> f64 {
    event.reported_s.unwrap_or(event.duration_s).as_f64()
}

fn end_micros(event: &ServerEvent) -> i64 {
    let duration = i64::try_from(event.duration_s.as_micros()).unwrap_or(i64::MAX);
    event.started_at.epoch_micros().saturating_add(duration)
}

fn login_times(events: &ServerEvents) -> Option<LoginTimes> {
    let sum = |name| events.named(name).map(reported).sum::<f64>();
    let passdb = sum(ServerEventName::AuthPassdbRequestFinished);
    let userdb = sum(ServerEventName::AuthUserdbRequestFinished);
    let request = events.named(ServerEventName::AuthRequestFinished).map(reported).reduce(f64::max);
    let client = events.named(ServerEventName::AuthClientRequestFinished).next();
    let until_process = client.and_then(|client| {
        let ended = end_micros(client);
        let after =
            events.named(ServerEventName::AuthUserdbRequestFinished).map(|event| event.started_at.epoch_micros());
        let first = after.filter(|at| *at >= ended).min()?;
        let micros = u64::try_from(first.saturating_sub(ended)).ok()?;
        Some(Seconds::from_micros(micros).as_f64())
    });
    (request.is_some() || client.is_some() || passdb > 0.0).then(|| LoginTimes {
        lookups: passdb + userdb,
        delay: (request.unwrap_or_default() - passdb).max(0.0),
        until_process,
    })
}

#[cfg(test)]
mod tests {
    use imaptrace_record::ServerText;

    use super::*;

    fn run_with(events: ServerEvents) -> Run {
        let mut run: Run = serde_json::from_str(imaptrace_testkit::PASSED_RUN).unwrap();
        run.server_events = Some(Box::new(events));
        run
    }

    fn process(name: ServerProcessName, sampled: u64, cpu: u64, queue: u64) -> ServerProcess {
        let json = format!(
            r#"{{"host":0,"process":"{}","sampled_s":0.{sampled:03},"cpu_s":0.{cpu:03},"run_queue_s":0.{queue:03}}}"#,
            name.as_str()
        );
        serde_json::from_str(&json).unwrap()
    }

    fn is_near(value: f64, expected: f64) -> bool {
        (value - expected).abs() < 1e-9
    }

    #[test]
    fn login_processes_are_added_up_and_others_are_not() {
        use ServerProcessName::{Imap, ImapLogin};
        let processes =
            vec![process(ImapLogin, 300, 20, 40), process(ImapLogin, 500, 60, 10), process(Imap, 900, 500, 500)];
        let run = run_with(ServerEvents { processes, ..ServerEvents::default() });
        let all = ServerSide::of(&run).login_processes().unwrap();
        assert_eq!(all.count, 2);
        assert!(is_near(all.cpu, 0.08) && is_near(all.run_queue, 0.05), "{all:?}");
        assert!(is_near(all.sampled, 0.5) && is_near(all.second_cpu, 0.02), "{all:?}");
        assert!(is_near(all.longest_queue, 0.04), "{all:?}");
    }

    #[test]
    fn logout_is_late_by_what_passed_outside_its_command_beyond_the_usual() {
        let mut run = run_with(ServerEvents::default());
        let logout = run.steps.iter_mut().find(|step| step.is_logout()).unwrap();
        logout.duration_s = Seconds::from_micros(90_000);
        (logout.baseline_s, logout.baseline_day_s) = (Some(Seconds::from_micros(10_000)), None);
        let id = logout.span_id.unwrap();
        let event = format!(
            r#"{{"host":0,"name":"imap_command_finished","span_id":"b7ad6b7169203331","parent_span_id":"{id}",
            "started_at":"2026-11-23T11:42:40Z","duration_s":0.03,"running_s":0.03}}"#
        );
        let host = serde_json::json!({ "name": ServerText::new(b"mail01", ServerText::ID) });
        let events = format!(r#"{{"hosts":[{host}],"events":[{event}]}}"#);
        run.server_events = Some(Box::new(serde_json::from_str(&events).unwrap()));
        let late = ServerSide::of(&run).late_logout(&run);
        assert!(is_near(late, 0.05), "{late}");
    }
}
