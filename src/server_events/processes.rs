//! What the server's processes used in each step of a run, by samples of the kernel's accounting.
//!
//! The counters of a process only grow, so two samples give what it used between them. A step has figures where samples lie within
//! [`NEAR`] of both its ends; all of the session has them in any case. Samples are of one process by its id and its start, which the
//! sampler guards. Pure; called by the agent, and by tests with recorded samples.

use std::{
    collections::BTreeMap,
    time::{Duration, UNIX_EPOCH},
};

use imaptrace_imap::CommandName;
use imaptrace_record::{
    Run, Seconds, ServerEventName, ServerEvents, ServerHost, ServerProcess, ServerProcessName, ServerText,
    SignedSeconds, SpanId, Step, Timestamp,
};

/// A sample stands for the begin or end of a step if it is at most this many microseconds from it.
const NEAR: i64 = 20_000;
/// The most processes of one name that have figures of the whole session, those with the most time first.
const MOST_OF_A_NAME: usize = 8;

/// The counters of a process at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessSample {
    /// When, by the server's clock.
    pub at: Timestamp,
    /// A number that no other process has.
    pub process_id: u64,
    /// What it is.
    pub process: ServerProcessName,
    /// Its time on a CPU since it began (the first field of `/proc/PID/schedstat`).
    pub cpu: Duration,
    /// Its time in the run queue since it began (the second field).
    pub run_queue: Duration,
    /// Its time in waits for block devices, where the kernel counts that.
    pub block_wait: Option<Duration>,
}

/// Adds to the record what the processes on `host` used, by samples in any order. Samples of imap processes must be of the
/// run's session alone; those of the other names are of all sessions.
pub fn add_processes_of_host(run: &mut Run, host: &ServerText, samples: &[ProcessSample]) {
    let mut server = run.server_events.take().unwrap_or_default();
    let known = server.hosts.iter().position(|known| known.name == *host);
    if known.is_none() && server.hosts.len() >= ServerEvents::MAX_HOSTS {
        run.server_events = Some(server);
        return;
    }
    let at = known.unwrap_or_else(|| {
        server.hosts.push(ServerHost { name: host.clone(), clock_offset_s: None, uncertain: None });
        server.hosts.len() - 1
    });
    let offset = server.hosts[at].clock_offset_s.map_or(0, SignedSeconds::as_micros);
    let host = u32::try_from(at).unwrap_or_default();
    let processes = by_process(samples);
    let mut added = Vec::new();
    for step in run.steps.iter().filter(|step| step.has_span() && step.was_started()) {
        for name in ServerProcessName::ALL.iter().filter(|name| serves(**name, step)) {
            let of_name = processes.iter().filter(|process| process.name == *name);
            let used = of_name.filter_map(|process| process.used_in(step_times(step, run, offset)));
            // Which of several login processes served the connection is not known: it is the busiest.
            let Some(used) = used.max_by_key(|used| used.cpu + used.run_queue) else { continue };
            added.push(used.record(host, *name, step.span_id, rest(step.span_id, used, &server)));
        }
    }
    for name in ServerProcessName::ALL {
        let of_name = processes.iter().filter(|process| process.name == *name);
        let mut all: Vec<Used> = of_name.filter_map(|process| process.used_in_all(run, offset)).collect();
        all.sort_by_key(|used| std::cmp::Reverse(used.cpu + used.run_queue));
        added.extend(all.into_iter().take(MOST_OF_A_NAME).map(|used| used.record(host, *name, None, None)));
    }
    server.processes.extend(added);
    server.processes.truncate(ServerEvents::MAX_PROCESSES);
    let is_empty = server.events.is_empty() && server.processes.is_empty();
    run.server_events = (!is_empty).then_some(server);
}

/// Whether a process of this name has a part in a step.
fn serves(name: ServerProcessName, step: &Step) -> bool {
    let command = step.name.command();
    let login = command.is_some_and(CommandName::is_login);
    match name {
        ServerProcessName::Imap => command.is_some(),
        ServerProcessName::ImapLogin => command.is_none() || login,
        ServerProcessName::Auth => login,
    }
}

/// The samples of one process, by time.
struct ProcessSeries<'a> {
    name: ServerProcessName,
    samples: Vec<&'a ProcessSample>,
    /// It began after the first sample of another process: its counters began at 0 then.
    is_new: bool,
}

fn by_process(samples: &[ProcessSample]) -> Vec<ProcessSeries<'_>> {
    let mut all: BTreeMap<(ServerProcessName, u64), Vec<&ProcessSample>> = BTreeMap::new();
    for sample in samples {
        all.entry((sample.process, sample.process_id)).or_default().push(sample);
    }
    let first = samples.iter().map(|sample| sample.at).min();
    let series = all.into_iter().map(|((name, _), mut samples)| {
        samples.sort_by_key(|sample| (sample.at, sample.cpu));
        let is_new = samples
            .first()
            .zip(first)
            .is_some_and(|(own, first)| own.at.epoch_micros().saturating_sub(first.epoch_micros()) > 2 * NEAR);
        ProcessSeries { name, samples, is_new }
    });
    series.collect()
}

/// What a process used between two times.
#[derive(Debug, Clone, Copy)]
struct Used {
    over: Seconds,
    cpu: Duration,
    run_queue: Duration,
    block_wait: Option<Duration>,
}

impl Used {
    /// Without a wait for a CPU from before the first sample: the kernel counts all of a wait when it ends.
    fn within_time(self) -> Self {
        let over = Duration::from_micros(self.over.as_micros());
        let cpu = self.cpu.min(over);
        Self { cpu, run_queue: self.run_queue.min(over.saturating_sub(cpu)), ..self }
    }

    fn record(
        self,
        host: u32,
        process: ServerProcessName,
        span_id: Option<SpanId>,
        rest_s: Option<Seconds>,
    ) -> ServerProcess {
        ServerProcess {
            host,
            process,
            span_id,
            sampled_s: self.over,
            cpu_s: self.cpu.into(),
            run_queue_s: self.run_queue.into(),
            block_wait_s: self.block_wait.map(Into::into),
            rest_s: rest_s.filter(|_| process == ServerProcessName::Imap),
        }
    }
}

impl ProcessSeries<'_> {
    /// What it used between these times; none where no sample is near one of them.
    fn used_in(&self, (from, until): (i64, i64)) -> Option<Used> {
        let end = self.near(until)?;
        let first = self.samples.first()?;
        // It began in between, with counters of 0.
        if self.is_new && first.at.epoch_micros() > from {
            let over = end.at.epoch_micros().saturating_sub(from);
            let over = Seconds::from_micros(u64::try_from(over).unwrap_or_default());
            return Some(Used { over, ..between(None, &end) }.within_time());
        }
        let used = between(Some(&self.near(from)?), &end);
        // One sample stands for both ends: nothing is known of the time between them.
        (used.over > Seconds::ZERO).then(|| used.within_time())
    }

    /// What it used in all of the run, as far as samples show.
    fn used_in_all(&self, run: &Run, offset: i64) -> Option<Used> {
        let from = run.started_at.epoch_micros().saturating_add(offset);
        let until = from.saturating_add(i64::try_from(run.duration_s.as_micros()).unwrap_or(i64::MAX));
        let inside = |sample: &&&ProcessSample| {
            let at = sample.at.epoch_micros();
            at >= from.saturating_sub(NEAR) && at <= until.saturating_add(NEAR)
        };
        let first = self.samples.iter().find(inside)?;
        let last = self.samples.iter().rfind(inside)?;
        let begin = (!self.is_new).then_some(*first);
        let used = between(begin, last);
        let over = last.at.epoch_micros().saturating_sub(first.at.epoch_micros());
        let used = Used { over: Seconds::from_micros(u64::try_from(over).unwrap_or_default()), ..used };
        // A new process has used all of it in the run, also before its first sample.
        if self.is_new { Some(used) } else { (over > 0).then(|| used.within_time()) }
    }

    /// What the counters were at a time: those of the sample that is nearest, if it is near. Where they are the same before and
    /// after the time, they were that in between, since they only grow: samplers leave such samples out.
    fn near(&self, at: i64) -> Option<ProcessSample> {
        let behind = self.samples.partition_point(|sample| sample.at.epoch_micros() <= at);
        let before = behind.checked_sub(1).and_then(|last| self.samples.get(last)).copied().copied();
        let after = self.samples.get(behind).copied().copied();
        let is_idle =
            |(before, after): &(ProcessSample, ProcessSample)| *before == ProcessSample { at: before.at, ..*after };
        if let Some((before, _)) = before.zip(after).filter(is_idle) {
            let since = Duration::from_micros(u64::try_from(at).unwrap_or_default());
            return Some(ProcessSample { at: (UNIX_EPOCH + since).into(), ..before });
        }
        let distance = |sample: &ProcessSample| sample.at.epoch_micros().saturating_sub(at).abs();
        let nearest = [before, after].into_iter().flatten().min_by_key(distance)?;
        (distance(&nearest) <= NEAR).then_some(nearest)
    }
}

fn between(begin: Option<&ProcessSample>, end: &ProcessSample) -> Used {
    let less = |of: fn(&ProcessSample) -> Duration| of(end).saturating_sub(begin.map(of).unwrap_or_default());
    let over = begin.map_or(0, |begin| end.at.epoch_micros().saturating_sub(begin.at.epoch_micros()));
    let block_before = begin.map_or(Some(Duration::ZERO), |begin| begin.block_wait);
    Used {
        over: Seconds::from_micros(u64::try_from(over).unwrap_or_default()),
        cpu: less(|sample| sample.cpu),
        run_queue: less(|sample| sample.run_queue),
        block_wait: end.block_wait.zip(block_before).map(|(after, before)| after.saturating_sub(before)),
    }
}

/// Begin and end of a step by the server's clock.
fn step_times(step: &Step, run: &Run, offset: i64) -> (i64, i64) {
    let micros = |since: Seconds| i64::try_from(since.as_micros()).unwrap_or(i64::MAX);
    let from = run.started_at.epoch_micros().saturating_add(offset);
    (from.saturating_add(micros(step.start_s)), from.saturating_add(micros(step.end_s())))
}

/// The running time of the step's command that is neither CPU nor run queue nor a wait for a lock.
fn rest(step: Option<SpanId>, used: Used, server: &ServerEvents) -> Option<Seconds> {
    let command = server
        .named(ServerEventName::ImapCommandFinished)
        .find(|event| Some(event.parent_span_id) == step)
        .and_then(|event| event.running_s.map(|running| (running, event.lock_wait_s.unwrap_or_default())));
    let (running, lock) = command?;
    let known = lock.saturating_add(used.cpu.into()).saturating_add(used.run_queue.into());
    Some(running.saturating_sub(known))
}

#[cfg(test)]
mod tests;
