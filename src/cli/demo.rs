//! `imaptrace demo`: the built-in server, one run, the waterfall, where to go next.

use imaptrace_imap::Secret;
use imaptrace_record::RunOutcome;
use tokio::sync::watch;

use super::{
    exit_code::{FAILED, PASSED},
    output::Output,
    probe::single,
};
use crate::{
    agent,
    config::{self, Flag, Probe},
    demo::{self, DemoServer, DemoSettings},
    probe::{Job, Prober, TargetContext},
    secret::SecretSource,
    telemetry::logs::{self, LogSettings},
    terminal,
};

pub(super) async fn run(output: &mut Output) -> u8 {
    let settings = DemoSettings::default();
    let (user, password) = (settings.user.clone(), Secret::new(settings.password.clone()));
    let server = match DemoServer::start(settings).await {
        Ok(server) => server,
        Err(error) => {
            output.error(&format!("the built-in server cannot start: {error}"));
            return FAILED;
        }
    };
    let flag = |key: &str, value: String| Flag { key: format!("target.{key}"), value, name: key.to_owned() };
    let request = Probe {
        not_utf8: Vec::new(),
        server: format!("imaps://{}", server.address()),
        flags: vec![flag("user", user), flag("ca_file", server.ca_file().display().to_string())],
        environment: Vec::new(),
        password: Some(SecretSource::Given(password)),
    };
    let mut target = match config::probe(&request).map(single) {
        Ok(Some(target)) => target,
        Ok(None) => return FAILED,
        Err(problems) => {
            output.errors(&problems.to_string());
            return FAILED;
        }
    };
    "demo".clone_into(&mut target.name);
    let prepared = match TargetContext::new(target) {
        Ok(prepared) => prepared,
        Err(error) => {
            output.error(&error.to_string());
            return FAILED;
        }
    };
    // Without a log there are no notes; the run is the same.
    drop(logs::init(&LogSettings { filter: Some("warn".to_owned()), ..LogSettings::default() }));
    let prober = Prober::new(crate::plan::Dns::default());
    let (_keep, cancel) = watch::channel(false);
    let Some(account) = prepared.target().accounts.first() else { return FAILED };
    let secret = account.password.load().await;
    let run = agent::run_once(&prober, &prepared.target().journey, None, cancel, |ids| Job {
        target: &prepared,
        account,
        family: crate::net::Family::Any,
        ids,
        start_lag: None,
        secret,
        hold_login: None,
    })
    .await;
    output.print(&terminal::waterfall(&run, output.style()));
    if run.outcome != RunOutcome::Passed {
        return FAILED;
    }
    output.print(&format!("\n{}", demo::next_steps()));
    PASSED
}
