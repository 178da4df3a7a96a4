//! The process is stopped, or gets a tenth of a CPU: no server is blamed for it, and one that is silent all the same is.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::fs::OpenOptionsExt as _,
    process::{Child, Command, Stdio},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use imaptrace::clock;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

/// As a server has it in SELECT that this is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// It answers at once.
    Answers,
    /// It answers while the client is stopped.
    AnswersTheStopped,
    /// It closes the connection while the client is stopped.
    Closes,
    /// It says nothing any more, also after the client has been stopped.
    Silent,
}

/// For how long a client is stopped: over twice its deadline.
const STOP: Duration = Duration::from_millis(2_500);
/// The deadline of a run.
const TIMEOUT: &str = "1s";

/// A server in clear text, of which the client of this number is stopped in SELECT, if it is to be.
fn serve(turn: Turn, client: Arc<OnceLock<i32>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let client = client.clone();
            thread::spawn(move || drop(converse(stream, turn, &client)));
        }
    });
    address
}

fn converse(mut stream: TcpStream, turn: Turn, client: &OnceLock<i32>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.write_all(b"* OK [CAPABILITY IMAP4rev1] hi\r\n")?;
    let mut lines = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    while lines.read_line(&mut line)? > 0 {
        let mut words = line.split_whitespace();
        let (tag, command) = (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
        line.clear();
        let answer = match command.as_str() {
            "CAPABILITY" => "* CAPABILITY IMAP4rev1\r\n",
            "LIST" => "* LIST () \"/\" INBOX\r\n",
            "SELECT" => "* 30 EXISTS\r\n",
            "FETCH" => "* 30 FETCH (UID 3)\r\n",
            "LOGOUT" => "* BYE\r\n",
            _ => "",
        };
        let answer = format!("{answer}{tag} OK done\r\n");
        if command == "SELECT" && turn != Turn::Answers {
            let pid = Pid::from_raw(*client.wait());
            kill(pid, Signal::SIGSTOP)?;
            match turn {
                Turn::AnswersTheStopped => stream.write_all(answer.as_bytes())?,
                Turn::Closes => stream.shutdown(std::net::Shutdown::Both)?,
                Turn::Silent | Turn::Answers => {}
            }
            thread::sleep(STOP);
            kill(pid, Signal::SIGCONT)?;
        } else {
            stream.write_all(answer.as_bytes())?;
        }
    }
    Ok(())
}

/// What a single probe says of such a server, and its exit code.
fn probe(turn: Turn, more: &[&str]) -> (String, i32) {
    let client = Arc::new(OnceLock::new());
    let url = format!("imap://someone@{}", serve(turn, client.clone()));
    let child = Command::new(env!("CARGO_BIN_EXE_imaptrace"))
        .args(["probe", &url, "--security", "none", "--password-env", "P", "--timeout", TIMEOUT])
        .args(more)
        .env_clear()
        .env("P", "secret")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    client.set(child.id().try_into().unwrap()).unwrap();
    let output = child.wait_with_output().unwrap();
    (String::from_utf8(output.stdout).unwrap(), output.status.code().unwrap())
}

fn run(turn: Turn) -> Value {
    serde_json::from_str(&probe(turn, &["--output", "json"]).0).unwrap()
}

#[test]
fn a_probe_that_is_stopped_past_its_deadline_takes_the_answer_that_came_meanwhile_and_says_that_it_was_delayed() {
    let run = run(Turn::AnswersTheStopped);
    assert_eq!(run["outcome"], "passed", "{run}");
    assert!(run["first_loading_latency_s"].as_f64() > Some(2.0) && run["delayed_s"].as_f64() > Some(2.0), "{run}");
    let steps = run["steps"].as_array().unwrap();
    let delayed: Vec<_> = steps.iter().filter(|step| step["delayed_s"].as_f64() > Some(2.0)).collect();
    let [step] = delayed[..] else { panic!("{run}") };
    // SELECT's answer came at once; what could not begin is FETCH.
    assert_eq!(step["name"], "FETCH", "{run}");
}

#[test]
fn no_limit_holds_for_a_run_that_was_stopped() {
    let (text, code) = probe(Turn::AnswersTheStopped, &["--output", "nagios", "-w", "0.9", "-c", "1.5"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("no limit applies: this machine delayed the run by") && !text.contains(" fll="), "{text}");
}

#[test]
fn a_connection_that_ends_while_we_are_stopped_says_nothing_of_the_server_and_one_that_stays_silent_does() {
    let void = run(Turn::Closes);
    assert_eq!((&void["outcome"], &void["error_type"]), (&"void".into(), &"suspended".into()), "{void}");
    let (text, code) = probe(Turn::Closes, &["--output", "nagios"]);
    assert_eq!(code, 3, "{text}");
    let failed = run(Turn::Silent);
    assert_eq!((&failed["outcome"], &failed["error_type"]), (&"failed".into(), &"timeout_command".into()), "{failed}");
    // Why it took so much longer than the deadline.
    let step = failed["steps"].as_array().unwrap().iter().find(|step| step["name"] == failed["failed_step"]).unwrap();
    assert!(step["delayed_s"].as_f64() > Some(2.0) && failed["delayed_s"].as_f64() > Some(2.0), "{failed}");
}

// === the agent ===

/// A server that accepts and says nothing. Counts whom it accepted.
fn silent() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, reached) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let count = reached.clone();
    thread::spawn(move || {
        let mut held = Vec::new();
        for stream in listener.incoming() {
            count.fetch_add(1, Ordering::Relaxed);
            held.push(stream);
        }
    });
    (address, reached)
}

/// An agent that is killed when the test ends.
struct Agent {
    child: Child,
    http: SocketAddr,
    _home: tempfile::TempDir,
}

impl Agent {
    /// With so many accounts at the good server and one at the silent one, each of which is due every other second.
    fn start(accounts: usize, good: SocketAddr, silent: SocketAddr) -> Self {
        let home = tempfile::tempdir().unwrap();
        let password = home.path().join("password");
        let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&password);
        file.as_mut().unwrap().write_all(b"secret").unwrap();
        let http = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut config = format!("[http]\nlisten = \"{http}\"\n[limits]\nruns_in_flight_per_server = 100\n");
        config += "logins_per_second_per_server = 0\n";
        let targets = (0..=accounts).map(|number| {
            let (name, server) = if number == 0 { ("silent".to_owned(), silent) } else { (format!("t{number}"), good) };
            format!(
                "[[targets]]\nname = \"{name}\"\nurl = \"imap://someone@{server}\"\nsecurity = \"none\"\n\
                 interval = \"2s\"\ntimeout = \"{TIMEOUT}\"\npassword = {{ file = \"{}\" }}\n",
                password.display()
            )
        });
        config += &targets.collect::<Vec<_>>().concat();
        let file = home.path().join("imaptrace.toml");
        std::fs::write(&file, config).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_imaptrace"))
            .args(["agent", "--config"])
            .arg(&file)
            .env_clear()
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let agent = Self { child, http, _home: home };
        agent.until("it probes", |status| status["states"]["never"] == 0);
        agent
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.http).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(60))).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
    }

    /// What it tells of itself, as soon as that is so.
    fn until(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let begin = clock::now();
        loop {
            let body = self.get("/status.json").unwrap_or_default();
            // The last chunk's length may stand around it.
            let json = body.find('{').zip(body.rfind('}')).and_then(|(from, to)| body.get(from..=to));
            let status: Option<Value> = json.and_then(|json| serde_json::from_str(json).ok());
            match status {
                Some(status) if is_so(&status) => return status,
                _ if clock::now() - begin > Duration::from_secs(120) => panic!("not {what}: {body}"),
                _ => thread::sleep(Duration::from_millis(50)),
            }
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The classes of an account's runs that failed.
fn failures<'a>(status: &'a Value, target: &str) -> Vec<&'a str> {
    let accounts = status["accounts"].as_array().unwrap();
    let accounts = accounts.iter().filter(|account| account["target"] == target);
    let runs = accounts.flat_map(|account| [&account["runs"], &account["failed_runs"]]).filter_map(Value::as_array);
    runs.flatten().filter(|run| run["outcome"] == "failed").filter_map(|run| run["error_type"].as_str()).collect()
}

/// Whether each account has ended a run that began after this.
fn all_ran_after(status: &Value, moment: &str) -> bool {
    let last = |account: &Value| account["runs"][0]["started_at"].as_str().is_some_and(|at| at > moment);
    status["accounts"].as_array().unwrap().iter().all(last)
}

const ACCOUNTS: usize = 12;

fn blames_no_server_but_the_silent_one(disturb: impl FnOnce(&Agent)) {
    let (silent, reached) = silent();
    let agent = Agent::start(ACCOUNTS, serve(Turn::Answers, Arc::default()), silent);
    disturb(&agent);
    let now = agent.until("up", |_| true)["at"].as_str().unwrap().to_owned();
    let status = agent.until("every account has run again", |status| all_ran_after(status, &now));
    for number in 1..=ACCOUNTS {
        assert_eq!(failures(&status, &format!("t{number}")), [""; 0], "{status}");
    }
    let failures = failures(&status, "silent");
    assert!(!failures.is_empty() && failures.iter().all(|class| *class == "timeout_greeting"), "{failures:?}");
    assert!(reached.load(Ordering::Relaxed) >= failures.len());
}

#[test]
fn an_agent_that_is_stopped_for_longer_than_a_run_may_take_blames_no_server_for_it() {
    blames_no_server_but_the_silent_one(|agent| {
        for stop in [1_000, 3_000, 1_500, 2_000] {
            agent.signal(Signal::SIGSTOP);
            thread::sleep(Duration::from_millis(stop));
            agent.signal(Signal::SIGCONT);
            // Runs are under way when it is stopped the next time.
            thread::sleep(Duration::from_millis(700));
        }
    });
}

#[test]
fn an_agent_that_gets_a_tenth_of_a_cpu_blames_no_server_for_it() {
    blames_no_server_but_the_silent_one(|agent| {
        for _ in 0..100 {
            agent.signal(Signal::SIGSTOP);
            thread::sleep(Duration::from_millis(90));
            agent.signal(Signal::SIGCONT);
            thread::sleep(Duration::from_millis(10));
        }
    });
}
