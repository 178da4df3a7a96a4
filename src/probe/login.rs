//! The login: which mechanism proves who we are, and the command that carries it (RFC 9051 §6.2.2, §6.2.3).
//!
//! A server may offer SCRAM-SHA-256 and yet hold this user's password in a form that it does not work with: then, once for
//! an account and its secret and under verified TLS only, another mechanism is tried (`login_memory`).
//!
//! How the turns of a mechanism go is `sasl`'s matter. Whether the line is one on which a password may be sent was settled
//! before: by TLS, or by the operator who chose to do without.

use imaptrace_imap as imap;
use imaptrace_imap::{Capabilities, Command, CommandName, Condition, Credentials, LoginMethod, Mechanism, Secret};
use imaptrace_record::{ErrorType, ServerText};
use tracing::info;

use super::{
    conversation::{Conversation, Stop},
    driver::Driver,
    login_memory::{Fallback, LoginId},
};
use crate::plan::Auth;

/// The method that was pinned, or the best that the server offers: a proof before the password itself, and LOGIN as the last
/// resort (RFC 9051 §6.2.3).
fn choose(auth: Auth, known: &Capabilities) -> Option<LoginMethod> {
    let login = Some(LoginMethod::Login).filter(|_| !known.login_disabled);
    let if_offered = |offered: bool, mechanism| offered.then_some(LoginMethod::Sasl(mechanism));
    match auth {
        Auth::Auto => if_offered(known.auth_scram_sha_256, Mechanism::ScramSha256)
            .or_else(|| if_offered(known.auth_plain, Mechanism::Plain))
            .or(login),
        Auth::External => if_offered(known.auth_external, Mechanism::External),
        Auth::Login => login,
        Auth::Plain => if_offered(known.auth_plain, Mechanism::Plain),
        Auth::ScramSha256 => if_offered(known.auth_scram_sha_256, Mechanism::ScramSha256),
    }
}

/// What is left for an account whose server refuses `first`, when nothing was pinned: there is something after SCRAM-SHA-256.
fn fallback(first: LoginMethod, auth: Auth, known: &Capabilities) -> Option<LoginMethod> {
    if auth != Auth::Auto || first != LoginMethod::Sasl(Mechanism::ScramSha256) {
        return None;
    }
    if known.auth_plain {
        return Some(LoginMethod::Sasl(Mechanism::Plain));
    }
    Some(LoginMethod::Login).filter(|_| !known.login_disabled)
}

/// The name of the login's step before the server's capabilities are known.
pub(super) fn login_name(conversation: &Conversation<'_>) -> CommandName {
    match conversation.target.journey.auth {
        Auth::Auto | Auth::Login => CommandName::Login,
        Auth::External | Auth::Plain | Auth::ScramSha256 => CommandName::Authenticate,
    }
}

pub(super) async fn login(conversation: &mut Conversation<'_>, driver: &mut Driver) -> Result<(), Stop> {
    if driver.session.state() == imap::SessionState::Authenticated {
        conversation.recorder.skip(CommandName::Login);
        return Ok(());
    }
    let auth = conversation.target.journey.auth;
    let nothing = Capabilities::default();
    let known = driver.session.capabilities().unwrap_or(&nothing);
    let Some(method) = choose(auth, known) else {
        let text = missing(auth, known);
        let name = login_name(conversation);
        let text = Some(conversation.redactor.text(&text, ServerText::STATUS));
        conversation.recorder.server().oauth_only = offers_oauth_only(known).then_some(true);
        conversation.recorder.refuse(name, ErrorType::AuthMechanism, text);
        conversation.recorder.fail(name, ErrorType::AuthMechanism);
        return Err(Stop::Logout);
    };
    // Its capabilities are void when it is over.
    let oauth_only = offers_oauth_only(known);
    let second = fallback(method, auth, known).filter(|_| is_verified(conversation, driver));
    let Ok(password) = conversation.job.secret.as_ref().cloned() else {
        return Err(conversation.refuse(method.command(), ErrorType::SecretUnavailable));
    };
    let account = conversation.job.account;
    let id = second.map(|second| (second, LoginId::new(&conversation.target.endpoint, account, &password)));
    let known = id.and_then(|(_, id)| conversation.job.target.logins.recall(&account.alias, id));
    let (method, second) = match (id, known) {
        (Some((second, _)), Some(Fallback::Works)) => (second, None),
        (second, None) => (method, second),
        (_, Some(_)) => (method, None),
    };
    let oauth_only = |class| (oauth_only && class == Some(ErrorType::AuthFailed)).then_some(true);
    if let Some(class) = conversation.job.hold_login {
        conversation.recorder.server().oauth_only = oauth_only(Some(class));
        return Err(conversation.refuse(method.command(), class));
    }
    let Some((second, id)) = second else {
        let ended = log_in(conversation, driver, method, &password, false).await.map(drop);
        conversation.recorder.server().oauth_only = oauth_only(conversation.recorder.error_type());
        return ended;
    };
    if log_in(conversation, driver, method, &password, true).await? {
        return Ok(());
    }
    let (refused, instead) = (method.as_str(), second.as_str());
    info!(target: "imaptrace::probe", "the server refused {refused} for this account; trying {instead}, once");
    // Boxed: what is needed once in an account's life is not held by every run that waits.
    let ended = Box::pin(log_in(conversation, driver, second, &password, false)).await;
    let fallback = match (&ended, conversation.recorder.error_type()) {
        (Ok(_), _) => Some(Fallback::Works),
        // It was not tried, or the server could not say.
        (Err(_), Some(ErrorType::TimeoutRun | ErrorType::Unavailable | ErrorType::LimitServer)) => None,
        (Err(_), class) => Some(Fallback::Refused).filter(|_| !class.is_some_and(ErrorType::is_void)),
    };
    if let Some(fallback) = fallback {
        conversation.job.target.logins.learn(&account.alias, id, fallback);
    }
    ended.map(drop)
}

/// Whether what is said now is read by the server alone whose certificate was checked.
fn is_verified(conversation: &Conversation<'_>, driver: &Driver) -> bool {
    driver.tls().is_some() && !conversation.job.target.tls.is_insecure()
}

/// Logs in this method. False when the server refused the method and `may_go_on`, so that another one can follow; any other
/// refusal ends the conversation.
async fn log_in(
    conversation: &mut Conversation<'_>,
    driver: &mut Driver,
    method: LoginMethod,
    password: &Secret,
    may_go_on: bool,
) -> Result<bool, Stop> {
    let account = conversation.job.account;
    let (mut step, exchange) = match method {
        LoginMethod::Login => {
            let user = account.login_name();
            conversation.perform(driver, &Command::Login { user: &user, password }).await?
        }
        LoginMethod::Sasl(mechanism) => {
            let (user, master) = (account.user.expose(), account.master_user.as_ref());
            let credentials = match (mechanism, master) {
                // The certificate says who logs in.
                (Mechanism::External, _) => Credentials { authzid: Some(user), user, password },
                (_, Some(master)) => Credentials { authzid: Some(user), user: master.expose(), password },
                (_, None) => Credentials { authzid: None, user, password },
            };
            conversation.perform(driver, &Command::Authenticate { mechanism, credentials }).await?
        }
    };
    if let Ok(response) = &exchange.result
        && may_go_on
        && response.condition == Condition::No
        && let class = conversation.refused(&mut step, response)
        && may_be_the_mechanisms(class)
    {
        conversation.tolerate(step, class);
        return Ok(false);
    }
    conversation.conclude(step, exchange).map(|_| true)
}

/// Whether tokens are all that the server takes in SASL (RFC 7628 and its forerunners).
fn offers_oauth_only(known: &Capabilities) -> bool {
    let is_oauth = |mechanism: &[u8]| mechanism.starts_with(b"XOAUTH") || mechanism.starts_with(b"OAUTH");
    let mut offered = known.mechanisms().peekable();
    offered.peek().is_some() && offered.all(is_oauth)
}

/// Whether the account might get in by another mechanism. These say that it would not, or not now.
fn may_be_the_mechanisms(class: ErrorType) -> bool {
    !matches!(
        class,
        ErrorType::Unavailable
            | ErrorType::LimitServer
            | ErrorType::AuthExpired
            | ErrorType::AuthPrivacy
            | ErrorType::Referral
    )
}

/// Why there is no method, for who reads the failure.
fn missing(auth: Auth, known: &Capabilities) -> Vec<u8> {
    let offered = known.mechanisms().collect::<Vec<_>>().join(b", ".as_slice());
    let offered = if offered.is_empty() { b"no mechanism".to_vec() } else { offered };
    let pinned = match auth {
        Auth::Auto | Auth::Login => "LOGIN is disabled".to_owned(),
        Auth::External | Auth::Plain | Auth::ScramSha256 => format!("auth is {:?}", auth.as_str()),
    };
    [pinned.as_bytes(), b", and the server offers ", &offered].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(auth: Auth, capabilities: &str) -> Option<LoginMethod> {
        choose(auth, &Capabilities::parse(capabilities.as_bytes()))
    }

    #[test]
    fn the_strongest_mechanism_comes_first_and_login_last() {
        let all = "AUTH=LOGIN AUTH=PLAIN AUTH=SCRAM-SHA-256 AUTH=EXTERNAL AUTH=SCRAM-SHA-1";
        assert_eq!(chosen(Auth::Auto, all), Some(LoginMethod::Sasl(Mechanism::ScramSha256)));
        assert_eq!(chosen(Auth::Auto, "AUTH=LOGIN AUTH=PLAIN"), Some(LoginMethod::Sasl(Mechanism::Plain)));
        assert_eq!(chosen(Auth::Auto, "AUTH=PLAIN LOGINDISABLED"), Some(LoginMethod::Sasl(Mechanism::Plain)));
        // AUTH=LOGIN is a mechanism of its own that no standard has; it is not the LOGIN command, and is not used.
        for nothing in ["", "AUTH=LOGIN", "AUTH=SCRAM-SHA-1", "AUTH=SCRAM-SHA-256-PLUS"] {
            assert_eq!(chosen(Auth::Auto, nothing), Some(LoginMethod::Login), "{nothing}");
            assert_eq!(chosen(Auth::Auto, &format!("{nothing} LOGINDISABLED")), None, "{nothing}");
        }
    }

    #[test]
    fn what_is_pinned_is_used_or_nothing_is() {
        let others = "AUTH=EXTERNAL AUTH=PLAIN AUTH=SCRAM-SHA-256";
        for (auth, word, method) in [
            (Auth::External, "AUTH=EXTERNAL", LoginMethod::Sasl(Mechanism::External)),
            (Auth::Plain, "AUTH=PLAIN", LoginMethod::Sasl(Mechanism::Plain)),
            (Auth::ScramSha256, "AUTH=SCRAM-SHA-256", LoginMethod::Sasl(Mechanism::ScramSha256)),
        ] {
            assert_eq!(chosen(auth, others), Some(method));
            let rest = others.split(' ').filter(|other| *other != word).collect::<Vec<_>>().join(" ");
            assert_eq!(chosen(auth, &rest), None, "{auth:?}");
        }
        assert_eq!(chosen(Auth::Login, others), Some(LoginMethod::Login));
        assert_eq!(chosen(Auth::Login, "LOGINDISABLED AUTH=PLAIN"), None);
    }

    #[test]
    fn why_there_is_no_way_is_said_with_what_the_server_offers() {
        let why = |auth, capabilities: &str| {
            String::from_utf8(missing(auth, &Capabilities::parse(capabilities.as_bytes()))).unwrap()
        };
        assert_eq!(
            why(Auth::ScramSha256, "AUTH=PLAIN AUTH=LOGIN"),
            "auth is \"scram-sha-256\", and the server offers LOGIN, PLAIN"
        );
        assert_eq!(why(Auth::Auto, "LOGINDISABLED"), "LOGIN is disabled, and the server offers no mechanism");
    }
}
