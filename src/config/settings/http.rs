//! `[http]`: the status endpoint of the agent. Called by `load`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::config::sources::{
    readers::{Field, Table},
    schema::TableKeys,
};

pub(crate) static KEYS: TableKeys = TableKeys::new("http", &["listen", "history"]);

/// Settings of the status endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Http {
    /// Its address; none is no endpoint.
    pub listen: Option<SocketAddr>,
    /// The last runs to keep for each account, and as many failed ones.
    pub history: usize,
}

impl Http {
    /// The default address, reachable from this host alone. The ports from 9100 to 9999 are those of Prometheus's exporters.
    pub const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8143);
    /// For `probe`.
    pub(crate) const OFF: Self = Self { listen: None, history: 0 };
}

pub(crate) fn read(table: &Table<'_>) -> Http {
    let listen = match table.get("listen") {
        Some(field) => read_listen(&field),
        None => Some(Http::LISTEN),
    };
    Http { listen, history: table.read("history", |field| field.number(1..=1_000)).unwrap_or(5) }
}

fn read_listen(field: &Field<'_>) -> Option<SocketAddr> {
    let text = field.text().filter(|text| text != "off")?;
    let Ok(address) = text.parse::<SocketAddr>() else {
        field.error("it is not an IP address with a port", "write 127.0.0.1:8143, [::1]:8143, or off");
        return None;
    };
    // An IPv4-mapped address is its IPv4 address.
    if !address.ip().to_canonical().is_loopback() {
        let help = "listen on 127.0.0.1, behind a proxy that asks for a password";
        field.warn("everyone who can reach this address can read the names of targets and their failures", help);
    }
    Some(address)
}
