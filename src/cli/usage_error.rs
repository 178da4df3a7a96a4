//! Help, version, and the message about an invalid command line: clap's text without what may be a password, and with a tip
//! for the options of other programs. Called by `main` and, for errors that are found later, by `probe`.

use std::ffi::OsString;

use clap::{
    builder::StyledStr,
    error::{ContextKind, ContextValue, ErrorKind},
};

use super::{
    exit_code::{NAGIOS_UNKNOWN, PASSED, USAGE},
    output::Output,
};
use crate::terminal::ColorChoice;

/// Prints clap's message, in the form of a plug-in with `--output nagios`, and returns the exit code.
pub(super) fn report_usage_error(error: clap::Error, stdout_is_closed: bool) -> u8 {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let command = arguments.get(1).and_then(|command| command.to_str()).unwrap_or_default();
    let tip = tip(&error, command);
    let mut error = redacted(error, command);
    if is_password(&error, command) {
        error = without_password(&error);
    } else if let Some(tip) = tip {
        // One tip: clap's is for a misspelt flag of ours, but this one is of another program.
        error.remove(ContextKind::SuggestedArg);
        error.remove(ContextKind::SuggestedSubcommand);
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![StyledStr::from(tip)]));
    }
    let nagios = arguments.windows(2).any(|pair| pair[0] == "--output" && pair[1] == "nagios")
        || arguments.iter().any(|argument| argument == "--output=nagios");
    let text = error.render();
    if error.use_stderr() && nagios {
        let mut output = Output::new(ColorChoice::Never, stdout_is_closed);
        let code = unknown(&text.to_string(), &mut output);
        return output.conclude(code, true);
    }
    let mut output = Output::new(ColorChoice::Auto, stdout_is_closed);
    let style = if error.use_stderr() { output.error_style } else { output.style };
    let text = if style.colour { text.ansi().to_string() } else { text.to_string() };
    if error.use_stderr() {
        output.errors(&text);
        return USAGE;
    }
    output.print(&text);
    output.conclude(PASSED, nagios)
}

/// Wrong usage in the form of a plug-in: the first error with its lines joined, and the tip.
pub(super) fn unknown(problem: &str, output: &mut Output) -> u8 {
    let start = problem.find("error: ").map_or(0, |at| at + "error: ".len());
    let lines = problem.get(start..).unwrap_or_default().lines().map(str::trim);
    let first = lines.clone().take_while(|line| !line.is_empty() && !line.starts_with("error: "));
    let tip = lines.skip_while(|line| !line.is_empty()).find(|line| line.starts_with("tip: "));
    let words = first.chain(tip).collect::<Vec<_>>().join(" ").replace(" help: ", "; ");
    output.print(&format!("IMAP UNKNOWN - {}\n", words.replace('|', "/")));
    NAGIOS_UNKNOWN
}

/// Whether the password itself was given to a command that logs in, as other programs accept it.
fn is_password(error: &clap::Error, command: &str) -> bool {
    matches!(command, "probe" | "canary")
        && error.kind() == ErrorKind::UnknownArgument
        && matches!(error.get(ContextKind::InvalidArg), Some(ContextValue::String(flag)) if flag == "--password")
}

/// The alternatives; clap would suggest the flag with the most similar name.
fn without_password(error: &clap::Error) -> clap::Error {
    clap::Error::raw(
        error.kind(),
        "there is no --password: all who list this machine's processes would see it\n\n  \
         tip: --password-file FILE, --password-env NAME or --password-command COMMAND, or the variable IMAPTRACE_PASSWORD\n",
    )
}

/// The same without what may be a password: a misplaced URL, or a surplus word of a command that takes no files.
fn redacted(mut error: clap::Error, command: &str) -> clap::Error {
    let takes_file = ["agent", "baseline", "check", "replay", "show"].contains(&command);
    let hide = |kind: ContextKind, text: &str| {
        text.contains('@') || (kind == ContextKind::InvalidArg && !takes_file && !text.starts_with(['-', '<']))
    };
    let mut hidden = Vec::new();
    for (kind, value) in error.context() {
        match value {
            ContextValue::String(text) if hide(kind, text) => hidden.push(kind),
            ContextValue::Strings(texts) if texts.iter().any(|text| hide(kind, text)) => hidden.push(kind),
            _ => {}
        }
    }
    for kind in hidden {
        error.insert(kind, ContextValue::String("(not shown: it may hold a password)".to_owned()));
    }
    error
}

/// What to write instead of another program's option.
fn tip(error: &clap::Error, command: &str) -> Option<String> {
    let kind = match error.kind() {
        ErrorKind::UnknownArgument => ContextKind::InvalidArg,
        ErrorKind::InvalidSubcommand => ContextKind::InvalidSubcommand,
        _ => return None,
    };
    let Some(ContextValue::String(word)) = error.get(kind) else { return None };
    let is_option = word.starts_with('-');
    let known = |tips: Tips| tips.iter().find(|(flags, _)| flags.contains(&word.as_str())).map(|(_, tip)| *tip);
    let tip = match (kind, command) {
        (ContextKind::InvalidSubcommand, _) if word == "version" => Some("imaptrace --version"),
        // No command has such a character, and the name of every server has.
        (ContextKind::InvalidSubcommand, _) if word.contains(['.', ':', '/', '@']) => Some("imaptrace probe SERVER"),
        (ContextKind::InvalidSubcommand, _) => None,
        (_, "probe") => known(FOR_PROBE).or_else(|| known(FOR_LOGIN)),
        (_, "canary") => known(FOR_FILL).or_else(|| known(FOR_LOGIN)),
        (_, "show") => known(FOR_SHOW),
        (_, "agent" | "check") if !is_option => Some("the file goes with --config FILE"),
        _ => None,
    };
    tip.map(str::to_owned)
}

/// Options of other programs, and what to write instead.
type Tips = &'static [(&'static [&'static str], &'static str)];

/// The options of curl, openssl, plug-ins and mail clients for what all commands that log in have.
const FOR_LOGIN: Tips = &[
    (&["--port", "-p", "-P"], "the port is part of SERVER: imaps://HOST:PORT, or HOST:PORT"),
    (&["--host", "--hostname", "--server", "-H", "--url"], "SERVER is an argument without a flag"),
    (&["--starttls", "--start-tls", "-starttls"], "--security starttls, or imap://HOST as SERVER"),
    (&["--tls", "--ssl", "--imaps", "-S"], "--security tls, which is the default"),
    (
        &["--no-tls", "--no-ssl", "--plain", "--plaintext", "--cleartext"],
        "--security none, with imap://HOST or HOST as SERVER",
    ),
    (&["--username", "--login", "-l"], "--user NAME"),
    (
        &["--pass", "--passwd", "--password-stdin"],
        "--password-file FILE, --password-env NAME or --password-command COMMAND",
    ),
    (&["-k", "--no-verify", "--no-check-certificate"], "--insecure"),
    (&["--cacert", "--ca", "--cafile", "-CAfile"], "--ca-file FILE"),
    (&["--cert", "-E"], "--client-cert FILE and --client-key FILE"),
    (&["-4", "--ipv4"], "--address v4"),
    (&["-6", "--ipv6"], "--address v6"),
    (&["--folder", "--mbox", "-m"], "--mailbox NAME"),
];

const FOR_PROBE: Tips = &[
    (&["--json", "-j"], "--output json"),
    (&["--nagios"], "--output nagios"),
    (&["--text"], "--output text, which is the default"),
    (&["--format", "-o"], "--output text, json or nagios"),
    (&["-n"], "--newest N for the number of messages, --count N for the number of runs"),
    (&["--runs", "--repeat"], "--count N"),
    (&["--interval", "-i"], "--every TIME, such as 10s"),
    (&["-t"], "--timeout TIME, such as 10s"),
    (&["--warning"], "-w SECONDS"),
    (&["--critical"], "-c SECONDS"),
    (&["--messages"], "--newest N"),
];

const FOR_SHOW: Tips = &[
    (&["--json", "-j"], "--output json"),
    (&["--markdown", "--md"], "--output markdown"),
    (&["--list", "-l"], "--output list"),
    (&["--format", "-o"], "--output text, list, json or markdown"),
    (&["-n", "--tail", "--count", "--limit"], "--last N"),
    (&["--id", "--trace"], "--trace-id ID"),
    (&["--errors", "--failures"], "--failed"),
    (&["--state-dir", "--dir", "--config"], "the state directory is an argument without a flag"),
];

const FOR_FILL: Tips = &[(&["-n", "--count", "--newest"], "--messages N")];

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::{super::args::Cli, *};

    fn tip_of(arguments: &[&str]) -> Option<String> {
        let error = Cli::try_parse_from([&["imaptrace"], arguments].concat()).unwrap_err();
        tip(&error, arguments[0])
    }

    #[test]
    fn flags_of_other_programs_lead_to_ours() {
        for (arguments, part) in [
            (&["probe", "--json", "host"][..], "--output json"),
            (&["probe", "host", "--port", "143"], "imaps://HOST:PORT"),
            (&["probe", "host", "--port=143"], "imaps://HOST:PORT"),
            (&["probe", "host", "-p143"], "imaps://HOST:PORT"),
            (&["probe", "host", "-n", "5"], "--count N"),
            (&["probe", "host", "-n5"], "--newest N"),
            (&["probe", "host", "--starttls"], "--security starttls"),
            (&["probe", "-H", "host"], "SERVER is an argument"),
            (&["canary", "fill", "one", "-n", "5"], "--messages N"),
            (&["canary", "fill", "one", "--port", "5"], "imaps://HOST:PORT"),
            (&["check", "imaptrace.toml"], "--config FILE"),
            (&["agent", "imaptrace.toml"], "--config FILE"),
            (&["show", "a", "-n", "5"], "--last N"),
            (&["mail.example.org"], "imaptrace probe SERVER"),
            (&["version"], "--version"),
        ] {
            let tip = tip_of(arguments);
            assert!(tip.as_ref().is_some_and(|tip| tip.contains(part)), "{arguments:?}: {tip:?}");
        }
        assert_eq!(tip_of(&["probe", "--no-such-flag", "host"]), None);
        assert_eq!(tip_of(&["nonsense"]), None);
    }

    #[test]
    fn no_tip_is_for_a_flag_that_we_have_and_every_flag_in_a_tip_is_ours() {
        let flags = |path: &[&str]| {
            let mut root = Cli::command();
            root.build();
            let command = path.iter().fold(&root, |command, name| command.find_subcommand(name).unwrap()).clone();
            let long = command.get_arguments().filter_map(|flag| flag.get_long().map(|name| format!("--{name}")));
            let short = command.get_arguments().filter_map(|flag| flag.get_short().map(|name| format!("-{name}")));
            long.chain(short).collect::<Vec<_>>()
        };
        for (path, lists) in [
            (&["probe"][..], &[FOR_PROBE, FOR_LOGIN][..]),
            (&["canary", "fill"], &[FOR_FILL, FOR_LOGIN]),
            (&["show"], &[FOR_SHOW]),
        ] {
            let ours = flags(path);
            for (elsewhere, tip) in lists.iter().copied().flatten() {
                for flag in *elsewhere {
                    assert!(!ours.contains(&(*flag).to_owned()), "{path:?} has {flag}");
                }
                let words = tip.split([' ', ',', ':']).filter(|word| word.starts_with('-'));
                for word in words.filter(|word| *word != "--config") {
                    assert!(ours.contains(&word.to_owned()), "{path:?} has no {word}: {tip}");
                }
            }
        }
    }
}
