//! Settings, events and runs for the tests of this module.

use std::time::Duration;

use imaptrace_record::Run;
use serde_json::json;

use super::{EventCounts, EventStore, SenderSettings};
use crate::{plan::Glob, secret::SecretSource, telemetry::Metrics};

/// How long events are kept.
pub(super) const AGE: Duration = Duration::from_secs(30);

pub(super) fn sender(name: &str, targets: &[&str]) -> SenderSettings {
    let targets = targets.iter().map(|target| Glob::new(target)).collect();
    SenderSettings { name: name.to_owned(), secret: SecretSource::Nowhere, from: Vec::new(), targets }
}

pub(super) fn store(senders: &[(&str, &[&str])]) -> EventStore {
    let senders = senders.iter().map(|(name, targets)| sender(name, targets)).collect::<Vec<_>>();
    let counts = EventCounts::new(&senders, Metrics::off());
    EventStore::new(senders, counts, AGE)
}

pub(super) fn passed() -> Run {
    serde_json::from_str(imaptrace_testkit::PASSED_RUN).unwrap()
}

/// The body of an event of this run's session.
pub(super) struct SampleSession<'a> {
    pub(super) run: &'a Run,
    pub(super) session: &'a str,
}

impl SampleSession<'_> {
    fn body(&self, event: &str, more: &[(&str, serde_json::Value)]) -> Vec<u8> {
        let (peer, local) = (self.run.server.peer.unwrap(), self.run.server.local.unwrap());
        let mut fields = json!({
            "duration": 1_500, "session": self.session, "user": "someone",
            "local_ip": peer.ip(), "local_port": peer.port(), "remote_ip": local.ip(), "remote_port": local.port(),
        });
        for (key, value) in more {
            fields[key] = value.clone();
        }
        let event = json!({
            "event": event, "hostname": "mail01", "fields": fields,
            "start_time": "2026-11-23T11:42:40.300000Z", "end_time": "2026-11-23T11:42:40.301500Z",
        });
        event.to_string().into_bytes()
    }

    /// A command with the tag of this step.
    pub(super) fn command(&self, name: &str) -> Vec<u8> {
        let step = self.run.steps.iter().find(|step| step.name.as_str() == name).unwrap();
        self.tagged(name, &step.span_id.unwrap().to_string())
    }

    /// A command with this tag.
    pub(super) fn tagged(&self, name: &str, tag: &str) -> Vec<u8> {
        let usecs = 1_200.into();
        let more = [("cmd_name", name.into()), ("cmd_tag", tag.into()), ("running_usecs", usecs)];
        self.body("imap_command_finished", &more)
    }

    pub(super) fn auth(&self) -> Vec<u8> {
        self.body("auth_request_finished", &[("success", "yes".into())])
    }

    /// A mail that was opened, the `number`th, in a command of this name.
    pub(super) fn mail(&self, command: &str, number: usize) -> Vec<u8> {
        self.body("mail_opened", &[("cmd_name", command.into()), ("uid", number.into())])
    }

    /// A mail that was opened by the command with this tag.
    pub(super) fn opened(&self, command: &str, tag: &str) -> Vec<u8> {
        self.body("mail_opened", &[("cmd_name", command.into()), ("cmd_tag", tag.into())])
    }

    pub(super) fn end(&self) -> Vec<u8> {
        self.body("mail_user_session_finished", &[])
    }
}
