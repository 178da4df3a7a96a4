//! Writes a server's certificates into the step `tls`: which one was refused, and why. Called by `reach` for those of the
//! handshake itself, and by `inspect` for those read afterwards.

use imaptrace_record::{ChainCertificate, ServerText, Step, Timestamp, TlsFacts};

use super::{classify, redact::Redactor};
use crate::net::{Certificate, Chain, TlsCause};

/// The server's own certificate.
pub(super) fn leaf(facts: &mut TlsFacts, leaf: &Certificate, redactor: &Redactor) {
    let text = |text: &str| redactor.text(text.as_bytes(), ServerText::STATUS);
    facts.not_after = time(leaf.not_after);
    facts.subject = Some(text(&leaf.subject));
    facts.issuer = Some(text(&leaf.issuer));
    facts.sha256 = Some(leaf.sha256.clone());
    facts.key.clone_from(&leaf.key);
}

/// The whole chain in which a certificate was refused for `cause`.
pub(super) fn describe(step: &mut Step, chain: &Chain, cause: TlsCause, redactor: &Redactor) {
    let Some(facts) = &mut step.tls else { return };
    let Some(own) = chain.certificates.first() else { return };
    leaf(facts, own, redactor);
    let text = |text: &str| redactor.text(text.as_bytes(), ServerText::STATUS);
    facts.not_before = time(own.not_before);
    let entry = |certificate: &Certificate| ChainCertificate {
        subject: text(&certificate.subject),
        issuer: text(&certificate.issuer),
        not_before: time(certificate.not_before),
        not_after: time(certificate.not_after),
    };
    facts.chain = chain.certificates.iter().map(entry).collect();
    // This was a second verification, without the name, and may have another result.
    let Some(refused) = chain.refused.as_ref().filter(|refused| refused.cause == cause) else { return };
    facts.refused_depth = u32::try_from(refused.depth).ok();
    step.tls_fault = classify::certificate_fault(refused);
    let text = step.text.as_ref().map_or("", ServerText::as_str);
    step.text = Some(redactor.text(format!("{text}: {}", refused.text).as_bytes(), ServerText::STATUS));
}

fn time(seconds: Option<i64>) -> Option<Timestamp> {
    Timestamp::from_epoch_seconds(seconds?)
}
