//! The hosts file: names and their addresses, one address a line (hosts(5)).
//!
//! Names are compared without regard to case, and no search domain is added: as the C library's `files` does. Called by `files`
//! and `resolve`.

use std::{collections::HashMap, net::IpAddr};

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Hosts(HashMap<String, Vec<IpAddr>>);

impl Hosts {
    /// Parses a hosts file. Ignores lines that do not begin with an address.
    pub(super) fn parse(text: &[u8]) -> Self {
        let mut names: HashMap<String, Vec<IpAddr>> = HashMap::new();
        for line in String::from_utf8_lossy(text).lines() {
            let mut words = line.split('#').next().unwrap_or_default().split_ascii_whitespace();
            let Some(address) = words.next().and_then(|word| word.parse().ok()) else { continue };
            for name in words {
                let addresses = names.entry(name.to_ascii_lowercase()).or_default();
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
        }
        Self(names)
    }

    /// The addresses of a name, in the file's order.
    pub(super) fn addresses(&self, name: &str) -> &[IpAddr] {
        self.0.get(&name.to_ascii_lowercase()).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_of_a_line_has_its_address_and_what_is_no_address_is_passed_over() {
        let hosts = Hosts::parse(
            b"127.0.0.1\tlocalhost\n::1 localhost ip6-localhost # 192.0.2.9 commented\n\n#192.0.2.8 mail\n\
              192.0.2.7 mail_server Mail.Example.Test\r\n192.0.2.7 mail_server\nfe80::1%eth0 zoned\n300.0.0.1 wrong\n\xff\xfe\n",
        );
        let ips = |name: &str| hosts.addresses(name).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(ips("localhost"), ["127.0.0.1", "::1"]);
        assert_eq!(ips("MAIL_SERVER"), ["192.0.2.7"]);
        assert_eq!(ips("mail.example.test"), ["192.0.2.7"]);
        for absent in ["mail", "commented", "zoned", "wrong", "mail.example.test.", ""] {
            assert!(hosts.addresses(absent).is_empty(), "{absent}");
        }
    }
}
