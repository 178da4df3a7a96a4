//! `forward`, `name`, `secret` and `ca_file` of `[server_events]`: the agent to which events are forwarded. Called by
//! `server_events`.

use crate::{
    config::{
        settings::otlp::read_endpoint,
        sources::readers::{Field, Table},
        targets::account,
    },
    server_events::ForwardSettings,
};

/// None without `forward`, or where it cannot be used.
pub(super) fn read(table: &Table<'_>) -> Option<ForwardSettings> {
    let endpoint = table.read("forward", read_endpoint);
    let name = table.read("name", read_name);
    let secret = table.read("secret", account::secret);
    let ca_file = table.read("ca_file", Field::file);
    if !table.has("forward") {
        for key in ["name", "secret", "ca_file"].into_iter().filter(|key| table.has(key)) {
            table.warn(
                key,
                "it is not used without forward",
                "add forward = \"https://HOST:8144/dovecot\", or take it out",
            );
        }
        return None;
    }
    if !table.has("secret") {
        let help = "add secret = { file = \"…\" }: that of the sender with this name at the other agent";
        table.error("forward", "there is no secret to show to the other agent", help);
    }
    let endpoint = endpoint?;
    if endpoint.exposed {
        let help = "write https:// in place of http://";
        table.error("forward", "events and the secret would go over the network in clear text", help);
    }
    Some(ForwardSettings { endpoint: endpoint.url, name, secret: secret?, ca_file })
}

/// A user name of HTTP's basic authentication.
pub(super) fn read_name(field: &Field<'_>) -> Option<String> {
    let name = field.text()?;
    if name.contains(':') || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
        let problem = "a user name of HTTP is ASCII, without a colon and without a blank";
        field.error(problem, "take letters, digits and -._");
        return None;
    }
    Some(name)
}
