//! `imaptrace demo`: the built-in server, one run, the waterfall, where to go next.

use imaptrace_imap::Secret;
use imaptrace_record::RunOutcome;
use tokio::sync::watch;

use super::{
    exit_code::{FAILED, PASSED},
    output::Output,
    probe::{once, read_files},
};
use crate::{
    config::{self, Flag, Probe},
    demo::{self, DemoServer, DemoSettings},
    net::Family,
    plan::Dns,
    probe::Prober,
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
        server: format!("imaps://{}", server.address()),
        flags: vec![flag("user", user), flag("ca_file", server.ca_file().display().to_string())],
        password: Some(SecretSource::Given(password)),
        ..Probe::default()
    };
    let target = config::probe(&request).map_err(|problems| problems.to_string()).and_then(|config| {
        let mut target = config.targets.into_iter().next().ok_or("error: no target")?;
        "demo".clone_into(&mut target.name);
        read_files(target)
    });
    let target = match target {
        Ok(target) => target,
        Err(problem) => {
            output.errors(&problem);
            return FAILED;
        }
    };
    // Without a log there are no notes; the run is the same.
    drop(logs::init(&LogSettings { filter: Some("warn".to_owned()), ..LogSettings::default() }));
    let (_keep, cancel) = watch::channel(false);
    let run = once(&Prober::new(Dns::default()), &target, Family::Any, None, (None, cancel), None).await;
    let Some(run) = run else { return FAILED };
    output.print(&terminal::waterfall(&run, output.style));
    if run.outcome != RunOutcome::Passed {
        return FAILED;
    }
    output.print(&format!("\n{}", demo::next_steps()));
    PASSED
}
