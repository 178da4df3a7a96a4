//! The login: which mechanism is used, and the command that carries it (RFC 9051 §6.2.2, §6.2.3).
//!
//! A server may offer SCRAM-SHA-256 and store this user's password in a form that does not work with it: then another
//! mechanism is tried, once for an account and its secret, and under verified TLS only (`login_fallbacks`).
//!
//! Not here: the turns of a mechanism (`sasl`), and whether a password may be sent on this line.

use imaptrace_imap as imap;
use imaptrace_imap::{Capabilities, Command, CommandName, Condition, Credentials, LoginMethod, Mechanism, Secret};
use imaptrace_record::{ErrorType, ServerText};
use tracing::info;

use super::{
    conversation::{Conversation, Stop},
    login_fallbacks::{Fallback, LoginId},
};
use crate::plan::{Auth, Choice as _};

/// The methods to try, if offered: the pinned one, or a proof before the password itself, and LOGIN last (RFC 9051 §6.2.3).
fn methods(auth: Auth, known: &Capabilities) -> impl Iterator<Item = LoginMethod> + use<> {
    let offered = [
        (known.auth_external, Auth::External, LoginMethod::Sasl(Mechanism::External)),
        (known.auth_scram_sha_256, Auth::ScramSha256, LoginMethod::Sasl(Mechanism::ScramSha256)),
        (known.auth_plain, Auth::Plain, LoginMethod::Sasl(Mechanism::Plain)),
        (!known.login_disabled, Auth::Login, LoginMethod::Login),
    ];
    let is_tried = move |pinned| auth == pinned || (auth == Auth::Auto && pinned != Auth::External);
    offered.into_iter().filter_map(move |(offered, pinned, method)| (offered && is_tried(pinned)).then_some(method))
}

impl Conversation<'_> {
    /// The name of the login's step before the server's capabilities are known.
    pub(super) fn login_name(&self) -> CommandName {
        match self.target.journey.auth {
            Auth::Auto | Auth::Login => CommandName::Login,
            Auth::External | Auth::Plain | Auth::ScramSha256 => CommandName::Authenticate,
        }
    }

    /// Logs in, unless the greeting was PREAUTH.
    pub(super) async fn login(&mut self) -> Result<(), Stop> {
        if self.driver.session.state() == imap::SessionState::Authenticated {
            self.recorder.skip(CommandName::Login);
            return Ok(());
        }
        let auth = self.target.journey.auth;
        let nothing = Capabilities::default();
        let known = self.driver.session.capabilities().unwrap_or(&nothing);
        let mut methods = methods(auth, known);
        let Some(method) = methods.next() else {
            let name = self.login_name();
            let text = Some(self.redactor.text(&missing(auth, known), ServerText::STATUS));
            self.recorder.run.server.oauth_only = offers_oauth_only(known).then_some(true);
            self.recorder.refuse(name, ErrorType::AuthMechanism, text);
            return Err(Stop::Logout);
        };
        // The login voids the capabilities.
        let oauth_only = offers_oauth_only(known);
        let is_scram = method == LoginMethod::Sasl(Mechanism::ScramSha256);
        let second = methods.next().filter(|_| is_scram && self.is_verified());
        let Ok(password) = self.job.secret.as_ref().cloned() else {
            return Err(self.refuse(method.command(), ErrorType::SecretUnavailable));
        };
        let account = self.job.account;
        let id = second.map(|second| (second, LoginId::new(&self.target.endpoint, account, &password)));
        let known = id.and_then(|(_, id)| self.job.target.logins.get(&account.alias, id));
        let (method, second) = match (id, known) {
            (Some((second, _)), Some(Fallback::Works)) => (second, None),
            (second, None) => (method, second),
            (_, Some(_)) => (method, None),
        };
        let oauth_only = |class| (oauth_only && class == Some(ErrorType::AuthFailed)).then_some(true);
        if let Some(class) = self.job.hold_login {
            self.recorder.run.server.oauth_only = oauth_only(Some(class));
            return Err(self.refuse(method.command(), class));
        }
        let Some((second, id)) = second else {
            let ended = self.log_in(method, &password, false).await.map(drop);
            self.recorder.run.server.oauth_only = oauth_only(self.recorder.run.error_type);
            return ended;
        };
        if self.log_in(method, &password, true).await? {
            return Ok(());
        }
        let (refused, instead) = (method.as_str(), second.as_str());
        info!(target: "imaptrace::probe", "the server refused {refused} for this account; trying {instead}, once");
        // Boxed: what is needed once in an account's life is not held by every run that waits.
        let ended = Box::pin(self.log_in(second, &password, false)).await;
        let fallback = match (&ended, self.recorder.run.error_type) {
            (Ok(_), _) => Some(Fallback::Works),
            // It was not tried, or the server could not decide.
            (Err(_), Some(ErrorType::TimeoutRun | ErrorType::Unavailable | ErrorType::LimitServer)) => None,
            (Err(_), class) => Some(Fallback::Refused).filter(|_| !class.is_some_and(ErrorType::is_void)),
        };
        if let Some(fallback) = fallback {
            self.job.target.logins.insert(&account.alias, id, fallback);
        }
        ended.map(drop)
    }

    /// Whether only the server whose certificate was checked can read what is sent now.
    fn is_verified(&self) -> bool {
        self.driver.tls().is_some() && !self.job.target.tls.is_insecure()
    }

    /// Logs in by this method. False if it `may_go_on` and the server refused the method; any other refusal ends the conversation.
    async fn log_in(&mut self, method: LoginMethod, password: &Secret, may_go_on: bool) -> Result<bool, Stop> {
        let account = self.job.account;
        let (mut step, exchange) = match method {
            LoginMethod::Login => {
                let user = account.login_name();
                self.perform(&Command::Login { user: &user, password }).await?
            }
            LoginMethod::Sasl(mechanism) => {
                let (user, master) = (account.user.expose(), account.master_user.as_ref());
                let credentials = match (mechanism, master) {
                    // The certificate identifies the user.
                    (Mechanism::External, _) => Credentials { authzid: Some(user), user, password },
                    (_, Some(master)) => Credentials { authzid: Some(user), user: master.expose(), password },
                    (_, None) => Credentials { authzid: None, user, password },
                };
                self.perform(&Command::Authenticate { mechanism, credentials }).await?
            }
        };
        if let Ok(response) = &exchange.result
            && may_go_on
            && response.condition == Condition::No
            && let class = self.refused(&mut step, response)
            && may_be_the_mechanisms(class)
        {
            self.tolerate(step, class);
            return Ok(false);
        }
        self.conclude(step, exchange).map(|_| true)
    }
}

/// Whether all SASL mechanisms of the server are OAuth's (RFC 7628 and its forerunners).
fn offers_oauth_only(known: &Capabilities) -> bool {
    let is_oauth = |mechanism: &[u8]| mechanism.starts_with(b"XOAUTH") || mechanism.starts_with(b"OAUTH");
    let mut offered = known.mechanisms().peekable();
    offered.peek().is_some() && offered.all(is_oauth)
}

/// Whether another mechanism might work for the account: not after these, which no mechanism changes.
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

/// Why there is no method.
fn missing(auth: Auth, known: &Capabilities) -> Vec<u8> {
    let offered = known.mechanisms().collect::<Vec<_>>().join(b", ".as_slice());
    let offered = if offered.is_empty() { b"no mechanism".to_vec() } else { offered };
    let pinned = match auth {
        Auth::Auto | Auth::Login => "LOGIN is disabled".to_owned(),
        Auth::External | Auth::Plain | Auth::ScramSha256 => format!("auth is {:?}", auth.word()),
    };
    [pinned.as_bytes(), b", and the server offers ", &offered].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(auth: Auth, capabilities: &str) -> Option<LoginMethod> {
        methods(auth, &Capabilities::parse(capabilities.as_bytes())).next()
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
    fn the_reason_for_no_method_lists_what_the_server_offers() {
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
