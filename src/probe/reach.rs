//! The way to the server: the steps `resolve`, `connect` and `tls`, and the record of each.
//!
//! How they are done is `net`'s matter; when, is `journey`'s.

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
    certificates, classify,
    conversation::{Conversation, Ready, Stop},
    driver::Driver,
    exchange::SecureError,
    wait::cancelled,
};
use crate::{
    clock::{self, Deadline},
    net::{self, ConnectCause, ConnectOptions, Family, ResolveCause, Resolver, Shown},
    plan::Host,
};

/// Everything up to the connection.
pub(super) async fn reach(conversation: &mut Conversation<'_>) -> Result<Driver, Stop> {
    let addresses = match conversation.addresses.take() {
        Some(known) => known,
        None => resolve(conversation).await?,
    };
    let reached = connect(conversation, &addresses).await;
    conversation.addresses = Some(addresses);
    reached
}

async fn resolve(conversation: &mut Conversation<'_>) -> Result<Vec<IpAddr>, Stop> {
    let name = match &conversation.target.endpoint.host {
        Host::Address(address) => return Ok(vec![*address]),
        Host::Name(name) => name,
    };
    let deadline = conversation.deadline_for(SetupStep::Resolve, conversation.target.deadlines.resolve)?;
    let mut step = conversation.recorder.open(SetupStep::Resolve);
    let start = clock::now();
    let mut cancel = conversation.cancel.clone();
    let answer = tokio::select! {
        biased;
        answer = look_up(&conversation.prober.resolver, name, conversation.job.family, deadline) => answer,
        () = cancelled(&mut cancel) => Err((ErrorType::Cancelled, String::new())),
    };
    let end = clock::now();
    conversation.recorder.time(&mut step, start, end);
    step.delayed_s = delay(clock::paused(start, end, Duration::ZERO));
    let answers = answer.iter().flatten().take(ResolveFacts::KEPT).copied().collect();
    step.dns = Some(Box::new(ResolveFacts { question: name.clone(), answers }));
    match answer.and_then(|addresses| allowed(conversation, addresses)) {
        Ok(addresses) => {
            conversation.recorder.push(step);
            Ok(addresses)
        }
        Err((class, text)) => {
            // Our own words: one of them cut out would show that the password is that word.
            step.text = (!text.is_empty()).then(|| ServerText::new(text.as_bytes(), ServerText::STATUS));
            Err(conversation.fail(step, class))
        }
    }
}

/// What the operator lets a name lead to. The password would go wherever it leads.
fn allowed(conversation: &Conversation<'_>, mut addresses: Vec<IpAddr>) -> Result<Vec<IpAddr>, (ErrorType, String)> {
    let came = addresses.len();
    let first = addresses.first().copied();
    addresses.retain(|address| conversation.prober.resolver.allows(*address));
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

async fn connect(conversation: &mut Conversation<'_>, addresses: &[IpAddr]) -> Result<Driver, Stop> {
    let deadline = conversation.deadline_for(SetupStep::Connect, conversation.target.deadlines.connect)?;
    let mut step = conversation.recorder.open(SetupStep::Connect);
    let port = conversation.target.endpoint.port;
    let source = conversation.target.source_address;
    // An address of the other family cannot be reached from the one that we are to bind.
    let usable = addresses.iter().filter(|address| source.is_none_or(|source| source.is_ipv4() == address.is_ipv4()));
    let peers: Vec<SocketAddr> = usable.map(|address| SocketAddr::new(*address, port)).collect();
    let Ready { wire, armed } = conversation.ready();
    let options = ConnectOptions {
        source,
        proxy: conversation.target.proxy_protocol,
        timing: conversation.target.timing,
        deadline,
    };
    let start = clock::now();
    let connected = tokio::select! {
        biased;
        connected = net::connect(&wire, &peers, options) => connected,
        () = cancelled(&mut conversation.cancel) => {
            conversation.recorder.time(&mut step, start, clock::now());
            return Err(conversation.fail(step, ErrorType::Cancelled));
        }
    };
    let end =
        connected.attempts.iter().find(|entry| entry.result == Some(Ok(()))).map_or_else(clock::now, |entry| entry.end);
    conversation.recorder.time(&mut step, connected.attempts.first().map_or(start, |entry| entry.start), end);
    let attempts: Vec<_> = connected.attempts.iter().map(|entry| attempt(conversation, entry)).collect();
    for lost in attempts.iter().filter(|entry| entry.error_type.is_some()) {
        info!(target: "imaptrace::probe", peer = %lost.peer, error_type = lost.error_type.map_or("", ErrorType::as_str), "a connection attempt failed");
    }
    step.connect = Some(ConnectFacts { attempts });
    let won = connected.attempts.iter().find(|entry| entry.result == Some(Ok(()))).copied();
    let (peer, local) = match connected.result {
        Ok(connection) => connection,
        Err(cause) => {
            if let (ConnectCause::Source, Some(source)) = (cause, source) {
                let text = format!("this host cannot connect from the source address {source}");
                step.text = Some(ServerText::new(text.as_bytes(), ServerText::STATUS));
            }
            return Err(conversation.fail(step, classify::of_connect(cause)));
        }
    };
    let server = conversation.recorder.server();
    (server.peer, server.local) = (Some(peer), Some(local));
    let mut limits = conversation.target.limits;
    limits.session_bytes = limits.session_bytes.saturating_sub(conversation.recorder.received());
    let mut driver = Driver::new(wire, armed, limits, conversation.cancel.clone());
    conversation.note_tcp(&mut step, &mut driver);
    step.delayed_s = won.and_then(|won| {
        let took = won.end.saturating_duration_since(won.start);
        let paused = clock::paused(won.start, won.end, Duration::ZERO);
        // The kernel's first round trip is the connection's; what is more came until we looked.
        let known = step.rtt_min_s.filter(|_| step.retransmits.is_none());
        delay(known.map_or(paused, |round_trip| took.saturating_sub(round_trip.to_duration())))
    });
    conversation.recorder.push(step);
    Ok(driver)
}

fn attempt(conversation: &Conversation<'_>, entry: &net::ConnectionAttempt) -> ConnectAttempt {
    let start_s = conversation.recorder.at(entry.start);
    let (outcome, error_type) = match entry.result {
        Some(Ok(())) => (StepOutcome::Passed, None),
        Some(Err(cause)) => (StepOutcome::Failed, Some(classify::of_connect(cause))),
        None => (StepOutcome::Skipped, None),
    };
    let duration_s = conversation.recorder.at(entry.end).saturating_sub(start_s);
    ConnectAttempt { peer: entry.peer, start_s, duration_s, outcome, error_type }
}

/// TLS over the connection.
pub(super) async fn tls(conversation: &mut Conversation<'_>, driver: &mut Driver) -> Result<(), Stop> {
    let deadline = conversation.deadline_for(SetupStep::Tls, conversation.target.deadlines.tls)?;
    let mut step = conversation.recorder.open(SetupStep::Tls);
    let asked = clock::now();
    let result = driver.secure(deadline).await;
    // It ends with the last byte of ours or theirs. What follows is our own, and the greeting may come meanwhile.
    let traffic = driver.wire().traffic();
    let end = match (&result, traffic.events.last()) {
        (Ok(()), Some(last)) => last.at,
        _ => clock::now(),
    };
    conversation.recorder.time(&mut step, driver.wire().first_write().unwrap_or(asked), end);
    step.delayed_s = delay(net::kept_waiting(&traffic.events));
    conversation.note_tcp(&mut step, driver);
    let hello = driver.wire().server_hello();
    let shown = match &result {
        Err(SecureError::Failed(failure)) => net::shown(Err(failure), driver.wire()),
        Err(SecureError::Cancelled | SecureError::OwnDelay(_)) => Shown::Leaf(None),
        Ok(()) => driver.tls().map_or(Shown::Leaf(None), |stream| net::shown(Ok(stream), driver.wire())),
    };
    let verified = match &result {
        Err(_) => Verified::No,
        Ok(()) if conversation.job.target.tls.is_insecure() => Verified::Insecure,
        Ok(()) => Verified::Yes,
    };
    let mut facts = TlsFacts {
        version: hello.map(net::ServerHello::version_name),
        cipher: hello.map(net::ServerHello::cipher_name),
        verified,
        server_name: conversation.job.target.tls.server_name().to_owned(),
        not_after: None,
        subject: None,
        issuer: None,
        sha256: None,
        not_before: None,
        key: None,
        chain: Vec::new(),
        refused_depth: None,
        read_at: None,
    };
    let server = conversation.recorder.server();
    (server.tls_version, server.tls_cipher) = (facts.version.clone(), facts.cipher.clone());
    if let Shown::Leaf(Some(leaf)) = &shown {
        certificates::leaf(&mut facts, leaf, &conversation.redactor);
        server.certificate_not_after = facts.not_after;
    }
    step.tls = Some(Box::new(facts));
    match result {
        Ok(()) => {
            conversation.trusted = true;
            if let Some(transcript) = &mut driver.transcript {
                transcript.step(&step);
            }
            conversation.recorder.push(step);
            Ok(())
        }
        Err(SecureError::Cancelled) => Err(conversation.fail(step, ErrorType::Cancelled)),
        Err(SecureError::OwnDelay(class)) => Err(conversation.fail(step, class)),
        Err(SecureError::Failed(failure)) => {
            step.text = (!failure.text.is_empty())
                .then(|| conversation.redactor.text(failure.text.as_bytes(), ServerText::STATUS));
            step.tls_fault = classify::tls_fault(&failure);
            if let Shown::Chain(sent) = shown
                && !sent.is_empty()
            {
                let chain = conversation.job.target.tls.verify(&sent);
                certificates::describe(&mut step, &chain, failure.cause, &conversation.redactor);
                let not_after = step.tls.as_ref().and_then(|facts| facts.not_after);
                conversation.recorder.server().certificate_not_after = not_after;
            }
            Err(conversation.fail(step, classify::of_tls(failure.cause)))
        }
    }
}

/// The addresses of a name. A pause in which no answer could be read makes the deadline longer, and the servers are asked
/// once more.
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
        // Servers that were silent as often as they are to be asked are not asked again, however much time is left.
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

/// What stands in a step of our own delay inside it.
fn delay(delay: Duration) -> Option<Seconds> {
    Some(Seconds::from(delay)).filter(|delay| *delay > Seconds::ZERO)
}
