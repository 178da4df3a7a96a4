//! Where a command that logs in once gets its password: a flag, the URL, the default variable, or a prompt on the terminal.
//!
//! Everything else on the command line is checked before the prompt. Called by `probe` and `canary`.

use std::{
    fs::File,
    io::{self, IsTerminal as _, Read as _, Write as _},
};

use imaptrace_imap::Secret;
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use super::args::TargetArgs;
use crate::{
    config,
    plan::{Auth, Choice as _, Target},
    secret::{SecretError, SecretSource},
};

/// The default variable.
const VARIABLE: &str = "IMAPTRACE_PASSWORD";
/// The longest line of a terminal (`N_TTY_BUF_SIZE`).
const LONGEST_LINE: usize = 4096;

/// The source of the password without a flag and SERVER, and whether it is a placeholder for the prompt.
pub(super) fn find(server: &str, args: &TargetArgs) -> Result<(Option<SecretSource>, bool), String> {
    let in_url = config::url::parse(server).is_ok_and(|url| url.password.is_some());
    if in_url && args.password_exact && !is_named(args) {
        return Err("error: --password-exact: it is about a file, a variable or a command, and the URL contains \
                    the password\n  help: give it with --password-file, --password-env or --password-command"
            .to_owned());
    }
    if is_named(args) || in_url || args.auth.as_deref() == Some(Auth::External.word()) {
        return Ok((None, false));
    }
    if std::env::var_os(VARIABLE).is_some() {
        let variable = SecretSource::Env(VARIABLE.to_owned());
        let source = if args.password_exact { SecretSource::Exact(Box::new(variable)) } else { variable };
        return Ok((Some(source), false));
    }
    let asks = io::stdin().is_terminal();
    Ok((asks.then(|| SecretSource::Given(Secret::new(String::new()))), asks))
}

/// Whether a flag names the password's place.
pub(super) fn is_named(args: &TargetArgs) -> bool {
    args.password_file.is_some() || args.password_env.is_some() || args.password_command.is_some()
}

/// The problem with a secret, by the name of the option that it comes from.
pub(super) fn problem(error: &SecretError, source: &SecretSource) -> String {
    let place = match source.plain().0 {
        SecretSource::File { .. } => "--password-file",
        SecretSource::Env(name) if name == VARIABLE => VARIABLE,
        SecretSource::Env(_) => "--password-env",
        SecretSource::Command(_) => "--password-command",
        _ => "SERVER",
    };
    format!("error: {place}: {error}")
}

/// Asks for the password until it is typed or Ctrl-D. When this future is dropped, the terminal shows its input again.
pub(super) async fn ask(target: &mut Target) -> Result<(), String> {
    let question = format!("Password for the mailbox on {}: ", target.endpoint.host);
    let password = typed(question).await.map_err(|error| {
        format!(
            "error: cannot ask for the password: {error}\n  help: give it with --password-file, --password-env or \
             --password-command"
        )
    })?;
    for account in &mut target.accounts {
        account.password = SecretSource::Given(password.clone());
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "before anything is probed")]
async fn typed(question: String) -> io::Result<Secret> {
    let terminal = File::options().read(true).write(true).open("/dev/tty")?;
    let echo_off = EchoOff::new(terminal.try_clone()?)?;
    // The end of the process does not wait for this thread.
    let typing = tokio::task::spawn_blocking(move || read(&terminal, &question));
    let typed = typing.await.map_err(io::Error::other)?;
    drop(echo_off);
    typed
}

/// Asks until something is typed.
fn read(mut terminal: &File, question: &str) -> io::Result<Secret> {
    loop {
        terminal.write_all(question.as_bytes())?;
        let line = read_line(terminal)?;
        if line.is_empty() {
            terminal.write_all(b"the password is empty: type it again, or Ctrl-D to give up\n")?;
            continue;
        }
        let text = std::str::from_utf8(&line).map_err(|_| io::Error::other("what was typed is not UTF-8"))?;
        return Ok(Secret::new(text.to_owned()));
    }
}

/// The typed line, without its line end.
fn read_line(mut terminal: &File) -> io::Result<Zeroizing<Vec<u8>>> {
    // One buffer for the longest line: a larger one would leave a copy of the password behind.
    let mut line = Zeroizing::new(vec![0; LONGEST_LINE]);
    let length = loop {
        match terminal.read(&mut line) {
            Ok(length) => break length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    };
    if length == 0 {
        return Err(io::Error::other("nothing was typed"));
    }
    let end = length - usize::from(line[length - 1] == b'\n');
    line.truncate(end);
    Ok(line)
}

/// A terminal that shows nothing of its input but line ends, until this is dropped.
struct EchoOff {
    terminal: File,
    before: Termios,
}

impl EchoOff {
    fn new(terminal: File) -> io::Result<Self> {
        let before = tcgetattr(&terminal)?;
        let mut quiet = before.clone();
        quiet.local_flags.remove(LocalFlags::ECHO);
        quiet.local_flags.insert(LocalFlags::ECHONL | LocalFlags::ICANON | LocalFlags::ISIG);
        tcsetattr(&terminal, SetArg::TCSADRAIN, &quiet)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for EchoOff {
    fn drop(&mut self) {
        // It fails when the terminal has gone.
        let _ = tcsetattr(&self.terminal, SetArg::TCSADRAIN, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, Command, FromArgMatches as _};

    use super::*;

    fn args(flags: &[&str]) -> TargetArgs {
        let command = TargetArgs::augment_args(Command::new("imaptrace"));
        let words = ["imaptrace", "--user", "probe"].iter().chain(flags);
        TargetArgs::from_arg_matches(&command.get_matches_from(words)).unwrap()
    }

    #[test]
    fn each_of_three_flags_names_the_place_of_the_password() {
        for flag in ["--password-file", "--password-env", "--password-command"] {
            let args = args(&[flag, "place"]);
            assert!(is_named(&args), "{flag}");
            assert!(matches!(find("imap.example.org", &args), Ok((None, false))), "{flag}");
        }
        assert!(!is_named(&args(&[])));
    }
}
