//! Hostile and broken servers as data: `tests/scenarios/*.toml`, one file for each thing that a server can do.
//!
//! ```ignore
//! for scenario in Scenario::all() {
//!     for over in &scenario.over {
//!         let served = scenario.serve(*over, &Credentials::default()).await;   // it listens
//!         let run = run(served.target()).await;       // through the library, with what the scenario sets; or
//!         // Program::new(["probe"].into_iter().chain(&served.flags())).env("IMAPTRACE_PASSWORD", …), for the defaults
//!         let heard = served.heard().await;           // the bytes that it received, once the client is gone
//!         let differs = scenario.judge(*over, &run, &heard, &who);   // empty when all is as it should be
//!     }
//! }
//! ```
//!
//! The script is that of `support::script` with some words more, which stand for whole conversations:
//!
//! ```text
//! approach               all that comes before the ClientHello: nothing over TLS, else STARTTLS and its OK
//! shake                  begin TLS where it comes before the greeting (over = "tls"); nothing elsewhere
//! greet CAPABILITIES     the conversation up to these capabilities: `shake` and a greeting, or all of STARTTLS
//! until STEP             `greet IMAP4rev1`, and a good conversation until LOGIN, LIST, SELECT, FETCH or LOGOUT is received
//! answer                 the good answer to the command last received
//! on                     a good conversation from the next command to the end
//! rest                   `answer`, then `on`
//! ```
//!
//! `{user}`, `{password}`, `{user64}`, `{password64}`, `{plain64}` and `{password%}` are the client's, for a server that
//! repeats them. A script over STARTTLS that has neither `greet` nor `until` is played in clear text from its first
//! byte, as an attacker would.

mod file;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{LazyLock, Mutex},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use imaptrace::plan::{Auth, Deadlines, Security, TagStyle, Target, TlsOptions};
use imaptrace_record::{CloseNotify, Run, ServerText};

pub use self::file::{Expect, Over, Scenario, Set};
use super::{
    otlp::ClosedPort,
    run,
    script::{Heard, Pem, Script},
};

/// Who logs in.
#[derive(Debug, Clone)]
pub struct Credentials {
    pub user: String,
    pub password: String,
}

impl Default for Credentials {
    fn default() -> Self {
        Self { user: "planted-user-5e1f".into(), password: "finch-word-7a2d".into() }
    }
}

impl Credentials {
    fn plain(&self) -> String {
        STANDARD.encode(format!("\0{}\0{}", self.user, self.password))
    }

    /// Puts them where a script or an expectation names them.
    fn fill_in(&self, text: String) -> String {
        let percent = percent_encoding::utf8_percent_encode(&self.password, percent_encoding::NON_ALPHANUMERIC);
        [
            ("{user}", self.user.clone()),
            ("{password}", self.password.clone()),
            ("{user64}", STANDARD.encode(&self.user)),
            ("{password64}", STANDARD.encode(&self.password)),
            ("{plain64}", self.plain()),
            ("{password%}", percent.to_string()),
        ]
        .into_iter()
        .fold(text, |text, (name, value)| if text.contains(name) { text.replace(name, &value) } else { text })
    }

    /// The forms in which either could leave.
    pub fn forms(&self) -> Vec<String> {
        let mut forms = vec![self.plain()];
        for word in [&self.user, &self.password] {
            forms.push(word.clone());
            // Whatever stands before it in what is encoded, one of these is in the result.
            for skip in 0..3 {
                let encoded = STANDARD.encode([vec![0; skip], word.as_bytes().to_vec()].concat());
                let inner = encoded.trim_end_matches('=');
                let whole = if skip == 0 { 0 } else { 4 }..inner.len() - 2;
                forms.push(inner.get(whole).unwrap().to_owned());
            }
        }
        forms
    }
}

/// A scenario that waits for its client.
pub struct Served {
    /// Where it listens.
    pub address: SocketAddr,
    script: Option<Script>,
    /// Held while the port must have no listener.
    _closed: Option<ClosedPort>,
    pem: Pem,
    over: Over,
    set: Set,
    /// How many times the deadlines that are set.
    patience: u32,
    who: Credentials,
    ca: tempfile::NamedTempFile,
}

impl Scenario {
    /// Listens and plays the script to the first client that comes.
    pub async fn serve(&self, over: Over, who: &Credentials) -> Served {
        let pem = certificate(self.set.certificate.as_deref().unwrap_or("127.0.0.1"));
        let mut who = who.clone();
        if let Some(bytes) = self.set.user_bytes {
            who.user = "u".repeat(bytes);
        }
        let script = spell_out(&self.script, over, &who);
        let (address, script, closed) = if self.set.closed {
            let port = ClosedPort::take();
            (port.url().trim_start_matches("http://").parse().unwrap(), None, Some(port))
        } else {
            let script = Script::play_with(&script, &pem).await;
            (script.address, Some(script), None)
        };
        let ca = pem.ca_file();
        Served { address, script, _closed: closed, pem, over, set: self.set.clone(), patience: 1, who, ca }
    }

    /// What differs from what has to come of it.
    pub fn judge(&self, over: Over, run: &Run, heard: &Heard, who: &Credentials) -> Vec<String> {
        let mut differs = Differences(Vec::new());
        let expect = &self.expect;
        differs.unless_same("outcome", &run.outcome, &self.outcome);
        differs.unless_same("error type", &run.error_type, &self.error);
        differs.unless_same("failed step", &run.failed_step.as_ref().map(ToString::to_string), &self.step);
        if run.error_type.is_some() {
            differs.unless_same(
                "first loading latency of a run that failed",
                &run.first_loading_latency_s.is_some(),
                &false,
            );
        }
        let failing = run.failing_step();
        differs.unless_same("the failing step's class", &failing.and_then(|step| step.error_type), &self.error);
        if let Some(steps) = expect.steps.as_ref().filter(|_| over == Over::None) {
            differs.unless_same("steps", &run::steps(run), steps);
        }
        let text = failing.and_then(|step| step.text.as_ref()).map_or("", ServerText::as_str);
        if let Some(wanted) = expect.text.as_ref().filter(|wanted| !text.contains(*wanted)) {
            differs.0.push(format!("the text {text:?} does not hold {wanted:?}"));
        }
        if expect.code.is_some() {
            differs.unless_same("code", &failing.and_then(|step| step.code).map(|code| code.to_string()), &expect.code);
        }
        let received: u64 = run.steps.iter().filter_map(|step| step.received_bytes).sum();
        if let Some(most) = expect.most_received.filter(|most| received > *most) {
            differs.0.push(format!("{received} bytes were read, more than {most}"));
        }
        if expect.received.is_some() {
            differs.unless_same(
                "bytes of the failing step",
                &failing.and_then(|step| step.received_bytes),
                &expect.received,
            );
        }
        if let Some(lenient) = expect.lenient {
            differs.unless_same("breaches read past", &run.server.deviations.unwrap_or_default(), &lenient);
        }
        let events = run.steps.iter().flat_map(|step| &step.events);
        let said: Vec<_> = events.filter_map(|event| event.text.as_ref()).map(ServerText::as_str).collect();
        if expect.alert.is_some() {
            differs.unless_same("the alert", &said.first().copied(), &expect.alert.as_deref());
        }
        if let Some(alerts) = expect.alerts {
            differs.unless_same("alerts", &said.len(), &alerts);
        }
        if expect.messages.is_some() {
            let fetch = run.steps.iter().find(|step| step.name == "FETCH");
            differs.unless_same("messages", &fetch.and_then(|step| step.messages), &expect.messages);
        }
        let shown = |text: &Option<ServerText>| text.as_ref().map_or("-", ServerText::as_str).to_owned();
        if let Some(host) = &expect.referral {
            let in_steps = run.steps.iter().find_map(|step| step.referral_host.clone());
            differs.unless_same("referral", &shown(&run.server.referral_host), host);
            differs.unless_same("a step's referral", &shown(&in_steps), host);
        }
        if let Some(id) = &expect.id {
            differs.unless_same("id", &shown(&run.server.id_name), id);
        }
        if let Some(close_notify) = expect.close_notify.as_ref().filter(|_| over != Over::None) {
            let found = match failing.and_then(|step| step.close_notify) {
                Some(CloseNotify::True) => "true",
                Some(CloseNotify::False) => "false",
                Some(CloseNotify::Unknown) => "unknown",
                None => "-",
            };
            differs.unless_same("close_notify", &found, &close_notify.as_str());
        }
        differs.unless_same("preauth", &run.server.preauth.unwrap_or_default(), &expect.preauth);
        judge_talk(&mut differs, expect, heard, who);
        judge_secrets(&mut differs, over, run, heard, who);
        differs.0
    }
}

fn judge_talk(differs: &mut Differences, expect: &Expect, heard: &Heard, who: &Credentials) {
    let filled = |words: &[String]| words.iter().map(|word| who.fill_in(word.clone())).collect::<Vec<_>>();
    if !heard.to_the_end {
        differs.0.push(format!("the client went before the script was at its end; received {:?}", heard.lines));
    }
    let said = heard.lines.iter().find(|line| !line.starts_with('('));
    if expect.nothing_heard
        && let Some(line) = said
    {
        differs.0.push(format!("the server received {line:?}"));
    }
    for wanted in filled(&expect.heard) {
        if !heard.lines.iter().any(|line| line.contains(&wanted)) {
            differs.0.push(format!("the server never received {wanted:?}: {:?}", heard.lines));
        }
    }
    for unwanted in filled(&expect.unheard) {
        if heard.lines.iter().any(|line| line.contains(&unwanted)) {
            differs.0.push(format!("the server received {unwanted:?}: {:?}", heard.lines));
        }
    }
    for line in heard.lines.iter().filter(|line| line.starts_with('(')) {
        // The client may close at any time; what it sends has to be in the script.
        if !line.starts_with("(gone") {
            differs.0.push(format!("the script was not followed: {line}; received {:?}", heard.lines));
        }
    }
}

/// In no scenario is a credential on record, and in none of those where TLS was asked for does one leave in clear text.
fn judge_secrets(differs: &mut Differences, over: Over, run: &Run, heard: &Heard, who: &Credentials) {
    let record = serde_json::to_string(run).unwrap();
    for form in who.forms() {
        if record.contains(&form) {
            differs.0.push(format!("{form:?} is in the record: {record}"));
        }
        let seen = heard.wire.windows(form.len()).any(|window| window == form.as_bytes());
        if seen && over != Over::None {
            differs.0.push(format!("{form:?} left in clear text"));
        }
    }
}

struct Differences(Vec<String>);

impl Differences {
    fn unless_same<T: PartialEq + std::fmt::Debug>(&mut self, what: &str, found: &T, wanted: &T) {
        if found != wanted {
            self.0.push(format!("{what}: {found:?}, not {wanted:?}"));
        }
    }
}

impl Served {
    /// With the deadlines of the scenario times this factor.
    pub fn with_patience(self, patience: u32) -> Self {
        Self { patience, ..self }
    }

    /// The target, for the library.
    pub fn target(&self) -> Target {
        let security = match self.over {
            Over::None => Security::None,
            Over::Tls => Security::Tls,
            Over::StartTls => Security::StartTls,
        };
        let mut target = run::target(self.address, security);
        target.accounts = vec![run::account(&self.who.user, &self.who.password)];
        target.tls = TlsOptions { ca_file: Some(self.ca.path().to_owned()), ..TlsOptions::default() };
        let set = &self.set;
        match set.auth.as_deref() {
            None => {}
            Some("login") => target.journey.auth = Auth::Login,
            Some("plain") => target.journey.auth = Auth::Plain,
            Some(other) => panic!("no such auth: {other}"),
        }
        if set.short_tags {
            target.journey.tag = TagStyle::Short;
        }
        let limits = &mut target.limits;
        limits.line = set.line.unwrap_or(limits.line);
        limits.command_bytes = set.command_bytes.unwrap_or(limits.command_bytes);
        limits.session_bytes = limits.session_bytes.max(limits.command_bytes);
        limits.responses = set.responses.unwrap_or(limits.responses);
        // A busy machine is not what the scenario is about.
        let long = Duration::from_secs(60);
        target.deadlines = Deadlines {
            run: 3 * long,
            resolve: long,
            connect: long,
            tls: long,
            greeting: long,
            command: long,
            write: long,
            logout: long / 3,
        };
        let deadlines = &mut target.deadlines;
        for (deadline, set) in [
            (&mut deadlines.tls, set.tls_ms),
            (&mut deadlines.greeting, set.greeting_ms),
            (&mut deadlines.command, set.command_ms),
            (&mut deadlines.write, set.write_ms),
        ] {
            *deadline = set.map_or(*deadline, |set| Duration::from_millis(set) * self.patience);
        }
        target
    }

    /// What stands behind `imaptrace probe` for this server; the password is for `IMAPTRACE_PASSWORD`. Limits and deadlines
    /// are the defaults, but for `--timeout`.
    pub fn flags(&self) -> Vec<String> {
        let scheme = if self.over == Over::Tls { "imaps" } else { "imap" };
        let flags = [
            format!("{scheme}://{}", self.address),
            "--user".into(),
            self.who.user.clone(),
            "--security".into(),
            self.over.to_string(),
            "--timeout".into(),
            "3s".into(),
        ];
        let ca = ["--ca-file".into(), self.ca.path().to_str().unwrap().to_owned()];
        let ca = ca.into_iter().filter(|_| self.over != Over::None);
        flags.into_iter().chain(ca).collect()
    }

    /// The certificate that the server shows, to be trusted.
    pub fn certificate(&self) -> &str {
        &self.pem.certificate
    }

    /// What it received, once the client is gone.
    pub async fn heard(self) -> Heard {
        match self.script {
            Some(script) => script.end().await,
            None => Heard { lines: Vec::new(), wire: Vec::new(), to_the_end: true },
        }
    }
}

/// A certificate for this name; the same each time.
fn certificate(name: &str) -> Pem {
    static MADE: LazyLock<Mutex<BTreeMap<String, Pem>>> = LazyLock::new(Mutex::default);
    let mut made = MADE.lock().unwrap();
    made.entry(name.to_owned()).or_insert_with(|| Pem::self_signed(&[name], 2020, 2040)).clone()
}

// === The words that stand for conversations ===

/// A command and the good answer to it.
const GOOD: [(&str, &str); 5] = [
    ("LOGIN", "S: {tag} OK [CAPABILITY IMAP4rev1] in\n"),
    ("LIST", "S: * LIST () \"/\" INBOX\nS: {tag} OK\n"),
    ("SELECT", "S: * 30 EXISTS\nS: {tag} OK\n"),
    ("FETCH", "S: * 30 FETCH (UID 3)\nS: {tag} OK\n"),
    ("LOGOUT", "S: * BYE\nS: {tag} OK\n"),
];

fn spell_out(script: &str, over: Over, who: &Credentials) -> String {
    let mut out = String::new();
    let mut last = 0;
    for line in script.lines() {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "approach" if over == Over::StartTls => out += APPROACH,
            "approach" => {}
            "shake" => out += shake(over),
            "greet" => out += &greet(rest, over),
            "until" => {
                out += &greet("IMAP4rev1", over);
                last = GOOD.iter().position(|(name, _)| *name == rest).unwrap_or_else(|| panic!("no step {rest}"));
                GOOD[..last].iter().for_each(|(name, answer)| out.extend(["C: ", name, "\n", answer]));
                out.extend(["C: ", rest, "\n"]);
            }
            "answer" => out += GOOD[last].1,
            "on" | "rest" => {
                if word == "rest" {
                    out += GOOD[last].1;
                }
                GOOD[last + 1..].iter().for_each(|(name, answer)| out.extend(["C: ", name, "\n", answer]));
            }
            _ => {
                if word == "C:" {
                    let name = |(name, _): &(&str, &str)| rest.starts_with(name);
                    last = GOOD.iter().position(name).unwrap_or(0);
                }
                out += line;
                out.push('\n');
            }
        }
    }
    who.fill_in(out)
}

const APPROACH: &str = "S: * OK [CAPABILITY IMAP4rev1 STARTTLS] hi\nC: STARTTLS\nS: {tag} OK go\n";

fn shake(over: Over) -> &'static str {
    if over == Over::Tls { "tls\n" } else { "" }
}

fn greet(capabilities: &str, over: Over) -> String {
    match over {
        Over::StartTls => format!("{APPROACH}tls\nC: CAPABILITY\nS: * CAPABILITY {capabilities}\nS: {{tag}} OK\n"),
        _ => format!("{}S: * OK [CAPABILITY {capabilities}] hi\n", shake(over)),
    }
}
