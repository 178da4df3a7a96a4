//! `[dns]`: how names are resolved. Called by `load`.

use std::net::IpAddr;

use crate::{
    config::sources::{
        readers::{Field, Table},
        schema::TableKeys,
    },
    plan::{AddressKind, Choice as _, Dns, NameResolver},
};

pub(crate) static KEYS: TableKeys = TableKeys::new("dns", &["resolver", "cache", "servers", "deny"]);

/// Reads `[dns]`. `nss`: as [`NameResolver::SYSTEM_HAS_NSS`].
pub(crate) fn read(table: &Table<'_>, nss: bool) -> Dns {
    let resolver = table.read("resolver", |field| {
        let chosen = field.choice()?;
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
    for (field, text) in table.read("servers", Field::list).unwrap_or_default() {
        // A link-local address can have a zone only in brackets.
        let address = text.parse().or_else(|_| format!("[{text}]:53").parse()).ok();
        let address = address.or_else(|| Some((text.parse::<IpAddr>().ok()?, 53).into()));
        match address {
            Some(address) => servers.push(address),
            None => field.error("it is not an IP address", "write 192.0.2.53, 192.0.2.53:5353 or [2001:db8::53]:53"),
        }
    }
    let mut deny = Vec::new();
    for (field, word) in table.read("deny", Field::list).unwrap_or_default() {
        if let Some(kind) = field.word(&word, AddressKind::WORDS)
            && !deny.contains(&kind)
        {
            deny.push(kind);
        }
    }
    let cache = table.read("cache", Field::bool).unwrap_or(false);
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
