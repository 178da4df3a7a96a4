//! resolv.conf(5): which name servers are asked, in which order, how long and how often, and which domains are added.
//!
//! The crate `resolv-conf` parses the lines; the C library's limits and defaults are here. Reads no file. Called by `files`.

use std::{
    ffi::CString,
    fmt, io,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6},
};

use resolv_conf::{Config, ScopedIp};

/// The C library's limits (resolv.conf(5)): servers, dots, seconds, attempts.
const MOST_SERVERS: usize = 3;
const MOST_NDOTS: u32 = 15;
const MOST_TIMEOUT: u32 = 30;
const MOST_ATTEMPTS: u32 = 5;
const PORT: u16 = 53;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ResolvConf {
    /// In the order in which they are asked; at least one.
    pub(super) servers: Vec<NameServer>,
    pub(super) search: Vec<String>,
    /// `options`, within the C library's limits.
    pub(super) options: Config,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NameServer {
    ip: IpAddr,
    /// The interface that a link-local address belongs to, by name or number (RFC 4007 §11).
    zone: Option<String>,
    port: u16,
}

/// The lines for `LOCALDOMAIN` and `RES_OPTIONS`, which take precedence over the file (resolv.conf(5)).
pub(super) fn overrides(local_domain: Option<String>, res_options: Option<String>) -> Vec<String> {
    // A variable may contain line breaks.
    let words = |text: String| text.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
    let search = local_domain.map(|domains| format!("search {}", words(domains)));
    search.into_iter().chain(res_options.map(|options| format!("options {}", words(options)))).collect()
}

impl ResolvConf {
    /// Parses a file, with these lines added, on a host of this name. Ignores malformed lines, as the C library does; without
    /// a server it is the local host.
    pub(super) fn parse(text: &[u8], overrides: &[String], hostname: &str) -> Self {
        let text = String::from_utf8_lossy(text);
        // A keyword is at the beginning of its line and has a value.
        let valid = |line: &&str| !line.starts_with([' ', '\t']) && line.split_ascii_whitespace().nth(1).is_some();
        let mut lines: Vec<String> = text.lines().filter(valid).map(str::to_owned).collect();
        lines.extend_from_slice(overrides);
        let (mut options, _ignored) = Config::parse_with_errors(lines.join("\n").as_bytes());
        let mut servers: Vec<NameServer> = lines.iter().filter_map(|line| NameServer::of_line(line)).collect();
        servers.truncate(MOST_SERVERS);
        if servers.is_empty() {
            servers.push(NameServer { ip: Ipv4Addr::LOCALHOST.into(), zone: None, port: PORT });
        }
        let mut search: Vec<String> = options.get_last_search_or_domain().cloned().collect();
        if search.is_empty() {
            let own = hostname.split_once('.').map(|(_, domain)| domain.to_owned());
            search.extend(own.filter(|domain| !domain.is_empty()));
        }
        options.ndots = options.ndots.min(MOST_NDOTS);
        options.timeout = options.timeout.clamp(1, MOST_TIMEOUT);
        options.attempts = options.attempts.clamp(1, MOST_ATTEMPTS);
        Self { servers, search, options }
    }

    /// These servers, with resolv.conf's defaults and no search domain.
    pub(super) fn of_servers(servers: &[SocketAddr]) -> Self {
        let mut conf = Self::parse(b"", &[], "");
        conf.servers = servers.iter().copied().map(NameServer::from).collect();
        conf
    }
}

impl NameServer {
    /// The server that a line of resolv.conf names.
    fn of_line(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let word = words.next().filter(|keyword| *keyword == "nameserver").and_then(|_| words.next())?;
        let (ip, zone) = match word.parse::<ScopedIp>() {
            Ok(ScopedIp::V4(ip)) => (ip.into(), None),
            Ok(ScopedIp::V6(ip, zone)) => (ip.into(), zone),
            Err(_) => match word.split_once('%').filter(|(_, zone)| !zone.is_empty()) {
                // An interface's name is not only letters and digits (`br-lan`, `eth0.100`).
                Some((ip, zone)) => (IpAddr::V6(ip.parse().ok()?), Some(zone.to_owned())),
                None => (loose_v4(word)?.into(), None),
            },
        };
        Some(Self { ip, zone, port: PORT })
    }

    /// Its address. The interface is looked up at each call, since it may be new or gone.
    pub(super) fn address(&self) -> io::Result<SocketAddr> {
        let (IpAddr::V6(ip), Some(zone)) = (self.ip, &self.zone) else { return Ok((self.ip, self.port).into()) };
        let index = match zone.parse() {
            Ok(index) => index,
            Err(_) => interface(zone)?,
        };
        Ok(SocketAddrV6::new(ip, self.port, 0, index).into())
    }
}

/// An IPv4 address in the other forms of `inet_aton`: one to four numbers, decimal, octal after `0` or hexadecimal after
/// `0x`; the last fills the remaining bytes.
fn loose_v4(text: &str) -> Option<Ipv4Addr> {
    let number = |part: &str| {
        let (digits, radix) = match part.strip_prefix("0x").or_else(|| part.strip_prefix("0X")) {
            Some(digits) => (digits, 16),
            None if part.len() > 1 && part.starts_with('0') => (part, 8),
            None => (part, 10),
        };
        u32::from_str_radix(digits, radix).ok().filter(|_| !digits.starts_with('+'))
    };
    let numbers = text.split('.').map(number).collect::<Option<Vec<u32>>>()?;
    let (last, bytes) = numbers.split_last().filter(|(_, bytes)| bytes.len() < 4)?;
    let mut address = 0;
    for (place, byte) in (0..).zip(bytes) {
        address |= u32::from(u8::try_from(*byte).ok()?) << (24 - 8 * place);
    }
    let left = u32::MAX >> (8 * bytes.len());
    (*last <= left).then(|| Ipv4Addr::from(address | *last))
}

#[expect(unsafe_code, reason = "not in the standard library")]
fn interface(name: &str) -> io::Result<u32> {
    let name = CString::new(name)?;
    // SAFETY: the string lives until the call is over.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}

impl From<SocketAddr> for NameServer {
    fn from(address: SocketAddr) -> Self {
        let zone = match address {
            SocketAddr::V6(address) if address.scope_id() != 0 => Some(address.scope_id().to_string()),
            _ => None,
        };
        Self { ip: address.ip(), zone, port: address.port() }
    }
}

impl fmt::Display for NameServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let zone = self.zone.as_deref().map(|zone| format!("%{zone}")).unwrap_or_default();
        match (self.ip, self.port) {
            (ip, PORT) => write!(f, "{ip}{zone}"),
            (IpAddr::V6(ip), port) => write!(f, "[{ip}{zone}]:{port}"),
            (ip, port) => write!(f, "{ip}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> ResolvConf {
        ResolvConf::parse(text.as_bytes(), &[], "host")
    }

    fn servers(text: &str) -> Vec<String> {
        parse(text).servers.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_empty_file_means_the_local_host_and_the_defaults_of_the_manual_page() {
        for text in ["", "# nothing\n", "nameserver\n", "nameserver mail\n", "  nameserver 192.0.2.1\n", "\u{fffd}"] {
            let conf = parse(text);
            assert_eq!(servers(text), ["127.0.0.1"], "{text:?}");
            assert_eq!((conf.options.ndots, conf.options.timeout, conf.options.attempts), (1, 5, 2));
            assert!(
                conf.search.is_empty()
                    && !conf.options.rotate
                    && !conf.options.edns0
                    && !conf.options.use_vc
                    && !conf.options.single_request
            );
        }
    }

    #[test]
    fn what_cannot_be_read_costs_nothing_but_itself() {
        let text = "nameserver 192.0.2.1 and more\nnonsense\noptions ndots:x edns0 what:ever\nnameserver nobody\n\
                    nameserver 2001:db8::1\nsearch\nsearch a.test b.test\n";
        assert_eq!(servers(text), ["192.0.2.1", "2001:db8::1"]);
        let conf = parse(text);
        assert_eq!(
            (conf.options.ndots, conf.options.edns0, conf.search.join(" ").as_str()),
            (1, true, "a.test b.test")
        );
    }

    #[test]
    fn the_c_librarys_limits_hold() {
        let text = "nameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\nnameserver 192.0.2.4\n\
                    options ndots:99 timeout:99 attempts:99 rotate use-vc single-request no-tld-query no-aaaa\n";
        let conf = parse(text);
        assert_eq!(servers(text), ["192.0.2.1", "192.0.2.2", "192.0.2.3"]);
        assert_eq!((conf.options.ndots, conf.options.timeout, conf.options.attempts), (15, 30, 5));
        assert!(
            conf.options.rotate
                && conf.options.use_vc
                && conf.options.single_request
                && conf.options.no_tld_query
                && conf.options.no_aaaa
        );
        let conf = parse("options timeout:0 attempts:0 ndots:0\n");
        assert_eq!((conf.options.ndots, conf.options.timeout, conf.options.attempts), (0, 1, 1));
    }

    #[test]
    fn the_last_of_domain_and_search_counts_then_the_hosts_own_domain_and_variables_before_all() {
        assert_eq!(parse("search a.test b.test\ndomain c.test\n").search, ["c.test"]);
        assert_eq!(parse("domain c.test\nsearch a.test b.test\n").search, ["a.test", "b.test"]);
        let on = |hostname, overrides: &[String]| ResolvConf::parse(b"options ndots:2\n", overrides, hostname);
        assert_eq!(on("host.example.test", &[]).search, ["example.test"]);
        assert!(on("host", &[]).search.is_empty());
        let overrides = overrides(Some("x.test\ny.test".into()), Some("ndots:4 rotate".into()));
        let conf = on("host.example.test", &overrides);
        assert_eq!(
            (conf.search.join(" ").as_str(), conf.options.ndots, conf.options.rotate),
            ("x.test y.test", 4, true)
        );
    }

    #[test]
    fn a_zone_is_an_interface_by_name_or_number() {
        assert_eq!(
            servers("nameserver fe80::1%lo\nnameserver fe80::2%br-lan\nnameserver fe80::3%7\n"),
            ["fe80::1%lo", "fe80::2%br-lan", "fe80::3%7"]
        );
        let conf = parse("nameserver fe80::3%7\nnameserver fe80::1%no-such.0\n");
        assert_eq!(conf.servers[0].address().unwrap(), SocketAddrV6::new("fe80::3".parse().unwrap(), 53, 0, 7).into());
        assert_eq!(conf.servers[1].address().unwrap_err().raw_os_error(), Some(libc::ENODEV));
    }

    #[test]
    fn an_ipv4_server_may_stand_in_each_form_of_inet_aton() {
        for (text, expected) in [
            ("127.1", "127.0.0.1"),
            ("10.1.515", "10.1.2.3"),
            ("0x7f.0X0.0.1", "127.0.0.1"),
            ("010.0.0.010", "8.0.0.8"),
            ("2130706433", "127.0.0.1"),
            ("192.0.2.01", "192.0.2.1"),
        ] {
            assert_eq!(
                servers(&format!("nameserver {text}\nnameserver 192.0.2.9\n")),
                [expected, "192.0.2.9"],
                "{text}"
            );
        }
        for none in
            ["", ".", "1.", "256.1", "1.2.65536", "1.2.3.256", "1.2.3.4.5", "+1.2.3.4", "09.1.1.1", "0x", "4294967296"]
        {
            assert_eq!(servers(&format!("nameserver {none}\nnameserver 192.0.2.9\n")), ["192.0.2.9"], "{none:?}");
        }
    }

    #[test]
    fn servers_of_the_configuration_keep_their_ports() {
        let given: Vec<SocketAddr> =
            ["192.0.2.1:5353", "[2001:db8::1]:53", "[2001:db8::1]:54"].map(|text| text.parse().unwrap()).into();
        let conf = ResolvConf::of_servers(&given);
        let shown: Vec<String> = conf.servers.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["192.0.2.1:5353", "2001:db8::1", "[2001:db8::1]:54"]);
        let addresses: Vec<SocketAddr> = conf.servers.iter().map(|server| server.address().unwrap()).collect();
        assert_eq!(addresses, given);
    }
}
