//! resolv.conf(5): which name servers are asked, in which order, how long and how often, and what is added to a name.
//!
//! The lines are read by `resolv-conf`; here are the C library's limits and defaults around them, so that a file means
//! what it means to other programs. Reads no file and sends no query. Called by `files`, which brings the text.

use std::{
    ffi::CString,
    fmt, io,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6},
    time::Duration,
};

use resolv_conf::{Config, ScopedIp};

/// The C library's limits (resolv.conf(5)): servers, dots, seconds, attempts.
const MOST_SERVERS: usize = 3;
const MOST_NDOTS: u32 = 15;
const MOST_TIMEOUT: u32 = 30;
const MOST_ATTEMPTS: u32 = 5;
const PORT: u16 = 53;

/// How names are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "options of resolv.conf that are there or not")]
pub(super) struct ResolvConf {
    /// In the order in which they are asked; at least one.
    pub(super) servers: Vec<NameServer>,
    /// Domains that are added to a name.
    pub(super) search: Vec<String>,
    /// A name with as many dots is asked for as it stands first.
    pub(super) ndots: usize,
    /// How long a server is waited for, unless the deadline leaves less.
    pub(super) timeout: Duration,
    /// How often all servers are asked.
    pub(super) attempts: u32,
    /// Each look-up begins with the next server.
    pub(super) rotate: bool,
    /// Questions bear EDNS (RFC 6891).
    pub(super) edns: bool,
    /// Questions go over TCP at once.
    pub(super) tcp: bool,
    /// A and AAAA are asked for one after the other.
    pub(super) sequential: bool,
    /// A name without a dot is not asked for as it stands when there are search domains.
    pub(super) no_tld: bool,
    /// AAAA is never asked for.
    pub(super) no_aaaa: bool,
}

/// Where a name server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NameServer {
    ip: IpAddr,
    /// The interface that a link-local address belongs to, by name or number (RFC 4007 §11).
    zone: Option<String>,
    port: u16,
}

/// Variables that take precedence over the file (resolv.conf(5)).
#[derive(Debug, Clone, Default)]
pub(super) struct Overrides {
    /// `LOCALDOMAIN`: search domains.
    pub(super) search: Option<String>,
    /// `RES_OPTIONS`: options.
    pub(super) options: Option<String>,
}

impl Overrides {
    pub(super) fn from_environment() -> Self {
        Self { search: std::env::var("LOCALDOMAIN").ok(), options: std::env::var("RES_OPTIONS").ok() }
    }
}

impl ResolvConf {
    /// What a file with this text means on a host of this name. What cannot be read in it is passed over, as the C
    /// library does; without a server it is the local host.
    pub(super) fn parse(text: &[u8], overrides: &Overrides, hostname: &str) -> Self {
        let text = String::from_utf8_lossy(text);
        // A keyword stands at the beginning of its line, and one without a value is none.
        let meant = |line: &&str| !line.starts_with([' ', '\t']) && line.split_ascii_whitespace().nth(1).is_some();
        let mut lines: Vec<String> = text.lines().filter(meant).map(str::to_owned).collect();
        lines.extend(overrides.search.as_ref().map(|domains| format!("search {}", one_line(domains))));
        lines.extend(overrides.options.as_ref().map(|options| format!("options {}", one_line(options))));
        let (config, _passed_over) = Config::parse_with_errors(lines.join("\n").as_bytes());
        let mut servers: Vec<NameServer> = lines.iter().filter_map(|line| NameServer::of_line(line)).collect();
        servers.truncate(MOST_SERVERS);
        if servers.is_empty() {
            servers.push(NameServer { ip: Ipv4Addr::LOCALHOST.into(), zone: None, port: PORT });
        }
        let mut search: Vec<String> = config.get_last_search_or_domain().cloned().collect();
        let own = hostname.split_once('.').map(|(_, domain)| domain).filter(|domain| !domain.is_empty());
        if search.is_empty()
            && let Some(own) = own
        {
            search.push(own.to_owned());
        }
        Self {
            servers,
            search,
            ndots: config.ndots.min(MOST_NDOTS) as usize,
            timeout: Duration::from_secs(config.timeout.clamp(1, MOST_TIMEOUT).into()),
            attempts: config.attempts.clamp(1, MOST_ATTEMPTS),
            rotate: config.rotate,
            edns: config.edns0,
            tcp: config.use_vc,
            sequential: config.single_request,
            no_tld: config.no_tld_query,
            no_aaaa: config.no_aaaa,
        }
    }

    /// These servers, with resolv.conf's defaults and no search domain.
    pub(super) fn of_servers(servers: &[SocketAddr]) -> Self {
        let mut conf = Self::parse(b"", &Overrides::default(), "");
        conf.servers = servers.iter().copied().map(NameServer::from).collect();
        conf
    }
}

/// The value of a variable, which may hold a line break, as part of a line.
fn one_line(text: &str) -> String {
    text.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
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
                // An interface's name may hold more than letters and digits (`br-lan`, `eth0.100`).
                Some((ip, zone)) => (IpAddr::V6(ip.parse().ok()?), Some(zone.to_owned())),
                None => (loose_v4(word)?.into(), None),
            },
        };
        Some(Self { ip, zone, port: PORT })
    }

    /// Its address. An interface is looked for at each call, since it may have come or gone.
    pub(super) fn address(&self) -> io::Result<SocketAddr> {
        let (IpAddr::V6(ip), Some(zone)) = (self.ip, &self.zone) else { return Ok((self.ip, self.port).into()) };
        let index = match zone.parse() {
            Ok(index) => index,
            Err(_) => interface(zone)?,
        };
        Ok(SocketAddrV6::new(ip, self.port, 0, index).into())
    }
}

/// An IPv4 address in the other forms that the C library reads here (`inet_aton`): one to four numbers, decimal, octal
/// behind `0` or hexadecimal behind `0x`, of which the last fills the bytes that are left.
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

/// The number of an interface.
#[expect(unsafe_code, reason = "a call that the standard library does not have")]
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
        ResolvConf::parse(text.as_bytes(), &Overrides::default(), "host")
    }

    fn servers(text: &str) -> Vec<String> {
        parse(text).servers.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_empty_file_means_the_local_host_and_the_defaults_of_the_manual_page() {
        for text in ["", "# nothing\n", "nameserver\n", "nameserver mail\n", "  nameserver 192.0.2.1\n", "\u{fffd}"] {
            let conf = parse(text);
            assert_eq!(servers(text), ["127.0.0.1"], "{text:?}");
            assert_eq!((conf.ndots, conf.timeout, conf.attempts), (1, Duration::from_secs(5), 2));
            assert!(conf.search.is_empty() && !conf.rotate && !conf.edns && !conf.tcp && !conf.sequential);
        }
    }

    #[test]
    fn what_cannot_be_read_costs_nothing_but_itself() {
        let text = "nameserver 192.0.2.1 and more\nnonsense\noptions ndots:x edns0 what:ever\nnameserver nobody\n\
                    nameserver 2001:db8::1\nsearch\nsearch a.test b.test\n";
        assert_eq!(servers(text), ["192.0.2.1", "2001:db8::1"]);
        let conf = parse(text);
        assert_eq!((conf.ndots, conf.edns, conf.search.join(" ").as_str()), (1, true, "a.test b.test"));
    }

    #[test]
    fn the_c_librarys_limits_hold() {
        let text = "nameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\nnameserver 192.0.2.4\n\
                    options ndots:99 timeout:99 attempts:99 rotate use-vc single-request no-tld-query no-aaaa\n";
        let conf = parse(text);
        assert_eq!(servers(text), ["192.0.2.1", "192.0.2.2", "192.0.2.3"]);
        assert_eq!((conf.ndots, conf.timeout, conf.attempts), (15, Duration::from_secs(30), 5));
        assert!(conf.rotate && conf.tcp && conf.sequential && conf.no_tld && conf.no_aaaa);
        let conf = parse("options timeout:0 attempts:0 ndots:0\n");
        assert_eq!((conf.ndots, conf.timeout, conf.attempts), (0, Duration::from_secs(1), 1));
    }

    #[test]
    fn the_last_of_domain_and_search_counts_then_the_hosts_own_domain_and_variables_before_all() {
        assert_eq!(parse("search a.test b.test\ndomain c.test\n").search, ["c.test"]);
        assert_eq!(parse("domain c.test\nsearch a.test b.test\n").search, ["a.test", "b.test"]);
        let on = |hostname, overrides: &Overrides| ResolvConf::parse(b"options ndots:2\n", overrides, hostname);
        assert_eq!(on("host.example.test", &Overrides::default()).search, ["example.test"]);
        assert!(on("host", &Overrides::default()).search.is_empty());
        let overrides = Overrides { search: Some("x.test\ny.test".into()), options: Some("ndots:4 rotate".into()) };
        let conf = on("host.example.test", &overrides);
        assert_eq!((conf.search.join(" ").as_str(), conf.ndots, conf.rotate), ("x.test y.test", 4, true));
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
