//! `imaptrace baseline accept`: leaves a request for the agent in its state directory, and waits until the agent has taken it.
//!
//! The agent does the rest (`agent::baseline_requests`); without one that runs, it does so at its start.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use imaptrace_record::escape;

use super::{
    args::AcceptArgs,
    exit_code::{FAILED, PASSED, USAGE},
    output::Output,
    selection,
};
use crate::{agent::AcceptRequest, blocking, clock, config::Config, state::AgentDirectory};

/// The time limit of each call to the state directory.
const STATE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a running agent has to take the request; it scans the directory every two seconds.
const TAKEN_WITHIN: Duration = Duration::from_secs(6);
const EVERY: Duration = Duration::from_millis(100);

pub(super) async fn accept(args: AcceptArgs, output: &mut Output) -> u8 {
    let config = match selection::load(&args.config, Vec::new()) {
        Ok(config) => config,
        Err(problems) => {
            output.errors(&problems.to_string());
            return if problems.unanswered { FAILED } else { USAGE };
        }
    };
    let prepared = request(&config, &args).and_then(|request| Ok((request, directory(&config)?)));
    let (request, directory) = match prepared {
        Ok(prepared) => prepared,
        Err(problem) => {
            output.error(&problem);
            return USAGE;
        }
    };
    match submit(&request, directory).await {
        Ok(Outcome::Taken) => {
            output.print(&format!("the agent has taken the present of {} as usual\n", shown(&request)));
            PASSED
        }
        Ok(Outcome::Left(path)) => {
            output.print(&format!(
                "no agent is running: the next one takes the present of {} as usual when it starts; remove {} to withdraw it\n",
                shown(&request),
                path.display()
            ));
            PASSED
        }
        Ok(Outcome::NotTaken(path)) => {
            output.error(&format!(
                "an agent is running and has not taken the request within {} s: {}\n  help: its log may have the reason; it \
                 is taken when the agent can, and at its next start; remove the file to withdraw it",
                TAKEN_WITHIN.as_secs(),
                path.display()
            ));
            FAILED
        }
        Err(error) => {
            let help = match error.kind() {
                io::ErrorKind::NotFound => "start the agent with this configuration first: it has no baselines yet",
                io::ErrorKind::PermissionDenied => "run this as the agent's user, or as root",
                _ => "is the disk there, writable, and not full?",
            };
            output.error(&format!("cannot leave the request for the agent: {error}\n  help: {help}"));
            FAILED
        }
    }
}

/// The request that the argument stands for.
fn request(config: &Config, args: &AcceptArgs) -> Result<AcceptRequest, String> {
    let (target, account) = selection::find(config, &args.config, &args.name)?;
    Ok(AcceptRequest { target: target.name.clone(), account: account.map(|account| account.alias.clone()) })
}

fn directory(config: &Config) -> Result<&Path, String> {
    config.state.dir.as_deref().ok_or_else(|| {
        "there is no state directory: the baselines are in the agent's memory alone\n  help: restart the agent, which then \
         computes them anew; or set `dir` in [state]. An agent of systemd has its directory from the unit: give it here too, \
         STATE_DIRECTORY=/var/lib/imaptrace"
            .to_owned()
    })
}

fn shown(request: &AcceptRequest) -> String {
    let target = escape(&request.target);
    request.account.as_ref().map_or_else(|| target.clone(), |account| format!("{target}/{}", escape(account)))
}

/// What became of a request.
enum Outcome {
    Taken,
    /// No agent runs; this file is the request.
    Left(PathBuf),
    /// An agent runs and has not taken this file.
    NotTaken(PathBuf),
}

async fn submit(request: &AcceptRequest, path: &Path) -> io::Result<Outcome> {
    let request = request.clone();
    let submitted = blocking::with_path(path, clock::now() + STATE_TIMEOUT, move |path| {
        let AgentDirectory { directory, in_use } = AgentDirectory::find(path)?;
        let name = request.submit(&directory)?;
        io::Result::Ok((directory, in_use, name))
    });
    let (directory, in_use, name) = submitted.await.map_err(io::Error::other)??;
    let file = directory.at(&name);
    if !in_use {
        return Ok(Outcome::Left(file));
    }
    let end = clock::now() + TAKEN_WITHIN;
    let directory = std::sync::Arc::new(directory);
    while clock::now() < end {
        tokio::time::sleep(EVERY).await;
        let (looked, name) = (directory.clone(), name.clone());
        // After a timeout the state is unknown: the request counts as not taken.
        let looked = blocking::with_path(path, end, move |_| looked.entry(&name)).await;
        if let Ok(entry) = looked
            && entry?.is_none()
        {
            return Ok(Outcome::Taken);
        }
    }
    Ok(Outcome::NotTaken(file))
}
