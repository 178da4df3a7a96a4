//! Where a command that logs in once gets its password: a flag, the URL, the default variable, or a prompt on the terminal.
//!
//! Everything else on the command line is checked before a question is asked. The value itself is fetched here too, for a
//! secret that cannot be had is wrong usage of such a command, and no run. Called by `probe` and `canary`.

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
    plan::{Auth, Target},
    secret::{SecretError, SecretSource},
};

/// Where the password is unless a flag or SERVER has it.
const VARIABLE: &str = "IMAPTRACE_PASSWORD";
/// A terminal passes no longer line on to a program (`N_TTY_BUF_SIZE`).
const LONGEST_LINE: usize = 4096;

/// The password's place when neither a flag nor SERVER has it.
pub(super) enum PasswordSource {
    /// It has one, or none is needed, or there is none.
    Elsewhere,
    /// The default variable.
    Variable(SecretSource),
    /// A prompt on the terminal.
    Terminal,
}

impl PasswordSource {
    /// Looks for it, without a prompt yet.
    pub(super) fn find(args: &TargetArgs) -> Result<Self, String> {
        let in_url = config::url::parse(&args.server).is_ok_and(|url| url.password.is_some());
        if in_url && args.password_exact && !is_named(args) {
            return Err(
                "error: --password-exact: it is about a file, a variable or a command, and the password stands \
                        in the URL\n  help: give it with --password-file, --password-env or --password-command"
                    .to_owned(),
            );
        }
        if is_named(args) || in_url || args.auth.as_deref() == Some(Auth::External.as_str()) {
            return Ok(Self::Elsewhere);
        }
        if std::env::var_os(VARIABLE).is_some() {
            let variable = SecretSource::Env(VARIABLE.to_owned());
            let exact = args.password_exact;
            return Ok(Self::Variable(if exact { SecretSource::Exact(Box::new(variable)) } else { variable }));
        }
        Ok(if io::stdin().is_terminal() { Self::Terminal } else { Self::Elsewhere })
    }

    /// What the configuration is read with; a stand-in for what is still to be typed.
    pub(super) fn source(&self) -> Option<SecretSource> {
        match self {
            Self::Elsewhere => None,
            Self::Variable(source) => Some(source.clone()),
            Self::Terminal => Some(SecretSource::Given(Secret::new(String::new()))),
        }
    }

    /// Whether it is asked for at a prompt.
    pub(super) fn is_asked_for(&self) -> bool {
        matches!(self, Self::Terminal)
    }
}

/// Whether a flag names the password's place.
pub(super) fn is_named(args: &TargetArgs) -> bool {
    args.password_file.is_some() || args.password_env.is_some() || args.password_command.is_some()
}

/// What is wrong with a secret, in words of the command line.
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

/// Asks for the password until there is one, and gives it to the target. Ctrl-D gives up. The caller has caught the signals: dropped at one of them, this
/// gives the terminal its echo back.
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
    let quiet = Quiet::new(terminal.try_clone()?)?;
    // A thread that still reads when the process ends is no matter.
    let typing = tokio::task::spawn_blocking(move || read(&terminal, &question));
    let typed = typing.await.map_err(io::Error::other)?;
    drop(quiet);
    typed
}

/// Asks again for as long as nothing is typed.
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

/// What was typed, without the line end and otherwise as it is.
fn read_line(mut terminal: &File) -> io::Result<Zeroizing<Vec<u8>>> {
    // A line comes whole, and is never moved to make room.
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
    line.truncate(length);
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    Ok(line)
}

/// A terminal that does not show what is typed, but for line ends, until this is dropped.
struct Quiet {
    terminal: File,
    before: Termios,
}

impl Quiet {
    fn new(terminal: File) -> io::Result<Self> {
        let before = tcgetattr(&terminal)?;
        let mut quiet = before.clone();
        quiet.local_flags.remove(LocalFlags::ECHO);
        quiet.local_flags.insert(LocalFlags::ECHONL | LocalFlags::ICANON | LocalFlags::ISIG);
        tcsetattr(&terminal, SetArg::TCSADRAIN, &quiet)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // There is nothing else to be done about a terminal that has gone.
        let _ = tcsetattr(&self.terminal, SetArg::TCSADRAIN, &self.before);
    }
}
