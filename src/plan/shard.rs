//! Which servers an agent probes, of several agents that share out those of one configuration.
//!
//! Rendezvous hashing: each server goes to the shard with the highest hash of both, so that one more shard takes its part from all
//! others and moves nothing between them. The hash is fixed (docs/fleet.md): agents of different versions agree. Does no I/O.
//! Called by `config`.

use std::fmt;

use sha2::{Digest as _, Sha256};

use super::Endpoint;

/// One of several shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    index: u32,
    count: u32,
}

impl Shard {
    /// The most shards.
    pub const MOST: u32 = 256;

    /// The shard with this index, counted from 0, of `count`; none when there is no such shard.
    pub fn new(index: u32, count: u32) -> Option<Self> {
        (index < count && count <= Self::MOST).then_some(Self { index, count })
    }

    /// Whether this server is of this shard. All targets with the same host and port are.
    pub fn has(self, server: &Endpoint) -> bool {
        shard_of(&server.to_string(), self.count) == self.index
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

/// The index of the shard that a server is of: `server` is HOST:PORT as configured, an IPv6 address in brackets; the case of
/// ASCII letters does not count. Of the shards I the one whose SHA-256 of `HOST:PORT/I` has the highest first eight bytes.
pub fn shard_of(server: &str, count: u32) -> u32 {
    let server = server.to_ascii_lowercase();
    let hash = |index: &u32| {
        let digest: [u8; 32] = Sha256::digest(format!("{server}/{index}")).into();
        digest.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
    };
    (0..count).max_by_key(hash).unwrap_or_default()
}

/// The ordinal at the end of a host name, as a `StatefulSet` of Kubernetes gives it: 3 of `imaptrace-3` or
/// `imaptrace-3.imaptrace.mail.svc`.
pub fn ordinal_of(host_name: &str) -> Option<u32> {
    let (name, ordinal) = host_name.split('.').next()?.rsplit_once('-')?;
    let is_number = !ordinal.is_empty() && ordinal.bytes().all(|byte| byte.is_ascii_digit());
    if name.is_empty() || !is_number { None } else { ordinal.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Host;

    fn servers() -> Vec<String> {
        (0..10_000).map(|number| format!("mail{number:05}.example.org:993")).collect()
    }

    /// The vectors of docs/fleet.md, which `sha256sum` gives as well.
    #[test]
    fn the_hash_is_the_documented_one() {
        let page = include_str!("../../docs/fleet.md");
        let vectors = [
            ("mail001.example.org:993", [1, 1, 3, 7]),
            ("mail002.example.org:993", [0, 0, 4, 4]),
            ("192.0.2.1:143", [0, 2, 2, 5]),
            ("[2001:db8::1]:993", [1, 1, 3, 5]),
        ];
        for (server, expected) in vectors {
            let found = [2, 3, 5, 8].map(|count| shard_of(server, count));
            assert_eq!(found, expected, "{server}");
            assert_eq!([2, 3, 5, 8].map(|count| shard_of(&server.to_ascii_uppercase(), count)), expected);
            let [two, three, five, eight] = expected;
            let row = format!("| `{server}` | {two} | {three} | {five} | {eight} |");
            assert!(page.contains(&row), "{row} is not in docs/fleet.md");
        }
    }

    #[test]
    fn one_more_shard_takes_its_part_and_nothing_moves_between_the_others() {
        for count in [1, 2, 5, 12] {
            let servers = servers();
            let moved: Vec<_> = servers
                .iter()
                .filter_map(|server| {
                    let (before, after) = (shard_of(server, count), shard_of(server, count + 1));
                    (before != after).then_some(after)
                })
                .collect();
            assert!(moved.iter().all(|shard| *shard == count), "{count}");
            let due = servers.len() / (count as usize + 1);
            assert!(moved.len().abs_diff(due) < due / 5, "{count}: {} of {due}", moved.len());
        }
    }

    #[test]
    fn each_server_is_of_one_shard_and_the_shards_are_of_nearly_the_same_size() {
        let mut sizes = [0_usize; 5];
        for server in servers() {
            sizes[shard_of(&server, 5) as usize] += 1;
        }
        assert!(sizes.iter().all(|size| size.abs_diff(2_000) < 150), "{sizes:?}");
        let of = |host: Host| -> Vec<u32> {
            let endpoint = Endpoint { host, port: 993 };
            (0..5).filter(|index| Shard::new(*index, 5).unwrap().has(&endpoint)).collect()
        };
        assert_eq!(of(Host::Name("mail001.example.org".into())), [shard_of("mail001.example.org:993", 5)]);
        assert_eq!(of(Host::Address("2001:db8::1".parse().unwrap())), [shard_of("[2001:db8::1]:993", 5)]);
        assert_eq!((Shard::new(5, 5), Shard::new(0, 0), Shard::new(0, 257)), (None, None, None));
    }

    #[test]
    fn the_ordinal_is_the_number_at_the_end_of_the_host_name() {
        for (name, ordinal) in [
            ("imaptrace-3", Some(3)),
            ("imaptrace-12.imaptrace.mail.svc.cluster.local", Some(12)),
            ("imaptrace-0", Some(0)),
            ("imaptrace", None),
            ("imaptrace-", None),
            ("-3", None),
            ("imaptrace-a3", None),
            ("imaptrace-99999999999", None),
            ("probe.example-3.org", None),
            ("", None),
        ] {
            assert_eq!(ordinal_of(name), ordinal, "{name}");
        }
    }
}
