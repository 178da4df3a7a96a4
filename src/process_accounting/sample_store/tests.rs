use super::*;

const KEEP: Duration = Duration::from_secs(30);

fn at(millis: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000) + Duration::from_millis(millis)
}

fn sample(millis: u64, cpu: u64) -> UsageSample {
    UsageSample { at: at(millis), cpu: Duration::from_millis(cpu), run_queue: Duration::ZERO, block_wait: None }
}

fn identity(id: u64) -> ProcessIdentity {
    ProcessIdentity { id, started: at(0) }
}

fn end(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn login(millis: u64, session: Option<&str>, client: &str, has_ends: bool) -> SessionLogin {
    let client = end(client);
    SessionLogin {
        at: at(millis),
        session: session.map(str::to_owned),
        client: Some(client.ip()),
        server: Some(end("192.0.2.1:993").ip()),
        ends: has_ends.then(|| (end("192.0.2.1:993"), client)),
    }
}

fn query(names: &[&str], client: &str, begin: u64, until: u64) -> SessionQuery {
    SessionQuery {
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        ends: Some((end("192.0.2.1:993"), end(client))),
        begin: at(begin),
        end: at(until),
    }
}

#[test]
fn a_login_at_another_address_of_this_host_is_of_no_run() {
    let mut store = SampleStore::new(Duration::from_secs(60));
    let other =
        SessionLogin { server: Some("127.0.0.1".parse().unwrap()), ..login(100, None, "192.0.2.7:5000", false) };
    store.begin(other, ProcessIdentity { id: 1, started: at(0) });
    assert!(store.find(&query(&[], "192.0.2.7:5000", 0, 1_000)).is_none());
    store.begin(login(200, None, "192.0.2.7:5000", false), ProcessIdentity { id: 2, started: at(0) });
    assert_eq!(store.find(&query(&[], "192.0.2.7:5000", 0, 1_000)).unwrap().identity.id, 2);
}

/// The ids of the imap processes that are found.
fn found(store: &SampleStore, query: &SessionQuery) -> Vec<u64> {
    let usage = store.of_run(query);
    usage.iter().filter(|usage| usage.process == ServerProcessName::Imap).map(|usage| usage.id).collect()
}

#[test]
fn a_session_is_found_by_name_by_ends_and_by_its_address_if_it_is_alone() {
    let mut store = SampleStore::new(KEEP);
    for (id, login) in [
        (1, login(100, Some("one"), "192.0.2.7:50001", true)),
        (2, login(200, Some("two"), "192.0.2.7:50002", true)),
        (3, login(300, Some("three"), "192.0.2.8:1", false)),
        (4, login(1_000, Some("four"), "192.0.2.9:1", false)),
        (5, login(1_100, None, "192.0.2.9:2", false)),
    ] {
        let number = store.begin(login, identity(id));
        store.add(number, sample(id * 100, 1));
        store.add(number, sample(id * 100 + 2_000, 2));
    }
    assert_eq!(found(&store, &query(&["two", "x"], "192.0.2.7:50001", 0, 5_000)), [2]);
    assert_eq!(found(&store, &query(&["x"], "192.0.2.7:50001", 0, 5_000)), [] as [u64; 0], "a name is known");
    assert_eq!(found(&store, &query(&[], "192.0.2.7:50001", 0, 5_000)), [1]);
    assert_eq!(found(&store, &query(&[], "192.0.2.7:50003", 0, 5_000)), [] as [u64; 0], "other ports");
    assert_eq!(found(&store, &query(&[], "192.0.2.7:50001", 150, 5_000)), [] as [u64; 0], "an earlier login");
    assert_eq!(found(&store, &query(&[], "192.0.2.8:50009", 0, 5_000)), [3], "no ports were logged");
    assert_eq!(found(&store, &query(&[], "192.0.2.9:50009", 0, 5_000)), [] as [u64; 0], "one of two");
    assert_eq!(found(&store, &query(&[], "192.0.2.9:50009", 1_050, 5_000)), [5]);
    let nothing = SessionQuery { ends: None, ..query(&[], "192.0.2.8:1", 0, 5_000) };
    assert_eq!(found(&store, &nothing), [] as [u64; 0]);
}

#[test]
fn processes_of_logins_are_there_for_every_run_the_busiest_first() {
    let mut store = SampleStore::new(KEEP);
    for millis in (0..2_000).step_by(20) {
        store.add_pre_login(ServerProcessName::Auth, identity(1), sample(millis, 1));
        store.add_pre_login(ServerProcessName::ImapLogin, identity(2), sample(millis, millis / 20));
    }
    assert_eq!(store.of_run(&query(&[], "192.0.2.7:1", 500, 600)), [], "of another host");
    let usage = store.of_run(&query(&[], "192.0.2.1:1", 500, 600));
    let shown: Vec<_> = usage.iter().map(|usage| (usage.process, usage.samples.len(), usage.used())).collect();
    let millis = Duration::from_millis;
    assert_eq!(shown[0], (ServerProcessName::ImapLogin, 6, millis(5)));
    assert_eq!(shown[1], (ServerProcessName::Auth, 2, Duration::ZERO));
    assert_eq!(store.of_run(&query(&[], "192.0.2.1:1", 9_000, 9_100)), []);
}

#[test]
fn an_ended_session_is_handed_over_once() {
    let mut store = SampleStore::new(KEEP);
    store.add_pre_login(ServerProcessName::Auth, identity(9), sample(0, 0));
    store.add_pre_login(ServerProcessName::Auth, identity(9), sample(90, 3));
    let one = store.begin(login(100, Some("one"), "192.0.2.7:50001", true), identity(1));
    let two = store.begin(login(100, Some("two"), "192.0.2.7:50001", true), identity(2));
    for number in [one, two] {
        store.add(number, sample(110, 1));
        store.add(number, sample(400, 5));
    }
    assert_eq!(store.ended(at(9_000), Duration::from_secs(1)), None, "it goes on");
    store.end(one);
    assert_eq!(store.ended(at(1_000), Duration::from_secs(1)), None, "its last event may come");
    let ended = store.ended(at(9_000), Duration::from_secs(1)).unwrap();
    assert_eq!(ended.session.as_deref(), Some("one"));
    let shown: Vec<_> = ended.processes.iter().map(|usage| (usage.process, usage.samples.len())).collect();
    assert_eq!(shown, [(ServerProcessName::Auth, 2), (ServerProcessName::Imap, 2)]);
    assert_eq!(store.ended(at(9_000), Duration::ZERO), None);
    assert_eq!(store.named("one"), None);
    assert_eq!(store.named("two").unwrap().processes.len(), 2);
    assert_eq!(store.named("two"), None);
}

#[test]
fn what_is_kept_is_bounded_by_time_and_by_number() {
    let mut store = SampleStore::new(KEEP);
    let number = store.begin(login(0, Some("one"), "192.0.2.7:1", true), identity(1));
    for millis in (0..60_000).step_by(10) {
        store.add(number, sample(millis, millis));
    }
    store.expire(at(60_000));
    assert!((3_000..3_010).contains(&store.samples), "{}", store.samples);
    store.expire(at(1_000_000));
    assert_eq!(store.sessions.len(), 1, "it goes on");
    store.end(number);
    store.expire(at(1_000_000));
    assert_eq!((store.sessions.len(), store.samples), (0, 0));
    for id in 0..40 {
        for millis in 0..5_000 {
            store.add_pre_login(ServerProcessName::ImapLogin, identity(id), sample(millis, millis));
        }
    }
    assert_eq!(store.samples, SAMPLES);
    assert_eq!(store.series().map(|series| series.len()).sum::<usize>(), SAMPLES);
    assert!(store.series().map(|series| series.len()).max().unwrap() < 5_000, "no series alone is cut");
    for n in 0..SESSIONS as u64 + 10 {
        let number = store.begin(login(n, None, "192.0.2.7:1", false), identity(n));
        store.add(number, sample(n, 1));
    }
    assert_eq!(store.sessions.len(), SESSIONS);
    assert!(size_of::<UsageSample>() <= 64);
}
