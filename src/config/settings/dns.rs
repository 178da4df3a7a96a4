//! `[dns]`: how names are looked up.
//!
//! Reads the table into plain values; nothing is done with them here. Called by `load`.

use std::net::IpAddr;

use crate::{
    config::sources::{readers::Table, schema::TableKeys},
    plan::{AddressKind, Dns, NameResolver},
};

pub(crate) static KEYS: TableKeys = TableKeys::new("dns", &["resolver", "cache", "servers", "deny"]);

/// Reads `[dns]`. `nss`: whether this build's C library is one that `resolver = "system"` has a meaning with.
pub(crate) fn read(table: &Table<'_>, nss: bool) -> Dns {
    let resolver = table.get("resolver").and_then(|field| {
        let words = [NameResolver::Builtin, NameResolver::System].map(|resolver| (resolver.as_str(), resolver));
        let chosen = field.choice(&words)?;
        if chosen == NameResolver::System && !nss {
            field.error(
                "\"system\" is not in this build: its C library is linked statically, or musl, and does not read nsswitch.conf",
                "leave it at \"builtin\", or take a build that is linked dynamically against glibc",
            );
        }
        Some(chosen)
    });
    let resolver = resolver.unwrap_or_default();
    let mut servers = Vec::new();
    for (field, text) in table.get("servers").and_then(|field| field.list()).unwrap_or_default() {
        // A link-local address bears its zone in brackets alone.
        let address = text.parse().or_else(|_| format!("[{text}]:53").parse()).ok();
        let address = address.or_else(|| Some((text.parse::<IpAddr>().ok()?, 53).into()));
        match address {
            Some(address) => servers.push(address),
            None => field.error("it is not an IP address", "write 192.0.2.53, 192.0.2.53:5353 or [2001:db8::53]:53"),
        }
    }
    let mut deny = Vec::new();
    for (field, word) in table.get("deny").and_then(|field| field.list()).unwrap_or_default() {
        if let Some(kind) = field.word(&word, AddressKind::WORDS)
            && !deny.contains(&kind)
        {
            deny.push(kind);
        }
    }
    let cache = table.get("cache").and_then(|field| field.bool()).unwrap_or(false);
    if resolver == NameResolver::System {
        for (key, set) in [("servers", !servers.is_empty()), ("cache", cache)] {
            if set {
                let what = format!("it has no meaning with dns.resolver = \"system\": the system has its own {key}");
                table.error(key, what, "take it out, or set resolver = \"builtin\"");
            }
        }
    }
    Dns { resolver, cache, servers, deny }
}
