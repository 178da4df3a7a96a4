//! Programs that print a secret. Called by [`source`](super::source).

use std::{ffi::OsString, process::Stdio, time::Duration};

use tokio::io::AsyncReadExt as _;

use super::{
    LARGEST, Secret, SecretError,
    form::{Extent, take},
    intake::Intake,
};

const COMMAND_DEADLINE: Duration = Duration::from_secs(10);

pub(super) async fn run_command(
    argv: &[String],
    child_env: &[(OsString, Option<OsString>)],
    exact: bool,
) -> Result<Secret, SecretError> {
    let program = argv.first().cloned().unwrap_or_default();
    let failed = |problem: String| SecretError::Command { program: program.clone(), problem };
    let mut command = tokio::process::Command::new(&program);
    command
        .args(argv.iter().skip(1))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    for (name, value) in child_env {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let mut child = command.spawn().map_err(|error| failed(format!("cannot be started: {error}")))?;
    let mut value = Intake::new();
    let run = async {
        if let Some(mut stdout) = child.stdout.take() {
            loop {
                match stdout.read(value.room()).await? {
                    0 => break,
                    count => value.took(count),
                }
            }
        }
        child.wait().await
    };
    let status = tokio::time::timeout(COMMAND_DEADLINE, run)
        .await
        .map_err(|_| failed(format!("did not end within {} s", COMMAND_DEADLINE.as_secs())))?
        .map_err(|error| failed(format!("cannot be read: {error}")))?;
    // One that says more than is read may have ended for that.
    if value.bytes().len() <= LARGEST && !status.success() {
        return Err(failed(format!("ended with {status}")));
    }
    take(value.bytes(), Extent::FirstLine, exact, || format!("command {program:?}"))
}
