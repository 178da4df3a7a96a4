//! The JSON of an event that is passed on: that of Dovecot, with the fields of the closed list alone. Called by `relay`.

use serde::Serialize;
use serde_json::{Map, Value};

use super::dovecot_event::{ReportedEvent, ReportedKind};

#[derive(Serialize)]
struct ForwardedEvent<'a> {
    event: &'a str,
    hostname: &'a str,
    start_time: Value,
    end_time: Value,
    fields: Map<String, Value>,
}

impl ReportedEvent {
    /// The event as Dovecot 2.3 writes it, without the user and all else that is not used.
    pub(super) fn to_json(&self) -> Option<Vec<u8>> {
        let mut fields = Map::new();
        let mut add = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                fields.insert(key.to_owned(), value);
            }
        };
        add("duration", self.reported.map(|duration| duration.as_micros().into()));
        add("session", self.session.as_deref().map(Into::into));
        for (side, end) in [("local", self.ends.map(|ends| ends.server)), ("remote", self.ends.map(|ends| ends.client))]
        {
            add(&format!("{side}_ip"), end.map(|end| end.ip().to_string().into()));
            add(&format!("{side}_port"), end.map(|end| end.port().into()));
        }
        add("cmd_tag", self.tag.as_deref().map(Into::into));
        add("cmd_name", self.command.map(|command| command.as_str().into()));
        add("tagged_reply_state", self.status.map(|status| status.as_str().into()));
        add("running_usecs", self.running.map(|time| time.as_micros().into()));
        add("lock_wait_usecs", self.lock_wait.map(|time| time.as_micros().into()));
        add("bytes_in", self.in_bytes.map(Into::into));
        add("bytes_out", self.out_bytes.map(Into::into));
        add("reason", self.reason.as_ref().map(|reason| reason.as_str().into()));
        add("success", self.success.map(|success| if success { "yes" } else { "no" }.into()));
        let event = ForwardedEvent {
            event: match self.what {
                ReportedKind::Span(name) => name.as_str(),
                ReportedKind::MailOpened => "mail_opened",
            },
            hostname: self.host.as_str(),
            start_time: serde_json::to_value(self.started_at).ok()?,
            end_time: serde_json::to_value(self.ended_at).ok()?,
            fields,
        };
        serde_json::to_vec(&event).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::super::dovecot_event::parse;

    #[test]
    fn what_is_passed_on_is_read_as_the_same_event_and_has_no_other_field() {
        let ends = r#""local_ip":"::ffff:192.0.2.1","local_port":993,"remote_ip":"2001:db8::7","remote_port":43234"#;
        for (event, fields) in [
            (
                "imap_command_finished",
                r#""cmd_tag":"T6b0fa3","cmd_name":"SELECT","tagged_reply_state":"NO","duration":38716,
                "running_usecs":38691,"lock_wait_usecs":0,"net_in_bytes":7,"net_out_bytes":359,"cmd_args":"planted"#,
            ),
            ("auth_passdb_request_finished", r#""result":"ok","user":"planted"#),
            ("auth_request_finished", r#""success":"no","original_user":"planted"#),
            ("mail_opened", r#""reason":"9/9 headers not cached","mailbox":"planted"#),
            ("mail_user_session_finished", r#""utime":"planted"#),
        ] {
            let body = format!(
                r#"{{"event":"{event}","hostname":"mail01","start_time":"2026-11-29T00:47:31.423205Z",
                "end_time":"2026-11-29T00:47:31.464180Z","fields":{{{ends},"session":"ZXBlo19h4qh",{fields}"}}}}"#
            );
            let read = parse(body.as_bytes()).unwrap_or_else(|| panic!("{body}"));
            let json = read.to_json().unwrap();
            assert_eq!(parse(&json), Some(read), "{event}");
            assert!(!String::from_utf8(json).unwrap().contains("planted"), "{event}");
        }
    }
}
