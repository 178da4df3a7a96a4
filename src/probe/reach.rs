//! The way to the server: the steps `resolve`, `connect` and `tls`, done by `net`, and the record of each.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use imaptrace_record::{
    ConnectAttempt, ConnectFacts, ErrorType, ResolveFacts, Seconds, ServerText, SetupStep, StepOutcome, TlsFacts,
    Verified,
};
use tracing::{info, warn};

use super::{
    accounting::SetupTime,
    certificates, classify,
    conversation::{Conversation, Stop},
    exchange::SecureError,
    wait::cancelled,
};
use crate::{
    clock::{self, Deadline},
    net::{self, ConnectCause, ConnectOptions, Family, ResolveCause, Resolver, Shown},
    plan::Host,
};

impl Conversation<'_> {
    /// Everything up to the connection.
    pub(super) async fn reach(&mut self) -> Result<(), Stop> {
        let addresses = match self.addresses.take() {
            Some(known) => known,
            None => self.resolve().await?,
        };
        let reached = self.connect(&addresses).await;
        self.addresses = Some(addresses);
        reached
    }

    async fn resolve(&mut self) -> Result<Vec<IpAddr>, Stop> {
        let name = match &self.target.endpoint.host {
            Host::Address(address) => return Ok(vec![*address]),
            Host::Name(name) => name,
        };
        let deadline = self.deadline_for(SetupStep::Resolve, self.target.deadlines.resolve)?;
        let mut step = self.recorder.open(SetupStep::Resolve);
        let start = clock::now();
        let mut cancel = self.cancel.clone();
        let answer = tokio::select! {
            biased;
            answer = look_up(&self.prober.resolver, name, self.job.family, deadline) => answer,
            () = cancelled(&mut cancel) => Err((ErrorType::Cancelled, String::new())),
        };
        let end = clock::now();
        self.recorder.time(&mut step, start, end);
        step.delayed_s = delay(clock::paused(start, end, Duration::ZERO));
        let answers = answer.iter().flatten().take(ResolveFacts::KEPT).copied().collect();
        step.dns = Some(Box::new(ResolveFacts { question: name.clone(), answers }));
        match answer.and_then(|addresses| self.allowed(addresses)) {
            Ok(addresses) => {
                self.recorder.push(step);
                Ok(addresses)
            }
            Err((class, text)) => {
                // Our own words: one of them cut out would show that the password is that word.
                step.text = (!text.is_empty()).then(|| ServerText::new(text.as_bytes(), ServerText::STATUS));
                Err(self.fail(step, class))
            }
        }
    }

    /// The addresses that the operator allows: the password is sent to one of them.
    fn allowed(&self, mut addresses: Vec<IpAddr>) -> Result<Vec<IpAddr>, (ErrorType, String)> {
        let came = addresses.len();
        let first = addresses.first().copied();
        addresses.retain(|address| self.prober.resolver.allows(*address));
        if let Some(first) = first.filter(|_| addresses.is_empty()) {
            let others = if came > 1 { format!(" and {} more", came - 1) } else { String::new() };
            let text = format!("the name has only addresses that [dns] deny forbids: {first}{others}");
            return Err((ErrorType::AddressDenied, text));
        }
        if addresses.len() < came {
            let denied = came - addresses.len();
            warn!(target: "imaptrace::probe", denied, "the name has addresses that [dns] deny forbids; they are left out");
        }
        Ok(addresses)
    }

    async fn connect(&mut self, addresses: &[IpAddr]) -> Result<(), Stop> {
        let deadline = self.deadline_for(SetupStep::Connect, self.target.deadlines.connect)?;
        let mut step = self.recorder.open(SetupStep::Connect);
        let port = self.target.endpoint.port;
        let source = self.target.source_address;
        // An address of the other family cannot be reached from the source address.
        let usable =
            addresses.iter().filter(|address| source.is_none_or(|source| source.is_ipv4() == address.is_ipv4()));
        let peers: Vec<SocketAddr> = usable.map(|address| SocketAddr::new(*address, port)).collect();
        let options =
            ConnectOptions { source, proxy: self.target.proxy_protocol, timing: self.target.timing, deadline };
        let start = clock::now();
        let connected = tokio::select! {
            biased;
            connected = net::connect(&self.driver.wire, &peers, options) => connected,
            () = cancelled(&mut self.cancel) => {
                self.recorder.time(&mut step, start, clock::now());
                return Err(self.fail(step, ErrorType::Cancelled));
            }
        };
        let won = connected.attempts.iter().find(|entry| entry.result == Some(Ok(()))).copied();
        let end = won.map_or_else(clock::now, |won| won.end);
        self.recorder.time(&mut step, connected.attempts.first().map_or(start, |entry| entry.start), end);
        let attempts: Vec<_> = connected.attempts.iter().map(|entry| self.attempt(entry)).collect();
        for lost in attempts.iter().filter(|entry| entry.error_type.is_some()) {
            info!(target: "imaptrace::probe", peer = %lost.peer, error_type = lost.error_type.map_or("", ErrorType::as_str), "a connection attempt failed");
        }
        step.connect = Some(ConnectFacts { attempts });
        let (peer, local) = match connected.result {
            Ok(connection) => connection,
            Err(cause) => {
                if let (ConnectCause::Source, Some(source)) = (cause, source) {
                    let text = format!("this host cannot connect from the source address {source}");
                    step.text = Some(ServerText::new(text.as_bytes(), ServerText::STATUS));
                }
                return Err(self.fail(step, classify::of_connect(cause)));
            }
        };
        let server = &mut self.recorder.run.server;
        (server.peer, server.local) = (Some(peer), Some(local));
        self.driver.connected();
        self.note_connect(&mut step);
        step.delayed_s = won.and_then(|won| {
            let took = won.end.saturating_duration_since(won.start);
            let paused = clock::paused(won.start, won.end, Duration::ZERO);
            // The kernel's first round trip is that of the connection; the rest is our delay.
            let known = step.rtt_min_s.filter(|_| step.retransmits.is_none());
            delay(known.map_or(paused, |round_trip| took.saturating_sub(round_trip.to_duration())))
        });
        self.recorder.push(step);
        Ok(())
    }

    fn attempt(&self, entry: &net::ConnectionAttempt) -> ConnectAttempt {
        let start_s = self.recorder.at(entry.start);
        let (outcome, error_type) = match entry.result {
            Some(Ok(())) => (StepOutcome::Passed, None),
            Some(Err(cause)) => (StepOutcome::Failed, Some(classify::of_connect(cause))),
            None => (StepOutcome::Skipped, None),
        };
        let duration_s = self.recorder.at(entry.end).saturating_sub(start_s);
        ConnectAttempt { peer: entry.peer, start_s, duration_s, outcome, error_type }
    }

    /// TLS over the connection.
    pub(super) async fn tls(&mut self) -> Result<(), Stop> {
        let deadline = self.deadline_for(SetupStep::Tls, self.target.deadlines.tls)?;
        let mut step = self.recorder.open(SetupStep::Tls);
        let asked = clock::now();
        let result = self.driver.secure(deadline).await;
        // It ends with the last byte sent or received. What follows is our own, and the greeting may come meanwhile.
        let traffic = self.driver.wire.traffic();
        let end = match (&result, traffic.events.last()) {
            (Ok(()), Some(last)) => last.at,
            _ => clock::now(),
        };
        let start = self.driver.wire.first_write().unwrap_or(asked);
        self.recorder.time(&mut step, start, end);
        step.delayed_s = delay(net::kept_waiting(&traffic.events));
        self.note_setup(&mut step, SetupTime { start, end, asked: true, traffic: &traffic });
        self.greets_at_once = traffic.events.last().is_some_and(|last| !last.sent);
        let hello = self.driver.wire.server_hello();
        let answer = traffic.events.iter().find(|event| !event.sent).filter(|_| hello.is_some());
        let shown = match &result {
            Err(SecureError::Failed(failure)) => net::shown(Err(failure), &self.driver.wire),
            Err(SecureError::Own(_)) => Shown::Leaf(None),
            Ok(()) => self.driver.tls().map_or(Shown::Leaf(None), |stream| net::shown(Ok(stream), &self.driver.wire)),
        };
        let verified = match &result {
            Err(_) => Verified::No,
            Ok(()) if self.job.target.tls.is_insecure() => Verified::Insecure,
            Ok(()) => Verified::Yes,
        };
        let mut facts = TlsFacts {
            version: hello.map(net::ServerHello::version_name),
            cipher: hello.map(net::ServerHello::cipher_name),
            server_hello_s: answer.map(|event| self.recorder.at(event.at).saturating_sub(step.start_s)),
            alpn: hello.filter(|hello| hello.alpn_imap).map(|_| "imap".to_owned()),
            verified,
            server_name: self.job.target.tls.server_name().to_owned(),
            ..TlsFacts::default()
        };
        let server = &mut self.recorder.run.server;
        (server.tls_version, server.tls_cipher) = (facts.version.clone(), facts.cipher.clone());
        if let Shown::Leaf(Some(leaf)) = &shown {
            certificates::leaf(&mut facts, leaf, &self.redactor);
            server.certificate_not_after = facts.not_after;
        }
        step.tls = Some(Box::new(facts));
        match result {
            Ok(()) => {
                self.trusted = true;
                if let Some(transcript) = &mut self.driver.transcript {
                    transcript.step(&step);
                }
                self.recorder.push(step);
                Ok(())
            }
            Err(SecureError::Own(class)) => Err(self.fail(step, class)),
            Err(SecureError::Failed(failure)) => {
                step.text =
                    (!failure.text.is_empty()).then(|| self.redactor.text(failure.text.as_bytes(), ServerText::STATUS));
                let (class, fault) = classify::of_tls(&failure);
                step.tls_fault = fault;
                if let Shown::Chain(sent) = shown
                    && !sent.is_empty()
                {
                    let chain = self.job.target.tls.verify(&sent);
                    certificates::describe(&mut step, &chain, failure.cause, &self.redactor);
                    let not_after = step.tls.as_ref().and_then(|facts| facts.not_after);
                    self.recorder.run.server.certificate_not_after = not_after;
                }
                Err(self.fail(step, class))
            }
        }
    }
}

/// The addresses of a name. A pause in which no response could be read lengthens the deadline, and the query is sent again.
async fn look_up(
    resolver: &Resolver,
    name: &str,
    family: Family,
    deadline: Deadline,
) -> Result<Vec<IpAddr>, (ErrorType, String)> {
    let mut end = deadline.end();
    loop {
        let cause = match resolver.lookup(name, family, end).await {
            Ok(addresses) => return Ok(addresses),
            Err(cause) => cause,
        };
        let now = clock::now();
        // After all attempts timed out there are no further ones, however much time is left.
        let is_cut = now >= end;
        end = deadline.lengthened();
        let class = match cause {
            ResolveCause::Timeout | ResolveCause::Late if is_cut && now < end => continue,
            ResolveCause::Late => classify::of_own_delay(deadline.kind()),
            _ => classify::of_resolve(&cause),
        };
        return Err((class, cause.to_string()));
    }
}

/// Our own delay inside a step, as the record has it.
fn delay(delay: Duration) -> Option<Seconds> {
    Some(Seconds::from(delay)).filter(|delay| *delay > Seconds::ZERO)
}
