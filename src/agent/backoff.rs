//! After a refused login the next login of the account is held back for 1, 2, 4 … intervals, at most an hour
//! (docs/operations.md): a wrong password tried every minute locks mailboxes and slows other logins from the same address.
//!
//! Runs that are due meanwhile end after CAPABILITY. A new secret, user, master user, mechanism or client certificate ends the
//! wait; a reload that changes anything else does not. Called by `runner`.

use std::time::{Duration, Instant};

use imaptrace_imap::{CommandName, Secret};
use imaptrace_record::{Blame, ErrorType, Run, RunOutcome, StepName};

use crate::{
    clock,
    plan::{Account, Auth, UserName},
};

const LONGEST: Duration = Duration::from_secs(3600);

/// The state of an account's logins.
#[derive(Debug, Default)]
pub(super) struct LoginBackoff {
    held: Option<HeldLogin>,
    /// The login of the run in flight.
    tried: Option<Login>,
}

/// The identity of a login. It has no secret if that cannot be read.
#[derive(Debug, PartialEq)]
struct Login {
    user: UserName,
    master_user: Option<UserName>,
    auth: Auth,
    /// The client certificate's fingerprint.
    certificate: Option<String>,
    secret: Option<Secret>,
}

#[derive(Debug)]
struct HeldLogin {
    class: ErrorType,
    until: Instant,
    wait: Duration,
    login: Option<Login>,
}

impl LoginBackoff {
    /// The class of the refused login if the next run must not log in; `certificate` is a fingerprint.
    pub(super) fn hold(
        &mut self,
        account: &Account,
        auth: Auth,
        certificate: Option<&str>,
        secret: Option<Secret>,
    ) -> Option<ErrorType> {
        let (user, master_user) = (account.user.clone(), account.master_user.clone());
        let login = Some(Login { user, master_user, auth, certificate: certificate.map(str::to_owned), secret });
        let held = self.held.as_ref().filter(|held| held.login == login);
        let class = held.filter(|held| clock::now() < held.until).map(|held| held.class);
        if held.is_none() {
            self.held = None;
        }
        self.tried = login;
        class
    }

    /// Records the result of a run.
    pub(super) fn record(&mut self, run: &Run, interval: Duration) {
        let login = self.tried.take();
        if run.auth_backoff == Some(true) {
            return;
        }
        // Only the response to the login itself counts: one after its OK is about something else.
        let at_login = run.failed_step.as_ref().and_then(StepName::command).is_some_and(CommandName::is_login);
        let refused = run
            .error_type
            .filter(|class| at_login && class.blame() == Blame::Credentials && *class != ErrorType::AuthMechanism);
        self.held = match (refused, run.outcome) {
            (Some(class), _) => {
                let wait = self.held.as_ref().map_or(interval, |held| held.wait * 2).min(LONGEST);
                // Half an interval more, so that as many due runs are held as the wait has intervals, whatever the jitter;
                // at the end of the hour it is half an interval less, so that the run after an hour is one that tries.
                let half = interval / 2;
                let until = clock::now() + (wait + half).min(LONGEST.saturating_sub(half));
                Some(HeldLogin { class, until, wait, login })
            }
            (None, RunOutcome::Passed) => None,
            // The run ended before the login.
            (None, _) => self.held.take(),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::SecretSource;

    fn run(class: Option<ErrorType>, held: bool) -> Run {
        let mut run: Run = serde_json::from_str(imaptrace_testkit::FAILED_RUN).unwrap();
        run.error_type = class;
        run.outcome = if class.is_some() { RunOutcome::Failed } else { RunOutcome::Passed };
        run.auth_backoff = held.then_some(true);
        run
    }

    const MINUTE: Duration = Duration::from_secs(60);

    fn account(user: &str) -> Account {
        Account {
            alias: "default".into(),
            user: UserName::new(user).unwrap(),
            master_user: None,
            password: SecretSource::Env("X".into()),
            own: None,
        }
    }

    /// One due run a minute: which of them try to log in, when every try is refused.
    async fn tries(minutes: u32, login: impl Fn(u32) -> (&'static str, &'static str)) -> Vec<u32> {
        tries_of(minutes, |minute| {
            let (user, secret) = login(minute);
            (account(user), Auth::Auto, None, secret)
        })
        .await
    }

    async fn tries_of(
        minutes: u32,
        login: impl Fn(u32) -> (Account, Auth, Option<&'static str>, &'static str),
    ) -> Vec<u32> {
        let mut backoff = LoginBackoff::default();
        let mut tried = Vec::new();
        for minute in 0..minutes {
            let (account, auth, certificate, secret) = login(minute);
            let hold = backoff.hold(&account, auth, certificate, Some(Secret::new(secret.into())));
            if hold.is_none() {
                tried.push(minute);
            }
            backoff.record(&run(Some(ErrorType::AuthFailed), hold.is_some()), MINUTE);
            tokio::time::advance(MINUTE).await;
        }
        tried
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_login_is_tried_again_after_1_2_4_intervals_and_at_most_an_hour() {
        assert_eq!(tries(200, |_| ("me", "wrong")).await, [0, 2, 5, 10, 19, 36, 69, 129, 189]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_secret_is_tried_at_once() {
        assert_eq!(tries(9, |minute| ("me", if minute < 7 { "wrong" } else { "new" })).await, [0, 2, 5, 7]);
    }

    #[tokio::test(start_paused = true)]
    async fn another_user_with_the_same_secret_is_tried_at_once() {
        assert_eq!(tries(9, |minute| (if minute < 7 { "me" } else { "you" }, "wrong")).await, [0, 2, 5, 7]);
    }

    #[tokio::test(start_paused = true)]
    async fn another_master_user_mechanism_or_certificate_is_tried_at_once() {
        let master = |minute| UserName::new(if minute < 7 { "one" } else { "two" });
        let by_master = |minute| (Account { master_user: master(minute), ..account("me") }, Auth::Auto, None, "wrong");
        assert_eq!(tries_of(9, by_master).await, [0, 2, 5, 7]);
        let auth = |minute| if minute < 7 { Auth::Auto } else { Auth::Plain };
        assert_eq!(tries_of(9, |minute| (account("me"), auth(minute), None, "wrong")).await, [0, 2, 5, 7]);
        let shown = |minute| Some(if minute < 7 { "AB" } else { "CD" });
        assert_eq!(tries_of(9, |minute| (account("me"), Auth::External, shown(minute), "")).await, [0, 2, 5, 7]);
    }

    #[test]
    fn only_an_answer_to_the_login_that_blames_its_credentials_holds_the_next_one_back() {
        for class in ErrorType::ALL.iter().copied() {
            for step in ["LOGIN", "AUTHENTICATE", "LIST", "LOGOUT"] {
                let mut backoff = LoginBackoff::default();
                backoff.hold(&account("me"), Auth::Auto, None, Some(Secret::new("x".into())));
                let mut run = run(Some(class), false);
                run.failed_step = Some(step.into());
                backoff.record(&run, MINUTE);
                let refused =
                    ["auth_failed", "auth_expired", "auth_privacy", "auth_protocol"].contains(&class.as_str());
                assert_eq!(
                    backoff.held.is_some(),
                    refused && !step.starts_with("LI") && step != "LOGOUT",
                    "{class} {step}"
                );
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_login_that_works_ends_it_and_a_dead_server_changes_nothing() {
        let mut backoff = LoginBackoff::default();
        let (me, secret) = (account("me"), || Some(Secret::new("x".into())));
        backoff.hold(&me, Auth::Auto, None, secret());
        backoff.record(&run(Some(ErrorType::AuthFailed), false), MINUTE);
        tokio::time::advance(MINUTE * 2).await;
        assert_eq!(backoff.hold(&me, Auth::Auto, None, secret()), None);
        backoff.record(&run(Some(ErrorType::ConnectRefused), false), MINUTE);
        backoff.hold(&me, Auth::Auto, None, secret());
        backoff.record(&run(Some(ErrorType::AuthFailed), false), MINUTE);
        assert_eq!(backoff.held.as_ref().map(|held| held.wait), Some(MINUTE * 2));
        backoff.record(&run(None, false), MINUTE);
        assert!(backoff.held.is_none());
    }
}
