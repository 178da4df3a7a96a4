//! `[server_events]` and `[[server_events.senders]]`: the address that receives events of mail servers, and their senders;
//! what becomes of the events is in `forward` and `process_accounting`. Called by `load`.

use std::{collections::HashSet, net::SocketAddr, time::Duration};

use crate::{
    config::{
        settings::{forward, process_accounting},
        sources::{
            readers::{Field, Table},
            schema::TableKeys,
        },
        targets::account,
    },
    plan::{Glob, Network, Target},
    server_events::{SenderSettings, ServerEventsSettings},
};

pub(crate) static KEYS: TableKeys = TableKeys::new(
    "server_events",
    &[
        "listen",
        "cert",
        "key",
        "wait",
        "service_name",
        "senders",
        "proc",
        "users",
        "mail_log",
        "forward",
        "name",
        "secret",
        "ca_file",
    ],
);
pub(crate) static SENDER: TableKeys = TableKeys::new("server_events.senders", &["name", "secret", "from", "targets"]);

/// The longest `wait`: a run that waits holds back those behind it in the queue.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// `targets`, for the warning of a sender without one, are absent after an error in one of them.
pub(crate) fn read(table: &Table<'_>, targets: Option<&[Target]>) -> ServerEventsSettings {
    let standard = ServerEventsSettings::default();
    let wait = |field: &Field<'_>| field.duration_within(Duration::from_millis(10)..=LONGEST_WAIT);
    let settings = ServerEventsSettings {
        listen: table.read("listen", |field| read_listen(field, table)),
        cert: table.read("cert", Field::file),
        key: table.read("key", Field::file),
        wait: table.read("wait", wait).unwrap_or(standard.wait),
        service_name: service_name(table),
        senders: read_senders(table, targets),
        accounting: process_accounting::read(table),
        forward: forward::read(table),
    };
    if table.has("forward") && targets.is_some_and(|targets| !targets.is_empty()) {
        let help = "take out the targets: another agent probes them, and its runs take the events";
        table.error("forward", "events are forwarded, and are not for the runs of this agent", help);
    }
    if table.has("forward") && !table.has("listen") && !table.has("proc") {
        let help = "add listen = \"127.0.0.1:8144\", proc = true, or both";
        table.error("forward", "there is nothing to forward", help);
    }
    if let (Some(forward), Some(listen)) = (&settings.forward, settings.listen)
        && forward.is_to(listen)
    {
        let help = "give the address of the agent that probes";
        table.error("forward", "it is this agent's own listen address: events would loop", help);
    }
    if !table.has("listen") {
        let keys = ["cert", "key", "wait", "service_name"].into_iter();
        for key in keys.filter(|key| table.has(key) && !(settings.accounting.is_some() && *key == "wait")) {
            table.warn(key, "it has no effect without listen", "add listen = \"127.0.0.1:8144\", or remove it");
        }
    }
    match (table.has("cert"), table.has("key")) {
        (true, false) => table.error("cert", "there is no key with it", "add key"),
        (false, true) => table.error("key", "there is no cert with it", "add cert"),
        _ => {}
    }
    if settings.listen.is_some() && !table.has("senders") {
        let help = "add [[server_events.senders]] with name, secret and targets";
        table.error("listen", "there is no sender: all requests would be refused", help);
    } else if table.has("senders") && !table.has("listen") {
        table.error("senders", "there is no address to send to", "add listen = \"127.0.0.1:8144\"");
    }
    settings
}

/// The `service.name` of the spans of servers.
pub(crate) fn service_name(table: &Table<'_>) -> String {
    table.read("service_name", Field::text).unwrap_or_else(|| ServerEventsSettings::SERVICE_NAME.to_owned())
}

fn read_listen(field: &Field<'_>, table: &Table<'_>) -> Option<SocketAddr> {
    let text = field.text().filter(|text| text != "off")?;
    let Ok(address) = text.parse::<SocketAddr>() else {
        field.error("it is not an IP address with a port", "write 127.0.0.1:8144, [::1]:8144, or off");
        return None;
    };
    // An IPv4-mapped address is its IPv4 address.
    if !address.ip().to_canonical().is_loopback() && !table.has("cert") {
        let help = "add cert and key, or listen on 127.0.0.1";
        field.error("events and the senders' secrets would go over the network in clear text", help);
    }
    Some(address)
}

fn read_senders(table: &Table<'_>, targets: Option<&[Target]>) -> Vec<SenderSettings> {
    let mut names = HashSet::new();
    let mut senders = Vec::new();
    for sender in table.tables("senders", &SENDER) {
        if !sender.has("name") {
            let help = "add name = \"…\": the user name of its requests";
            sender.error("name", "the sender has no name", help);
        }
        let name = sender.read("name", forward::read_name);
        if !sender.has("secret") {
            sender.error("secret", "the sender has no secret", "add secret = { file = \"…\" }");
        }
        let secret = sender.read("secret", account::secret);
        let from = sender.get("from").map(|field| read_networks(&field)).unwrap_or_default();
        // Where events are forwarded, the other agent has the targets of its senders.
        let reported = read_targets(&sender, targets, table.has("forward"));
        let Some(name) = name else { continue };
        if !names.insert(name.clone()) {
            sender.error("name", "another sender has the same name", "give each sender a name of its own");
        }
        if let Some(secret) = secret {
            senders.push(SenderSettings { name, secret, from, targets: reported });
        }
    }
    senders
}

fn read_networks(field: &Field<'_>) -> Vec<Network> {
    let words = field.list().unwrap_or_default();
    if words.is_empty() && field.is_list() {
        field.error("it is empty", "name a network, or take it out: then it is any address");
    }
    let network = |(word, text): (Field<'_>, String)| {
        let network = text.parse::<Network>();
        network.map_err(|error| word.error(error.to_string(), "write 192.0.2.0/24, 2001:db8::/64 or 192.0.2.7")).ok()
    };
    words.into_iter().filter_map(network).collect()
}

fn read_targets(sender: &Table<'_>, targets: Option<&[Target]>, forwards: bool) -> Vec<Glob> {
    const HELP: &str = "name the targets that this server serves, such as [\"mail01\"] or [\"mail*\"]";
    let Some(field) = sender.get("targets") else {
        if forwards {
            return Vec::new();
        }
        sender.error("targets", "the sender reports about no target", HELP);
        return Vec::new();
    };
    let globs: Vec<Glob> = field.list().unwrap_or_default().iter().map(|(_, text)| Glob::new(text)).collect();
    if globs.is_empty() && field.is_list() {
        field.error("it is empty", HELP);
    }
    let fits = |target: &Target| globs.iter().any(|glob| glob.matches(&target.name));
    // An agent without targets forwards what it receives.
    if let Some(targets) = targets.filter(|targets| !targets.is_empty()) {
        if !targets.iter().any(fits) && !globs.is_empty() {
            field.warn("the sender reports about none of the targets", HELP);
        } else if let Some(glob) = globs.iter().find(|glob| !targets.iter().any(|target| glob.matches(&target.name))) {
            field.warn(format!("no target is called {:?}", glob.as_str()), HELP);
        }
    }
    globs
}
