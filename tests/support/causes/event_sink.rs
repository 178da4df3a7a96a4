//! A receiver of the events that Dovecot posts: it takes and keeps every body, and answers 200.

use std::{
    fmt::Write as _,
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex},
    thread,
};

use serde_json::Value;

use crate::support::event_posts;

/// The receiver; it accepts until the process ends.
pub struct EventSink {
    address: SocketAddr,
    events: Arc<Mutex<Vec<Value>>>,
}

/// The events of which a verdict makes use.
const EVENTS: [&str; 7] = [
    "imap_command_finished",
    "auth_passdb_request_finished",
    "auth_userdb_request_finished",
    "auth_request_finished",
    "auth_client_request_finished",
    "mail_user_session_finished",
    "mail_opened",
];

impl EventSink {
    /// Takes events from this listener.
    pub fn start(listener: TcpListener) -> Self {
        let address = listener.local_addr().unwrap();
        let events = Arc::<Mutex<Vec<Value>>>::default();
        let kept = Arc::clone(&events);
        thread::spawn(move || {
            while let Ok((sender, _)) = listener.accept() {
                let kept = Arc::clone(&kept);
                thread::spawn(move || {
                    let keep = |body: &[u8]| {
                        kept.lock().unwrap().push(serde_json::from_slice(body).expect("an event of Dovecot is JSON"));
                        Ok(())
                    };
                    drop(event_posts::receive(sender, keep));
                });
            }
        });
        Self { address, events }
    }

    /// The settings with which a Dovecot 2.3 posts its events here.
    pub fn settings(&self) -> String {
        let mut text = format!(
            "event_exporter causes {{\n  format = json\n  format_args = time-rfc3339\n  transport = http-post\n  \
             transport_args = http://{}/dovecot\n  transport_timeout = 2s\n}}\n",
            self.address
        );
        for event in EVENTS {
            write!(
                text,
                "metric causes_{event} {{\n  exporter = causes\n  exporter_include = name hostname timestamps categories \
                 fields\n  filter = event={event}\n}}\n"
            )
            .unwrap();
        }
        text
    }

    /// All that has come since the last call.
    pub fn take(&self) -> Vec<Value> {
        std::mem::take(&mut self.events.lock().unwrap())
    }
}
