//! The one event that is our own: what a process used, by samples. An agent on a mail server sends it to the agent that
//! probes, which reads it like those of Dovecot, by a closed list of fields (docs/server-events.md). Input is untrusted.
//! Does no I/O. Written by `relay`, read by `sessions`; the agent adds what was read to the run.

use std::{
    net::IpAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use imaptrace_record::{Run, ServerEvents, ServerProcessName, ServerText, SignedSeconds, Timestamp};
use serde::{Deserialize, Serialize};

use super::{
    dovecot_event::{ConnectionEnds, KEY, host_text},
    processes::{ProcessSample, add_processes_of_host},
};
use crate::process_accounting::{ProcessUsage, UsageSample};

/// The name of the event.
pub(super) const EVENT: &str = "process_samples";
/// The most samples in one event: some 12 kB of the 16 that a receiver takes.
const SAMPLES: usize = 250;

/// What one process of a session used, as another agent reported it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportedUsage {
    /// The host that it ran on.
    pub host: ServerText,
    /// Dovecot's id of the session.
    pub session: Option<String>,
    /// Both ends of the connection.
    pub ends: Option<ConnectionEnds>,
    /// The samples.
    pub usage: ProcessUsage,
}

#[derive(Debug, Serialize, Deserialize)]
struct SamplesEvent {
    event: String,
    hostname: String,
    /// The time of the first sample.
    start_time: Timestamp,
    /// The time of the last one.
    end_time: Timestamp,
    fields: SamplesFields,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct SamplesFields {
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    local_ip: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    local_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remote_ip: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remote_port: Option<u16>,
    process: String,
    process_id: u64,
    /// From the start of the process to the first sample, in microseconds.
    age_usecs: u64,
    samples: Vec<SampleFields>,
}

/// Microseconds: since the first sample; on a CPU; in the run queue; waiting for block devices. The last three since the process
/// began.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct SampleFields(u64, u64, u64, Option<u64>);

impl ReportedUsage {
    /// The bodies that report it, each within what a receiver takes. The last sample of one is the first of the next.
    pub(super) fn bodies(&self) -> Vec<Vec<u8>> {
        let mut bodies = Vec::new();
        let mut rest = self.usage.samples.as_slice();
        while let Some((first, last)) = rest.first().zip(rest.get(..SAMPLES).unwrap_or(rest).last()) {
            bodies.extend(serde_json::to_vec(&self.event(rest, first, last)).ok());
            rest = rest.get(SAMPLES - 1..).filter(|rest| rest.len() > 1).unwrap_or_default();
        }
        bodies
    }

    fn event(&self, samples: &[UsageSample], first: &UsageSample, last: &UsageSample) -> SamplesEvent {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let since = |at: SystemTime, before: SystemTime| micros(at.duration_since(before).unwrap_or_default());
        let sample = |sample: &UsageSample| {
            let block_wait = sample.block_wait.map(micros);
            SampleFields(since(sample.at, first.at), micros(sample.cpu), micros(sample.run_queue), block_wait)
        };
        SamplesEvent {
            event: EVENT.to_owned(),
            hostname: self.host.as_str().to_owned(),
            start_time: first.at.into(),
            end_time: last.at.into(),
            fields: SamplesFields {
                session: self.session.clone(),
                local_ip: self.ends.map(|ends| ends.server.ip()),
                local_port: self.ends.map(|ends| ends.server.port()),
                remote_ip: self.ends.map(|ends| ends.client.ip()),
                remote_port: self.ends.map(|ends| ends.client.port()),
                process: self.usage.process.as_str().to_owned(),
                process_id: self.usage.id,
                age_usecs: since(first.at, self.usage.started),
                samples: samples.iter().take(SAMPLES).map(sample).collect(),
            },
        }
    }

    /// Reads a body; none when it is no such event, or has times that cannot be.
    pub(super) fn parse(body: &[u8]) -> Option<Self> {
        let SamplesEvent { event, hostname, start_time, fields, .. } = serde_json::from_slice(body).ok()?;
        if event != EVENT || fields.samples.is_empty() || fields.samples.len() > SAMPLES {
            return None;
        }
        let process = *ServerProcessName::ALL.iter().find(|name| name.as_str() == fields.process)?;
        let begin = start_time.to_system_time();
        let mut samples: Vec<UsageSample> = Vec::with_capacity(fields.samples.len());
        for SampleFields(since, cpu, run_queue, block_wait) in fields.samples {
            let sample = UsageSample {
                at: begin.checked_add(Duration::from_micros(since))?,
                cpu: Duration::from_micros(cpu),
                run_queue: Duration::from_micros(run_queue),
                block_wait: block_wait.map(Duration::from_micros),
            };
            // Counters and time only grow.
            if samples.last().is_some_and(|last| !last.precedes(&sample)) {
                return None;
            }
            samples.push(sample);
        }
        let started = begin.checked_sub(Duration::from_micros(fields.age_usecs)).unwrap_or(UNIX_EPOCH);
        Some(Self {
            host: host_text(&hostname),
            session: fields.session.filter(|session| !session.is_empty() && session.len() <= KEY),
            ends: ConnectionEnds::from_fields(
                (fields.local_ip, fields.local_port),
                (fields.remote_ip, fields.remote_port),
            ),
            usage: ProcessUsage { process, id: fields.process_id, started, samples },
        })
    }

    /// Bytes of memory that it holds, nearly.
    pub(super) fn held_bytes(&self) -> usize {
        let session = self.session.as_ref().map_or(0, String::len);
        size_of::<Self>() + self.host.as_str().len() + session + self.usage.samples.len() * size_of::<UsageSample>()
    }
}

/// Adds to the record of a run what the processes of its session used, and those of its login: `local` ones on this host,
/// and those that were reported. Called after the events were added, which show how far each host's clock is from ours.
pub fn add_processes(run: &mut Run, local: Option<(&ServerText, Vec<ProcessUsage>)>, reported: Vec<ReportedUsage>) {
    let mut hosts: Vec<(ServerText, Vec<ProcessUsage>)> = Vec::new();
    for ReportedUsage { host, usage, .. } in reported {
        if hosts.len() >= ServerEvents::MAX_HOSTS && !hosts.iter().any(|(known, _)| *known == host) {
            continue;
        }
        let at = hosts.iter().position(|(known, _)| *known == host).unwrap_or_else(|| {
            hosts.push((host, Vec::new()));
            hosts.len() - 1
        });
        if let Some((_, all)) = hosts.get_mut(at) {
            add_part(all, usage);
        }
    }
    let began = run.started_at.to_system_time();
    if let Some((host, usage)) = local {
        add_processes_of_host(run, host, &process_samples(&usage, began));
    }
    for (host, usage) in hosts {
        let server = run.server_events.as_ref();
        let known = server.and_then(|server| server.hosts.iter().find(|known| known.name == host));
        let offset = known.and_then(|known| known.clock_offset_s).map_or(0, SignedSeconds::as_micros);
        let shift = Duration::from_micros(offset.unsigned_abs());
        let began = if offset < 0 { began.checked_sub(shift) } else { began.checked_add(shift) };
        add_processes_of_host(run, &host, &process_samples(&usage, began.unwrap_or(UNIX_EPOCH)));
    }
}

/// Adds samples of a process, of which others may be there already: a report comes in parts.
fn add_part(all: &mut Vec<ProcessUsage>, part: ProcessUsage) {
    let is_same = |known: &&mut ProcessUsage| (known.process, known.id) == (part.process, part.id);
    let Some(known) = all.iter_mut().find(is_same) else { return all.push(part) };
    known.samples.extend(part.samples);
    known.samples.sort_by_key(|sample| (sample.at, sample.cpu));
    known.samples.dedup();
}

/// The samples in the form of the accounting, for a run that began at `began`. What a process had used before that is not of the
/// run: where it is older, its first sample is where it begins.
fn process_samples(usage: &[ProcessUsage], began: SystemTime) -> Vec<ProcessSample> {
    let mut all = Vec::new();
    for usage in usage {
        let zero = usage.samples.first().filter(|_| usage.started < began);
        all.extend(usage.samples.iter().map(|sample| {
            let less = |of: fn(&UsageSample) -> Duration| of(sample).saturating_sub(zero.map(of).unwrap_or_default());
            let block_before = zero.map_or(Some(Duration::ZERO), |zero| zero.block_wait);
            ProcessSample {
                at: sample.at.into(),
                process_id: usage.id,
                process: usage.process,
                cpu: less(|sample| sample.cpu),
                run_queue: less(|sample| sample.run_queue),
                block_wait: sample.block_wait.zip(block_before).map(|(now, before)| now.saturating_sub(before)),
            }
        }));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(count: u64) -> ReportedUsage {
        let at = |millis: u64| UNIX_EPOCH + Duration::from_millis(1_795_434_160_000 + millis);
        let millis = Duration::from_millis;
        let sample = |n| UsageSample {
            at: at(n * 10),
            cpu: millis(123_000 + n),
            run_queue: millis(2 * n),
            block_wait: Some(millis(n / 10 * 10)),
        };
        ReportedUsage {
            host: host_text("mail01"),
            session: Some("u7Trol9hrKt/AAAB".to_owned()),
            ends: Some(ConnectionEnds::new("192.0.2.1:993".parse().unwrap(), "192.0.2.7:50123".parse().unwrap())),
            usage: ProcessUsage {
                process: ServerProcessName::Imap,
                id: 0x0123_4567_89ab,
                started: at(0) - Duration::from_secs(7),
                samples: (0..count).map(sample).collect(),
            },
        }
    }

    #[test]
    fn what_is_reported_is_read_back_in_as_many_bodies_as_it_takes() {
        for (count, expected) in [(0, 0), (1, 1), (2, 1), (250, 1), (251, 2), (499, 2), (500, 3), (4_000, 17)] {
            let all = usage(count);
            let bodies = all.bodies();
            assert_eq!(bodies.len(), expected, "{count}");
            assert!(bodies.iter().all(|body| body.len() <= 16 << 10), "{:?}", bodies.iter().map(Vec::len).max());
            let mut samples = Vec::new();
            for body in bodies {
                let read = ReportedUsage::parse(&body).unwrap();
                let same = ReportedUsage { usage: all.usage.clone(), ..read.clone() };
                assert_eq!(same, all);
                assert_eq!((read.usage.id, read.usage.process), (all.usage.id, all.usage.process));
                assert_eq!(read.usage.started, all.usage.started);
                samples.extend(read.usage.samples);
            }
            samples.dedup();
            assert_eq!(samples, all.usage.samples);
        }
    }

    #[test]
    fn what_cannot_be_is_not_read() {
        let good = String::from_utf8(usage(3).bodies().remove(0)).unwrap();
        assert!(ReportedUsage::parse(good.as_bytes()).is_some());
        for (from, to) in [
            (EVENT, "imap_command_finished"),
            ("\"imap\"", "\"pop3\""),
            ("[10000,123001000", "[10000,122000000"),
            ("[10000,", "[30000,"),
            ("[10000,123001000,2000,", "[10000,123001000,-1,"),
            ("[10000,123001000,2000,0]", "[10000,123001000]"),
            ("[10000,", "[18446744073709551615,"),
            ("\"samples\":[[", "\"samples\":[],\"x\":[["),
            ("\"process_id\":1250999896491", "\"process_id\":\"x\""),
        ] {
            let bad = good.replacen(from, to, 1);
            assert_ne!(bad, good, "{from}");
            assert_eq!(ReportedUsage::parse(bad.as_bytes()), None, "{bad}");
        }
        let mut many = usage(1);
        many.usage.samples = vec![many.usage.samples[0]; 200];
        let body = String::from_utf8(many.bodies().remove(0)).unwrap();
        let (head, tail) = body.split_once("[[").unwrap();
        let (row, _) = tail.split_once(']').unwrap();
        let twice = format!("{head}[{}]}}}}", vec![format!("[{row}]"); SAMPLES + 1].join(","));
        assert_eq!(ReportedUsage::parse(twice.as_bytes()), None);
    }

    #[test]
    fn no_field_beyond_the_list_is_read() {
        let body = String::from_utf8(usage(3).bodies().remove(0)).unwrap();
        let more = body.replacen("\"process\":", "\"user\":\"planted\",\"process\":", 1);
        assert!(!format!("{:?}", ReportedUsage::parse(more.as_bytes()).unwrap()).contains("planted"));
    }

    #[test]
    fn the_parts_of_a_report_are_put_together_in_any_order() {
        let all = usage(1_000);
        let mut parts: Vec<_> = all.bodies().iter().map(|body| ReportedUsage::parse(body).unwrap().usage).collect();
        parts.reverse();
        let mut together = Vec::new();
        for part in parts {
            add_part(&mut together, part);
        }
        assert_eq!(together, [all.usage]);
    }

    #[test]
    fn an_older_process_begins_with_its_first_sample_and_a_new_one_with_nothing() {
        let usage = usage(3).usage;
        let samples = process_samples(std::slice::from_ref(&usage), usage.samples[0].at);
        let cpu: Vec<_> = samples.iter().map(|sample| sample.cpu.as_millis()).collect();
        assert_eq!(cpu, [0, 1, 2]);
        let samples = process_samples(std::slice::from_ref(&usage), usage.started);
        let cpu: Vec<_> = samples.iter().map(|sample| sample.cpu.as_millis()).collect();
        assert_eq!(cpu, [123_000, 123_001, 123_002]);
        assert_eq!(samples[0].process_id, usage.id);
    }
}
