//! Kinds of addresses to which a mail server's name should not resolve.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Choice;

/// A kind of address that `[dns] deny` can exclude: an attacker who controls a name's DNS could direct the password there (DNS
/// rebinding).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressKind {
    /// This host: 127.0.0.0/8 and `::1`; 0.0.0.0/8 and `::` reach it too.
    Loopback,
    /// The link, where clouds have their metadata services: 169.254.0.0/16, `fe80::/10`.
    LinkLocal,
    /// Private networks: RFC 1918, RFC 6598 (100.64.0.0/10), `fc00::/7`.
    Private,
    /// No single host: 224.0.0.0/4, 255.255.255.255, `ff00::/8`.
    Multicast,
}

impl Choice for AddressKind {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("loopback", Self::Loopback),
        ("link-local", Self::LinkLocal),
        ("private", Self::Private),
        ("multicast", Self::Multicast),
    ];
}

impl AddressKind {
    /// The kind of an address, if any. Of an IPv6 address that embeds an IPv4 address, that one's.
    pub fn of(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(address) => of_v4(address),
            IpAddr::V6(address) => embedded(address).map_or_else(|| of_v6(address), of_v4),
        }
    }
}

fn of_v4(address: Ipv4Addr) -> Option<AddressKind> {
    match address.octets() {
        [0 | 127, ..] => Some(AddressKind::Loopback),
        [169, 254, ..] => Some(AddressKind::LinkLocal),
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] | [100, 64..=127, ..] => Some(AddressKind::Private),
        [224..=239, ..] | [255, 255, 255, 255] => Some(AddressKind::Multicast),
        _ => None,
    }
}

fn of_v6(address: Ipv6Addr) -> Option<AddressKind> {
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => Some(AddressKind::Loopback),
        [0xfe80..=0xfebf, ..] => Some(AddressKind::LinkLocal),
        [0xfc00..=0xfdff, ..] => Some(AddressKind::Private),
        [0xff00..=0xffff, ..] => Some(AddressKind::Multicast),
        _ => None,
    }
}

/// Of `::ffff:0:0/96`, which is IPv4 to the kernel (RFC 4291 §2.5.5.2), and of `64:ff9b::/96`, which is IPv4 to a translator
/// (RFC 6052 §2.1).
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    match address.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            Some(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_recognized_at_both_its_ends_and_inside_ipv6() {
        use AddressKind::{LinkLocal, Loopback, Multicast, Private};
        for (address, kind) in [
            ("126.255.255.255", None),
            ("127.0.0.1", Some(Loopback)),
            ("127.255.255.255", Some(Loopback)),
            ("128.0.0.0", None),
            ("0.0.0.0", Some(Loopback)),
            ("169.253.255.255", None),
            ("169.254.169.254", Some(LinkLocal)),
            ("169.255.0.0", None),
            ("10.1.2.3", Some(Private)),
            ("172.15.255.255", None),
            ("172.16.0.0", Some(Private)),
            ("172.31.255.255", Some(Private)),
            ("172.32.0.0", None),
            ("192.168.255.255", Some(Private)),
            ("100.63.255.255", None),
            ("100.64.0.0", Some(Private)),
            ("100.127.255.255", Some(Private)),
            ("100.128.0.0", None),
            ("223.255.255.255", None),
            ("224.0.0.1", Some(Multicast)),
            ("255.255.255.255", Some(Multicast)),
            ("192.0.2.7", None),
            ("::", Some(Loopback)),
            ("::1", Some(Loopback)),
            ("::2", None),
            ("::ffff:127.0.0.1", Some(Loopback)),
            ("::ffff:192.0.2.7", None),
            ("64:ff9b::a9fe:a9fe", Some(LinkLocal)),
            ("64:ff9b::192.0.2.7", None),
            ("fe7f::", None),
            ("fe80::1", Some(LinkLocal)),
            ("febf:ffff::", Some(LinkLocal)),
            ("fec0::", None),
            ("fbff::", None),
            ("fc00::", Some(Private)),
            ("fdff::1", Some(Private)),
            ("ff02::1", Some(Multicast)),
            ("2001:db8::7", None),
        ] {
            assert_eq!(AddressKind::of(address.parse().unwrap()), kind, "{address}");
        }
    }

    #[test]
    fn each_kind_has_a_word_of_its_own() {
        for (word, kind) in AddressKind::WORDS {
            assert_eq!(kind.word(), *word);
        }
    }
}
