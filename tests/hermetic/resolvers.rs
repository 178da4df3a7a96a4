//! The built-in resolver beside the C library's, on hosts of their own: what one makes of a set-up the other makes too,
//! but for what the documentation says.

use std::{
    net::{IpAddr, SocketAddr, SocketAddrV6},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use imaptrace::{
    clock,
    net::{Family, ResolveCause, Resolver},
    plan::{Choice as _, Dns, NameResolver, Security},
};
use imaptrace_record::{ErrorType, Run, RunOutcome};

use crate::{
    names::GOOD,
    support::{
        names::{FORMERR, NO_ERROR, NOTIMP, NXDOMAIN, NameServer, Question, REFUSED, SERVFAIL, truncated},
        net::hosts::Host,
        program::Program,
        run::{run, target},
        script::Script,
    },
};

/// What a name server does, the one at 127.0.0.1, 127.0.0.2 or 127.0.0.3.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Server {
    /// Answers for the zone: each name has 192.0.2.N, where N is the server's number.
    Good,
    /// Answers for it, and has this code for EDNS.
    NoEdns(u8),
    /// Answers for it, and no answer fits into a datagram.
    Tcp,
    /// Has this code for all.
    Says(u8),
    /// Has this code for AAAA, and answers for the A records.
    SaysV6(u8),
    /// Has this code for the names of `bad.test`, and answers for the others.
    SaysBelow(u8),
    /// Is there and does not answer.
    Silent,
    /// Is not there: the port is closed.
    Closed,
    /// Sends the beginning of a header.
    Garbage,
    /// Does no recursion and refers to another server (RFC 1034 §4.3.1).
    Refers,
}

use Server::{Closed, Garbage, Good, NoEdns, Refers, Says, SaysBelow, SaysV6, Silent, Tcp};

/// What comes of a look-up.
#[derive(Debug, Clone, PartialEq)]
enum Found {
    Addresses(Vec<String>),
    NxDomain,
    NoData,
    Failed,
    Timeout,
    Other(String),
}

use Found::{Failed, NoData, NxDomain, Timeout};

/// The address that the server of this number has for all names.
fn of(number: u8) -> Found {
    Found::Addresses(vec![format!("192.0.2.{number}")])
}

const ZONE: &[&str] = &["mail.example.test", "mail_server.example.test", "mail_server", "a.b.example.test", "mail.top"];

fn act(server: Server, number: u8, question: &Question) -> Vec<Vec<u8>> {
    let known = || {
        let address: IpAddr = [192, 0, 2, number].into();
        match question.name.as_str() {
            name if ZONE.contains(&name) => question.answer(NO_ERROR, &[address]),
            "empty.example.test" => question.answer(NO_ERROR, &[]),
            _ => question.answer(NXDOMAIN, &[]),
        }
    };
    let answer = match server {
        NoEdns(code) if question.edns => question.answer(code, &[]),
        Tcp if !question.tcp => truncated(question),
        Says(code) => question.answer(code, &[]),
        SaysV6(code) if !question.is_v4() => question.answer(code, &[]),
        SaysBelow(code) if question.name.ends_with(".bad.test") => question.answer(code, &[]),
        Good | NoEdns(_) | Tcp | SaysV6(_) | SaysBelow(_) => known(),
        Garbage => question.answer(NO_ERROR, &[])[..7].to_vec(),
        Refers => {
            let mut answer = question.answer(NO_ERROR, &[]);
            answer[3] &= 0x7f;
            answer
        }
        Silent | Closed => return Vec::new(),
    };
    vec![answer]
}

async fn start(servers: &[Server]) -> Vec<NameServer> {
    let mut started = Vec::new();
    for (server, number) in servers.iter().copied().zip(1..) {
        if server != Closed {
            let address: SocketAddr = ([127, 0, 0, number], 53).into();
            started.push(NameServer::start_at(address, move |question| act(server, number, question)).await);
        }
    }
    started
}

/// How many questions each server got.
fn asked(servers: &[NameServer]) -> Vec<usize> {
    servers.iter().map(|server| server.asked().len()).collect()
}

/// A run by a program of its own: its C library has no state from other hosts.
async fn run_by(name: &str, resolver: NameResolver, more: &[&str], limit: &str) -> Run {
    let url = format!("imap://demo@{name}");
    let arguments = ["probe", &url, "--security", "none", "--timeout", "90s", "--output", "json"];
    let output = Program::new(arguments.iter().chain(more))
        .env("IMAPTRACE_PASSWORD", "demo-password")
        .env("IMAPTRACE__DNS__RESOLVER", resolver.word())
        .env("IMAPTRACE__DEFAULTS__DEADLINES__RESOLVE", limit)
        .run()
        .await;
    serde_json::from_str(output.stdout.trim()).unwrap_or_else(|error| panic!("{name}: {error}: {output:?}"))
}

async fn probe(name: &str, resolver: NameResolver, limit: &str) -> Run {
    run_by(name, resolver, &[], limit).await
}

async fn look_up(resolver: NameResolver, name: &str, family: Family) -> Found {
    let address = match family {
        Family::Any => "any",
        Family::V4 => "v4",
        Family::V6 => "v6",
    };
    let run = run_by(name, resolver, &["--address", address], "60s").await;
    let resolve = &run.steps[0];
    let mut answers: Vec<String> = resolve.dns.iter().flat_map(|dns| &dns.answers).map(ToString::to_string).collect();
    answers.sort();
    match resolve.error_type {
        None => Found::Addresses(answers),
        Some(ErrorType::DnsNxdomain) => NxDomain,
        Some(ErrorType::DnsNodata) => NoData,
        Some(ErrorType::DnsServfail) => Failed,
        Some(ErrorType::TimeoutResolve) => Timeout,
        Some(other) => Found::Other(format!("{other}: {:?}", resolve.text)),
    }
}

/// A set-up, a name, and what comes of it.
struct Case {
    what: &'static str,
    resolv_conf: Option<String>,
    hosts: &'static str,
    servers: Vec<Server>,
    name: &'static str,
    family: Family,
    builtin: Found,
    /// Where the C library comes to something else.
    system: Option<Found>,
}

/// Servers in the order of their numbers, with short waits.
fn case(what: &'static str, servers: &[Server], name: &'static str, builtin: Found) -> Case {
    let lines: Vec<String> = (1..=servers.len()).map(|number| format!("nameserver 127.0.0.{number}\n")).collect();
    let resolv_conf = Some(format!("{}options timeout:1 attempts:1\n", lines.concat()));
    Case { what, resolv_conf, hosts: "", servers: servers.to_vec(), name, family: Family::Any, builtin, system: None }
}

impl Case {
    fn options(mut self, line: &str) -> Self {
        self.resolv_conf.as_mut().unwrap().push_str(line);
        self
    }

    fn hosts(mut self, hosts: &'static str) -> Self {
        self.hosts = hosts;
        self
    }

    fn of(mut self, family: Family) -> Self {
        self.family = family;
        self
    }

    fn text(mut self, resolv_conf: Option<&str>) -> Self {
        self.resolv_conf = resolv_conf.map(str::to_owned);
        self
    }

    fn but_system(mut self, found: Found) -> Self {
        self.system = Some(found);
        self
    }

    /// What is not as it should be.
    fn run(&self) -> Vec<String> {
        let host = Host::new();
        if let Some(text) = &self.resolv_conf {
            host.write("resolv.conf", text);
        }
        host.write("hosts", self.hosts);
        let (builtin, system) = host.wait_for(async || {
            let _servers = start(&self.servers).await;
            let builtin = look_up(NameResolver::Builtin, self.name, self.family).await;
            (builtin, look_up(NameResolver::System, self.name, self.family).await)
        });
        // The C library has one word for servers that fail and for those that are silent.
        let same = if self.builtin == Timeout { Failed } else { self.builtin.clone() };
        let expected = self.system.clone().unwrap_or(same);
        let mut wrong = Vec::new();
        for (who, found, expected) in [("builtin", builtin, &self.builtin), ("system", system, &expected)] {
            if found != *expected {
                wrong.push(format!("{}: {who} came to {found:?}, expected {expected:?}", self.what));
            }
        }
        wrong
    }
}

fn cases() -> Vec<Case> {
    const MAIL: &str = "mail.example.test";
    let mut cases = vec![
        case("good first", &[Good, Good], MAIL, of(1)),
        case("nobody at the first", &[Closed, Good], MAIL, of(2)),
        case("silence from the first", &[Silent, Good], MAIL, of(2)),
        case("silence from two of three", &[Silent, Silent, Good], MAIL, of(3)),
        case("silence from all", &[Silent, Silent], MAIL, Timeout),
        case("nobody at all", &[Closed, Closed], MAIL, Failed),
        case("NXDOMAIN from the first", &[Says(NXDOMAIN), Good], MAIL, NxDomain),
        case("NXDOMAIN from the second", &[Good, Says(NXDOMAIN)], MAIL, of(1)),
        case("no data from the first", &[Says(NO_ERROR), Good], MAIL, NoData),
        case("no data for the name", &[Good], "empty.example.test", NoData),
        case("no such name", &[Good], "other.example.test", NxDomain),
        case("a referral from the first", &[Refers, Good], MAIL, of(2)),
        case("a truncated answer", &[Tcp], MAIL, of(1)),
        case("over TCP", &[Tcp], MAIL, of(1)).options("options use-vc\n"),
        case("one after the other", &[Good], MAIL, of(1)).options("options single-request\n"),
        case("IPv4 alone", &[Good], MAIL, of(1)).of(Family::V4),
        case("IPv6 alone", &[Good], MAIL, NoData).of(Family::V6),
        case("no-aaaa", &[SaysV6(SERVFAIL)], MAIL, of(1)).options("options no-aaaa\n"),
        case("FORMERR to EDNS", &[NoEdns(FORMERR)], MAIL, of(1)).options("options edns0\n").but_system(NxDomain),
        case("NOTIMP to EDNS", &[NoEdns(NOTIMP), Good], MAIL, of(1)).options("options edns0\n").but_system(of(2)),
        case("a malformed answer", &[Garbage, Good], MAIL, of(2)),
        case("a malformed answer alone", &[Garbage], MAIL, Failed),
        case("FORMERR without EDNS from the first", &[Says(FORMERR), Good], MAIL, of(2)).but_system(NxDomain),
    ];
    for code in [SERVFAIL, REFUSED, NOTIMP] {
        cases.push(case("a failure from the first", &[Says(code), Good], MAIL, of(2)));
        cases.push(case("a failure from the second", &[Good, Says(code)], MAIL, of(1)));
        cases.push(case("a failure from two of three", &[Says(code), Says(SERVFAIL), Good], MAIL, of(3)));
        cases.push(case("a failure from all", &[Says(code), Says(code)], MAIL, Failed));
        cases.push(case("a failure and silence", &[Says(code), Silent], MAIL, Failed));
        cases.push(case("a failure for one family", &[SaysV6(code), Good], MAIL, of(1)));
    }
    cases.push(case("NXDOMAIN for one family", &[SaysV6(NXDOMAIN)], MAIL, of(1)));
    let search = "search example.test top\n";
    cases.extend([
        case("a short name in a search domain", &[Good], "mail", of(1)).options(search),
        case("a short name in the last search domain", &[Good], "mail", of(1))
            .options("search no.test other.test top\n"),
        case("a short name without a search domain", &[Good], "mail", NxDomain),
        case("a short name in no search domain", &[Good], "post", NxDomain).options(search),
        case("a short name, no data in one search domain", &[Good], "empty", NoData).options(search),
        case("underscores in a short name", &[Good], "mail_server", of(1)).options(search),
        case("underscores", &[Good], "mail_server.example.test", of(1)),
        case("underscores in a name without a dot", &[Good], "mail_server", of(1)),
        case("a name as it stands, then in a search domain", &[Good], "a.b", of(1)).options(search),
        case("a name in a search domain first", &[Good], "a.b", of(1))
            .options("search example.test\noptions ndots:2\n"),
        case("a name as it stands after the search domains", &[Good], MAIL, of(1))
            .options("search no.test\noptions ndots:5\n"),
        case("ndots:0", &[Good], "mail_server", of(1)).options("options ndots:0\nsearch no.test\n"),
        case("a dot at the end", &[Good], "mail.example.test.", of(1)).options("search no.test\n"),
        case("a dot at the end of a short name", &[Good], "mail.", NxDomain).options(search),
        case("the domain instead of a search list", &[Good], "mail", of(1)).options("domain example.test\n"),
        case("the root as a search domain", &[Good], "mail_server", of(1)).options("search . example.test\n"),
        case("no-tld-query", &[Good], "mail_server", NxDomain).options("search no.test\noptions no-tld-query\n"),
        case("SERVFAIL in the search list", &[Says(SERVFAIL)], "mail", Failed).options(search),
        case("SERVFAIL in the first search domain alone", &[SaysBelow(SERVFAIL)], "mail", of(1))
            .options("search bad.test example.test\n"),
        case("a search domain that is too long", &[Good], "mail_server", of(1))
            .options(&format!("search {}example.test\n", "long.".repeat(47))),
        case("a name in the hosts file", &[Says(SERVFAIL)], MAIL, of(7)).hosts("192.0.2.7 post Mail.Example.Test\n"),
        case("underscores in the hosts file", &[Says(SERVFAIL)], "mail_server", of(7)).hosts("192.0.2.7 mail_server\n"),
        case("another family in the hosts file", &[Good], MAIL, of(1))
            .hosts("2001:db8::7 mail.example.test\n")
            .of(Family::V4),
        case(
            "several addresses in the hosts file",
            &[Good],
            MAIL,
            Found::Addresses(vec!["192.0.2.7".into(), "192.0.2.8".into(), "2001:db8::7".into()]),
        )
        .hosts("192.0.2.7 mail.example.test\n2001:db8::7 x mail.example.test # y\n192.0.2.8 mail.example.test\n"),
        case("no search domain for the hosts file", &[Good], "post", NxDomain)
            .hosts("192.0.2.7 post.example.test\n")
            .options(search),
        case("localhost in the hosts file", &[Closed], "localhost", Found::Addresses(vec!["127.0.0.1".into()]))
            .hosts("127.0.0.1 localhost\n"),
        case(
            "localhost in no hosts file",
            &[Closed],
            "localhost",
            Found::Addresses(vec!["127.0.0.1".into(), "::1".into()]),
        )
        .but_system(Failed),
        case("no resolv.conf", &[Good], MAIL, of(1)).text(None),
        case("an empty resolv.conf", &[Good], MAIL, of(1)).text(Some("")),
        case("a resolv.conf without a server", &[Good], "mail", of(1)).text(Some("search example.test\n")),
        case("lines that mean nothing", &[Good, Good], MAIL, of(2))
            .text(Some(" nameserver 127.0.0.1\nnameserver nobody\nfoo bar\nnameserver 127.0.0.2\noptions x ndots:x\n")),
        case("four servers", &[Silent, Silent, Silent, Good], MAIL, Timeout),
    ]);
    cases
}

#[test]
fn the_builtin_resolver_comes_to_what_the_c_librarys_comes_to() {
    let cases = Arc::new(cases());
    let next = Arc::new(AtomicUsize::new(0));
    // Some wait for servers that are silent; none of them keeps a processor busy.
    let workers: Vec<_> = (0..8)
        .map(|_| {
            let (cases, next) = (Arc::clone(&cases), Arc::clone(&next));
            std::thread::spawn(move || {
                let mut wrong = Vec::new();
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    wrong.extend(case.run());
                }
                wrong
            })
        })
        .collect();
    let wrong: Vec<String> = workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Whether the second question came before the first was answered, by a server that answers both.
fn are_asked_at_once(options: &str) -> bool {
    let host = Host::new();
    host.write("resolv.conf", &format!("nameserver 127.0.0.1\noptions timeout:20 attempts:1 {options}\n"));
    host.wait_for(async || {
        let socket = std::net::UdpSocket::bind("127.0.0.1:53").unwrap();
        let server = std::thread::spawn(move || {
            let mut question = [0; 512];
            let (length, peer) = socket.recv_from(&mut question).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
            let mut second = [0; 512];
            let early = socket.recv_from(&mut second);
            let refuse = |message: &mut [u8], peer| {
                (message[2], message[3]) = (message[2] | 0x80, NXDOMAIN);
                socket.send_to(message, peer).unwrap();
            };
            refuse(&mut question[..length], peer);
            let at_once = early.is_ok();
            let (length, peer) = early
                .or_else(|_| {
                    socket.set_read_timeout(Some(LONG)).unwrap();
                    socket.recv_from(&mut second)
                })
                .unwrap();
            refuse(&mut second[..length], peer);
            at_once
        });
        let found = builtin().lookup("mail.example.test", Family::Any, clock::now() + LONG).await;
        assert_eq!(found.map(|_| ()), Err(ResolveCause::NxDomain));
        server.join().unwrap()
    })
}

#[test]
fn both_families_are_asked_for_at_once_or_one_after_the_other() {
    assert!(are_asked_at_once(""));
    assert!(!are_asked_at_once("single-request"));
}

/// The same look-ups in this process, over which files change.
fn builtin() -> Resolver {
    Resolver::new(Dns::default())
}

async fn addresses(resolver: &Resolver, name: &str, limit: Duration) -> Result<Vec<String>, ResolveCause> {
    let found = resolver.lookup(name, Family::V4, clock::now() + limit).await?;
    Ok(found.iter().map(ToString::to_string).collect())
}

/// Looks up until it comes to this.
async fn comes_to(resolver: &Resolver, name: &str, expected: &str) {
    let changes = async {
        while addresses(resolver, name, LONG).await.map_or_else(|cause| cause.to_string(), |all| all.join(" "))
            != expected
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    // In use within 5 s; a machine under load may take longer.
    let outcome = tokio::time::timeout(LONG, changes).await;
    assert!(outcome.is_ok(), "{name} never came to {expected}: {:?}", addresses(resolver, name, LONG).await);
}

const LONG: Duration = Duration::from_secs(60);
const GONE: &str = "the name does not exist";

#[test]
fn changes_of_resolv_conf_and_the_hosts_file_are_in_use_without_a_restart() {
    let host = Host::new();
    host.write("resolv.conf", "nameserver 127.0.0.1\n");
    host.wait_for(async || {
        let _servers = start(&[Good, Good, Good]).await;
        let (name, resolver) = ("mail.example.test", builtin());
        comes_to(&resolver, name, "192.0.2.1").await;
        host.write("resolv.conf", "nameserver 127.0.0.2\n");
        comes_to(&resolver, name, "192.0.2.2").await;
        // In place, and as long as before.
        std::fs::write(host.etc("resolv.conf"), "nameserver 127.0.0.3\n").unwrap();
        comes_to(&resolver, name, "192.0.2.3").await;
        // Through a link, as systemd-resolved and others have it.
        std::fs::write(host.etc("stub"), "nameserver 127.0.0.2\n").unwrap();
        std::fs::remove_file(host.etc("resolv.conf")).unwrap();
        std::os::unix::fs::symlink("stub", host.etc("resolv.conf")).unwrap();
        comes_to(&resolver, name, "192.0.2.2").await;
        host.write("stub", "nameserver 127.0.0.3\n");
        comes_to(&resolver, name, "192.0.2.3").await;
        // One that is gone means what none means.
        std::fs::remove_file(host.etc("stub")).unwrap();
        comes_to(&resolver, name, "192.0.2.1").await;
        assert_eq!(addresses(&resolver, "post.example.test", LONG).await, Err(ResolveCause::NxDomain));
        host.write("hosts", "192.0.2.8 post.example.test\n");
        comes_to(&resolver, "post.example.test", "192.0.2.8").await;
        std::fs::remove_file(host.etc("hosts")).unwrap();
        comes_to(&resolver, "post.example.test", GONE).await;
    });
}

#[test]
fn while_a_file_cannot_be_read_what_it_held_before_stays_in_use() {
    let host = Host::new();
    host.write("resolv.conf", "nameserver 127.0.0.2\n");
    host.wait_for(async || {
        let _servers = start(&[Good, Good]).await;
        let resolver = builtin();
        comes_to(&resolver, "mail.example.test", "192.0.2.2").await;
        std::fs::remove_file(host.etc("resolv.conf")).unwrap();
        std::fs::create_dir(host.etc("resolv.conf")).unwrap();
        // When a later change of the other file is in use, the directory has been seen.
        host.write("hosts", "192.0.2.8 post.example.test\n");
        comes_to(&resolver, "post.example.test", "192.0.2.8").await;
        assert_eq!(addresses(&resolver, "mail.example.test", LONG).await.unwrap(), ["192.0.2.2"]);
        // One that is opened to be read waits for a writer.
        std::fs::remove_dir(host.etc("resolv.conf")).unwrap();
        nix::unistd::mkfifo(&host.etc("resolv.conf"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        host.write("hosts", "192.0.2.9 post.example.test\n");
        comes_to(&resolver, "post.example.test", "192.0.2.9").await;
        assert_eq!(addresses(&resolver, "mail.example.test", LONG).await.unwrap(), ["192.0.2.2"]);
    });
}

#[test]
fn what_this_machine_refuses_is_void_and_is_never_put_down_to_the_network() {
    // An interface that is not there, a file that cannot be read.
    let unreadable = |host: &Host, name: &str| {
        drop(std::fs::remove_file(host.etc(name)));
        std::fs::create_dir(host.etc(name)).unwrap();
    };
    for (what, broken, word) in [
        ("interface", None, "fe80::1%eth9"),
        ("resolv.conf", Some("resolv.conf"), "/etc/resolv.conf"),
        ("hosts", Some("hosts"), "/etc/hosts"),
    ] {
        let host = Host::new();
        host.write("resolv.conf", "nameserver fe80::1%eth9\n");
        if let Some(name) = broken {
            unreadable(&host, name);
        }
        let (run, literal) = host.wait_for(async || {
            let literal = Script::play(GOOD).await;
            let target = target(literal.address, Security::None);
            (probe("mail.example.test", NameResolver::Builtin, "5s").await, run(target).await)
        });
        assert_eq!((run.outcome, run.error_type), (RunOutcome::Void, Some(ErrorType::Internal)), "{what}: {run:?}");
        let text = run.steps[0].text.as_ref().unwrap().as_str();
        assert!(text.contains(word), "{what}: {text}");
        // An address is not looked up.
        assert_eq!(literal.outcome, RunOutcome::Passed, "{what}: {literal:?}");
    }
}

#[tokio::test]
async fn a_thread_that_cannot_be_started_is_not_the_name_servers_fault() {
    for resolver in [NameResolver::Builtin, NameResolver::System] {
        let copy = tempfile::tempdir().unwrap();
        std::fs::set_permissions(copy.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        // The user runs nothing else, and the program itself is one thread.
        let output = Program::new([
            "probe",
            "imap://mail.example.test",
            "--user",
            "demo",
            "--security",
            "none",
            "--output",
            "json",
        ])
        .env("IMAPTRACE_PASSWORD", "demo-password")
        .env("IMAPTRACE__DNS__RESOLVER", resolver.word())
        .copied_to(&copy.path().join("imaptrace"))
        .threads(1)
        .user(64_998)
        .run()
        .await;
        let run: Run = serde_json::from_str(output.stdout.trim()).unwrap_or_else(|error| panic!("{error}: {output:?}"));
        assert_eq!((run.outcome, run.error_type), (RunOutcome::Void, Some(ErrorType::Internal)), "{run:?}");
        assert!(run.steps[0].text.as_ref().unwrap().as_str().contains("cannot start"), "{run:?}");
    }
}

#[test]
fn a_name_server_on_a_link_is_asked_over_its_interface() {
    let host = Host::new();
    host.command("ip link add br-lan.1 type veth peer name peer");
    host.command("ip address add fe80::53/64 dev br-lan.1 nodad");
    host.command("ip link set br-lan.1 up");
    host.command("ip link set peer up");
    host.write("resolv.conf", "nameserver fe80::53%br-lan.1\n");
    host.wait_for(async || {
        let index = interface_number("br-lan.1");
        let address = SocketAddrV6::new("fe80::53".parse().unwrap(), 53, 0, index);
        let _server = NameServer::start_at(address.into(), |question| act(Good, 1, question)).await;
        for resolver in [NameResolver::Builtin, NameResolver::System] {
            assert_eq!(look_up(resolver, "mail.example.test", Family::Any).await, of(1), "{resolver:?}");
        }
        host.write("resolv.conf", &format!("nameserver fe80::53%{index}\n"));
        assert_eq!(look_up(NameResolver::Builtin, "mail.example.test", Family::Any).await, of(1));
        let given = Dns { servers: vec![address.into()], ..Dns::default() };
        assert_eq!(addresses(&Resolver::new(given), "mail.example.test", LONG).await.unwrap(), ["192.0.2.1"]);
    });
}

/// /sys shows another network.
fn interface_number(interface: &str) -> u32 {
    let output = std::process::Command::new("ip").args(["-o", "link", "show", interface]).output().unwrap();
    let line = String::from_utf8(output.stdout).unwrap();
    line.split(':').next().unwrap().parse().unwrap_or_else(|error| panic!("{error}: {line}"))
}

#[test]
fn past_the_deadline_of_its_step_a_look_up_is_timeout_resolve_by_either_resolver() {
    let host = Host::new();
    host.write("resolv.conf", "nameserver 127.0.0.1\noptions timeout:30\n");
    host.wait_for(async || {
        let _servers = start(&[Silent]).await;
        for resolver in [NameResolver::Builtin, NameResolver::System] {
            let run = probe("mail.example.test", resolver, "500ms").await;
            assert_eq!((run.outcome, run.error_type), (RunOutcome::Failed, Some(ErrorType::TimeoutResolve)), "{run:?}");
        }
    });
}

#[test]
fn each_of_three_servers_is_asked_within_the_deadline_whatever_resolv_conf_lets_one_take() {
    let host = Host::new();
    host.write("resolv.conf", "nameserver 127.0.0.1\nnameserver 127.0.0.2\nnameserver 127.0.0.3\noptions timeout:30\n");
    host.wait_for(async || {
        let servers = start(&[Silent, Silent, Good]).await;
        assert_eq!(addresses(&builtin(), "mail.example.test", Duration::from_secs(3)).await.unwrap(), ["192.0.2.3"]);
        // The search list asks for more names: a server that was silent is asked last.
        host.write("resolv.conf", "nameserver 127.0.0.1\nnameserver 127.0.0.2\nnameserver 127.0.0.3\nsearch no.test other.test example.test\n");
        assert_eq!(addresses(&builtin(), "mail", Duration::from_secs(3)).await.unwrap(), ["192.0.2.3"]);
        let asked = asked(&servers);
        assert_eq!((asked[0], asked[1], asked[2]), (2, 2, 4), "{asked:?}");
    });
}

#[test]
fn rotate_begins_each_look_up_with_the_next_server_and_attempts_is_how_often_all_are_asked() {
    let host = Host::new();
    host.write("resolv.conf", "nameserver 127.0.0.1\nnameserver 127.0.0.2\nnameserver 127.0.0.3\noptions rotate\n");
    host.wait_for(async || {
        let servers = start(&[Good, Good, Good]).await;
        let resolver = builtin();
        for _ in 0..6 {
            addresses(&resolver, "mail.example.test", LONG).await.unwrap();
        }
        assert_eq!(asked(&servers), [2, 2, 2]);
    });
    let host = Host::new();
    host.write("resolv.conf", "nameserver 127.0.0.1\nnameserver 127.0.0.2\nnameserver 127.0.0.3\noptions attempts:3\n");
    host.wait_for(async || {
        let servers = start(&[Says(REFUSED), Says(SERVFAIL), Says(NOTIMP)]).await;
        let failed = addresses(&builtin(), "mail.example.test", LONG).await.unwrap_err();
        assert_eq!(asked(&servers), [3, 3, 3]);
        let details = failed.to_string();
        for word in ["REFUSED, server 127.0.0.1", "SERVFAIL, server 127.0.0.2", "NOTIMP, server 127.0.0.3"] {
            assert!(details.contains(word), "{details}");
        }
    });
}

#[tokio::test]
async fn no_query_is_shared_and_an_answer_is_kept_only_when_that_is_asked_for() {
    for cache in [false, true] {
        let server = NameServer::start(|question| act(Good, 1, question)).await;
        let resolver = Resolver::new(Dns { cache, ..server.dns() });
        let look_up = |name| resolver.lookup(name, Family::Any, clock::now() + LONG);
        // Side by side, then one after the other.
        let (one, other) = tokio::join!(look_up("mail.example.test"), look_up("mail.example.test"));
        assert_eq!(one, other);
        let side_by_side = server.asked().len();
        // With a cache the other may begin when the one has its answer.
        assert!(side_by_side == 4 || (cache && side_by_side == 2), "{side_by_side} queries, cache = {cache}");
        for _ in 0..2 {
            assert_eq!(look_up("mail.example.test").await, one);
        }
        let later = server.asked().len() - side_by_side;
        assert_eq!(later, if cache { 0 } else { 4 }, "cache = {cache}");
    }
}
