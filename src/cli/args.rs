//! The command line. One definition gives parser, help and completions.

#![expect(clippy::doc_markdown, reason = "these comments are the help text that users read in a terminal")]
#![allow(rustdoc::broken_intra_doc_links, reason = "and brackets mean there what they mean in every usage line")]

use std::path::{Path, PathBuf};

use clap::{
    Args, Parser, Subcommand, ValueEnum,
    builder::{PossibleValue, PossibleValuesParser},
};

use crate::{plan::Journey, terminal::ColorChoice};

/// The configuration that packages install.
pub(super) const CONFIGURATION: &str = "/etc/imaptrace/imaptrace.toml";

/// Opens a mailbox as a mail program does and shows, or traces, what each step took.
#[derive(Debug, Parser)]
#[command(name = "imaptrace", version, propagate_version = true, max_term_width = 100)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: CliCommand,
}

#[derive(Debug, Subcommand)]
pub(super) enum CliCommand {
    /// Run against a built-in IMAP server with a slow FETCH and show the waterfall
    Demo,
    /// Probe a server now and show the result
    Probe(Box<ProbeArgs>),
    /// Make mailboxes that are worth probing
    #[command(arg_required_else_help = true)]
    Canary {
        #[command(subcommand)]
        command: CanaryCommand,
    },
    /// Probe all configured targets until SIGTERM
    Agent {
        /// The configuration file
        #[arg(long, value_name = "FILE", default_value = CONFIGURATION)]
        config: PathBuf,
    },
    /// Check a configuration: print all errors, or the effective settings
    Check {
        /// The configuration file; - is standard input
        #[arg(long, value_name = "FILE", default_value = CONFIGURATION)]
        config: PathBuf,
        /// What to print
        #[arg(long, value_enum, value_name = "FORMAT", default_value_t = CheckFormat::Text)]
        output: CheckFormat,
        /// Ask its sources of targets, and probe all its accounts once, if it has no error: as probe --config FILE --all
        #[arg(long)]
        probe: bool,
        /// With --probe: directory with the service's credentials
        #[arg(long, value_name = "DIR", requires = "probe")]
        credentials: Option<PathBuf>,
    },
    /// Print the JSON Schema of the configuration, for editors and other programs
    Schema,
    /// What the agent takes for usual
    #[command(arg_required_else_help = true)]
    Baseline {
        #[command(subcommand)]
        command: BaselineCommand,
    },
    /// Show runs that are kept: in the agent's state directory, or in a file; two are compared
    Show(ShowArgs),
    /// Send runs again: printed with --output json, or kept by the agent when their receiver refused them
    Replay(ReplayArgs),
    /// Print the completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// The account and the login.
#[derive(Debug, Args)]
pub(super) struct TargetArgs {
    /// User name; @ is fine
    #[arg(short, long, value_name = "NAME", help_heading = "Target")]
    pub(super) user: Option<String>,
    /// Who logs in for the user, with a password of their own (Dovecot's master users)
    #[arg(long, value_name = "NAME", help_heading = "Target")]
    pub(super) master_user: Option<String>,
    /// File whose first line is the password
    #[arg(long, value_name = "FILE", help_heading = "Target", conflicts_with_all = ["password_env", "password_command"])]
    pub(super) password_file: Option<String>,
    /// Environment variable with the password [default: IMAPTRACE_PASSWORD, else a prompt]
    #[arg(long, value_name = "NAME", help_heading = "Target", conflicts_with = "password_command")]
    pub(super) password_env: Option<String>,
    /// Program whose first line of output is the password; no shell
    #[arg(long, value_name = "CMD", help_heading = "Target")]
    pub(super) password_command: Option<String>,
    /// Take the password as it is, with a blank or a byte order mark at its start or end
    #[arg(long, help_heading = "Target")]
    pub(super) password_exact: bool,
    /// How to log in [default: auto]
    #[arg(long, value_name = "MECHANISM", value_parser = words(AUTH), help_heading = "Target")]
    pub(super) auth: Option<String>,
    /// What protects the connection [default: by the scheme of SERVER, tls for HOST]
    #[arg(long, value_name = "HOW", value_parser = words(SECURITY), help_heading = "Target")]
    pub(super) security: Option<String>,
    /// PEM file with roots to trust beside the system's
    #[arg(long, value_name = "FILE", help_heading = "Target")]
    pub(super) ca_file: Option<String>,
    /// PEM file with our own certificate and its chain; goes with --client-key
    #[arg(long, value_name = "FILE", help_heading = "Target")]
    pub(super) client_cert: Option<String>,
    /// PEM file with its key, unencrypted, that others cannot read
    #[arg(long, value_name = "FILE", help_heading = "Target")]
    pub(super) client_key: Option<String>,
    /// Name to send and to check in place of HOST
    #[arg(long, value_name = "NAME", help_heading = "Target")]
    pub(super) server_name: Option<String>,
    /// Do not check the server's certificate; an attacker in between can read the password
    #[arg(long, help_heading = "Target")]
    pub(super) insecure: bool,
    /// Do not offer imap by ALPN, for a server that refuses it
    #[arg(long, help_heading = "Target")]
    pub(super) no_alpn: bool,
    /// Addresses to try [default: any]
    #[arg(long, value_name = "WHICH", value_parser = words(ADDRESS), help_heading = "Target")]
    pub(super) address: Option<String>,
}

#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "flags that are given or not")]
pub(super) struct ProbeArgs {
    /// imaps://HOST[:PORT][/MAILBOX], imap://… (STARTTLS), or HOST; with --config: TARGET (all its accounts) or TARGET/ACCOUNT
    #[arg(value_name = "SERVER", required_unless_present = "all")]
    pub(super) names: Vec<String>,

    #[command(flatten)]
    pub(super) target: TargetArgs,

    /// The configuration file of an agent: its targets in place of a SERVER, with their passwords, roots and mailboxes
    #[arg(long, value_name = "FILE", conflicts_with_all = LOGIN_OPTIONS, conflicts_with_all = JOURNEY_OPTIONS, help_heading = "Configuration")]
    pub(super) config: Option<PathBuf>,
    /// All accounts of the configuration [default file: /etc/imaptrace/imaptrace.toml]
    #[arg(long, conflicts_with = "names", conflicts_with_all = LOGIN_OPTIONS, conflicts_with_all = JOURNEY_OPTIONS, help_heading = "Configuration")]
    pub(super) all: bool,
    /// Directory with the service's credentials [default: $CREDENTIALS_DIRECTORY, else that of imaptrace.service]
    #[arg(long, value_name = "DIR", conflicts_with_all = LOGIN_OPTIONS, conflicts_with_all = JOURNEY_OPTIONS, help_heading = "Configuration")]
    pub(super) credentials: Option<PathBuf>,

    /// Mailbox to open [default: INBOX]
    #[arg(long, value_name = "NAME", help_heading = "Journey")]
    pub(super) mailbox: Option<String>,
    /// Open it with EXAMINE, read-only, in place of SELECT
    #[arg(long, help_heading = "Journey")]
    pub(super) examine: bool,
    /// Messages whose headers are fetched [default: 20]
    #[arg(long, value_name = "N", help_heading = "Journey")]
    pub(super) newest: Option<String>,
    /// Which ones [default: newest]
    #[arg(long, value_name = "WHICH", value_parser = words(WINDOW), help_heading = "Journey")]
    pub(super) window: Option<String>,
    /// Whole headers of old messages at random: what a server has to read from its mail store
    #[arg(long, help_heading = "Journey")]
    pub(super) cold: bool,
    /// Journey to run [default: first-load]
    #[arg(long, value_name = "NAME", value_parser = [Journey::FIRST_LOAD], help_heading = "Journey")]
    pub(super) journey: Option<String>,
    /// How commands are tagged [default: span_id]
    #[arg(long, value_name = "STYLE", value_parser = words(TAG), help_heading = "Journey")]
    pub(super) tag: Option<String>,
    /// What the server is sent of the trace, beside the tags [default: off]
    #[arg(long, value_name = "WHAT", value_parser = words(PROPAGATE), help_heading = "Journey")]
    pub(super) propagate: Option<String>,
    /// Time for the whole run [default: 30s]
    #[arg(long, value_name = "TIME", help_heading = "Journey")]
    pub(super) timeout: Option<String>,
    /// Number of runs
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = whole::<1, { u32::MAX }>, help_heading = "Journey")]
    pub(super) count: u32,
    /// Start of a run to the start of the next; 0 is back to back
    #[arg(long, value_name = "TIME", default_value = "1s", help_heading = "Journey")]
    pub(super) every: String,

    /// What is printed
    #[arg(long, value_name = "FORMAT", default_value = "text", help_heading = "Output")]
    pub(super) output: OutputFormat,
    /// With --output nagios: WARNING above this First Loading Latency
    #[arg(short, value_name = "SECONDS", value_parser = seconds, help_heading = "Output")]
    pub(super) warning: Option<f64>,
    /// With --output nagios: CRITICAL above it
    #[arg(short, value_name = "SECONDS", value_parser = seconds, help_heading = "Output")]
    pub(super) critical: Option<f64>,
    /// Print the conversation with the server and its times on standard error, without passwords and mail
    #[arg(short, long, help_heading = "Output")]
    pub(super) verbose: bool,
    /// When to use colour; NO_COLOR overrides it
    #[arg(long, value_name = "WHEN", default_value = "auto", help_heading = "Output")]
    pub(super) color: ColorChoice,

    /// OpenTelemetry receiver, such as http://localhost:4317 [default: $OTEL_EXPORTER_OTLP_ENDPOINT, else no export; with --config no export]
    #[arg(long, value_name = "URL", help_heading = "Telemetry")]
    pub(super) otlp_endpoint: Option<String>,
    /// OTLP protocol [default: grpc for port 4317, else http/protobuf]
    #[arg(long, value_name = "PROTOCOL", value_parser = ["grpc", "http/protobuf"], help_heading = "Telemetry")]
    pub(super) otlp_protocol: Option<String>,
    /// Export metrics beside traces, marked as those of a single run: no alert rule uses them
    #[arg(long, help_heading = "Telemetry")]
    pub(super) metrics: bool,
}

#[derive(Debug, Args)]
pub(super) struct ReplayArgs {
    /// Files with a run a line, packed by gzip or not; - is standard input
    #[arg(required = true, value_name = "FILE")]
    pub(super) files: Vec<PathBuf>,

    /// OpenTelemetry receiver, such as http://localhost:4317 [default: $OTEL_EXPORTER_OTLP_ENDPOINT]
    #[arg(long, value_name = "URL", help_heading = "Telemetry")]
    pub(super) otlp_endpoint: Option<String>,
    /// OTLP protocol [default: grpc for port 4317, else http/protobuf]
    #[arg(long, value_name = "PROTOCOL", value_parser = ["grpc", "http/protobuf"], help_heading = "Telemetry")]
    pub(super) otlp_protocol: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    /// The agent's state directory, or a file with a run a line, packed by gzip or not; - is standard input. With two of them,
    /// or two --trace-id, the second run is compared with the first
    #[arg(required = true, num_args = 1..=2, value_name = "SOURCE")]
    pub(super) sources: Vec<PathBuf>,

    /// Runs of this target alone; * is any text. Can be repeated
    #[arg(long, value_name = "NAME", help_heading = "Runs")]
    pub(super) target: Vec<String>,
    /// Runs of this account alone; * is any text. Can be repeated
    #[arg(long, value_name = "NAME", help_heading = "Runs")]
    pub(super) account: Vec<String>,
    /// The run with this trace id; its first 4 digits or more are enough
    #[arg(long, value_name = "ID", value_parser = trace_id, help_heading = "Runs")]
    pub(super) trace_id: Vec<String>,
    /// Runs that were slow; with --failed also those that failed
    #[arg(long, help_heading = "Runs")]
    pub(super) slow: bool,
    /// Runs that failed or could not be judged
    #[arg(long, help_heading = "Runs")]
    pub(super) failed: bool,
    /// Runs that started at this time or later: 2h (before now), 03:10 (UTC, the last one) or 2026-11-30T03:10:00Z
    #[arg(long, value_name = "TIME", help_heading = "Runs")]
    pub(super) since: Option<String>,
    /// Runs that started before this time
    #[arg(long, value_name = "TIME", help_heading = "Runs")]
    pub(super) until: Option<String>,
    /// The newest N of them, the newest last [default: 10, with --output list 100]
    #[arg(long, value_name = "N", value_parser = whole::<1, 100_000>, help_heading = "Runs")]
    pub(super) last: Option<u32>,
    /// All of them, in the order of the files
    #[arg(long, conflicts_with = "last", help_heading = "Runs")]
    pub(super) all: bool,

    /// What is printed
    #[arg(long, value_name = "FORMAT", default_value = "text", help_heading = "Output")]
    pub(super) output: ShowFormat,
    /// When to use colour; NO_COLOR overrides it
    #[arg(long, value_name = "WHEN", default_value = "auto", help_heading = "Output")]
    pub(super) color: ColorChoice,
}

#[derive(Debug, Subcommand)]
pub(super) enum BaselineCommand {
    /// Take the present as usual after an intended change: a new server, another line, a mailbox that was emptied
    ///
    /// Of each step the newest five passed runs are what is usual from then on. A running agent takes the request within five seconds and logs it; without one, the next agent does at its start. Exit codes: 0 taken, or left for the next start; 1 not taken, or the state directory cannot be used; 2 wrong usage or configuration.
    Accept(AcceptArgs),
}

#[derive(Debug, Args)]
pub(super) struct AcceptArgs {
    /// The target, with all its accounts, or one account of it
    #[arg(value_name = "TARGET[/ACCOUNT]")]
    pub(super) name: String,
    /// The configuration file of the agent
    #[arg(long, value_name = "FILE", default_value = CONFIGURATION)]
    pub(super) config: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(super) enum CanaryCommand {
    /// Fill a mailbox with realistic messages; what is there already is not added again
    Fill(Box<FillArgs>),
}

#[derive(Debug, Args)]
pub(super) struct FillArgs {
    /// imaps://HOST[:PORT][/MAILBOX], imap://… (STARTTLS), or HOST; with --config: TARGET (all its accounts) or TARGET/ACCOUNT
    #[arg(value_name = "SERVER", required_unless_present = "all")]
    pub(super) names: Vec<String>,

    #[command(flatten)]
    pub(super) target: TargetArgs,

    /// The configuration file of an agent: its accounts in place of a SERVER, filled one after the other
    #[arg(long, value_name = "FILE", conflicts_with_all = LOGIN_OPTIONS, conflicts_with = "mailbox", help_heading = "Configuration")]
    pub(super) config: Option<PathBuf>,
    /// All accounts of the configuration [default file: /etc/imaptrace/imaptrace.toml]
    #[arg(long, conflicts_with_all = LOGIN_OPTIONS, conflicts_with = "names", help_heading = "Configuration")]
    pub(super) all: bool,
    /// Directory with the service's credentials [default: $CREDENTIALS_DIRECTORY, else that of imaptrace.service]
    #[arg(long, value_name = "DIR", conflicts_with_all = LOGIN_OPTIONS, help_heading = "Configuration")]
    pub(super) credentials: Option<PathBuf>,

    /// Messages that the mailbox is to hold, at most 1000000; about 25 kB each
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = whole::<1, 1_000_000>, help_heading = "Mailbox")]
    pub(super) messages: u32,
    /// Mailbox to fill [default: INBOX]
    #[arg(long, value_name = "NAME", help_heading = "Mailbox")]
    pub(super) mailbox: Option<String>,
    /// Make the mailbox when it is not there
    #[arg(long, help_heading = "Mailbox")]
    pub(super) create: bool,
    /// Fill it even when it holds other mail
    #[arg(long, help_heading = "Mailbox")]
    pub(super) among_other_mail: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum OutputFormat {
    /// The waterfall
    Text,
    /// One line a run: the record itself
    Json,
    /// A plug-in's line and perfdata
    Nagios,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum CheckFormat {
    /// The effective settings; errors and warnings go to standard error
    Text,
    /// One line: errors and warnings with their places, and the numbers of targets, accounts and series
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ShowFormat {
    /// The waterfall of each run
    Text,
    /// One line a run, to find one
    List,
    /// One line a run: the record itself
    Json,
    /// For a ticket or a chat
    Markdown,
}

/// The options of [`TargetArgs`], for which a configuration has keys.
const LOGIN_OPTIONS: [&str; 15] = [
    "user",
    "master_user",
    "password_file",
    "password_env",
    "password_command",
    "password_exact",
    "auth",
    "security",
    "ca_file",
    "client_cert",
    "client_key",
    "server_name",
    "insecure",
    "no_alpn",
    "address",
];
/// The options of a journey, for which it has keys, too.
const JOURNEY_OPTIONS: [&str; 9] =
    ["mailbox", "examine", "newest", "window", "cold", "journey", "tag", "propagate", "timeout"];

/// The values of an option, and their meanings.
type WordHelp = &'static [(&'static str, &'static str)];

const SECURITY: WordHelp = &[
    ("tls", "TLS from the first byte; port 993"),
    ("starttls", "STARTTLS, and nothing without it; port 143"),
    ("none", "clear text, password and all; port 143"),
];
const AUTH: WordHelp = &[
    ("auto", "the strongest that the server offers"),
    ("scram-sha-256", "AUTHENTICATE SCRAM-SHA-256"),
    ("plain", "AUTHENTICATE PLAIN"),
    ("login", "LOGIN"),
    ("external", "AUTHENTICATE EXTERNAL, by the client certificate"),
];
const ADDRESS: WordHelp = &[
    ("any", "both families, raced (RFC 8305)"),
    ("v4", "IPv4"),
    ("v6", "IPv6"),
    ("each", "a run for each family; probe alone"),
];
const WINDOW: WordHelp = &[("newest", "the newest"), ("random", "as many in a row, from anywhere")];
const TAG: WordHelp = &[
    ("span_id", "by the id of the command's span, 16 digits"),
    ("short", "by 7 characters, for servers that refuse more"),
];
const PROPAGATE: WordHelp =
    &[("off", "nothing"), ("session-id", "the trace id, as the session's name in a Dovecot that trusts this host")];

/// The one list for parser, help and completions.
fn words(words: WordHelp) -> PossibleValuesParser {
    words.iter().map(|(word, meaning)| PossibleValue::new(*word).help(*meaning)).collect::<Vec<_>>().into()
}

impl ProbeArgs {
    /// `probe --config FILE --all`, with the output of this form.
    pub(super) fn all_of(config: &Path, credentials: Option<&Path>, format: CheckFormat) -> Result<Self, clap::Error> {
        let mut words =
            vec!["imaptrace".into(), "probe".into(), "--all".into(), "--config".into(), config.as_os_str().to_owned()];
        if let Some(credentials) = credentials {
            words.extend(["--credentials".into(), credentials.as_os_str().to_owned()]);
        }
        if format == CheckFormat::Json {
            words.extend(["--output".into(), "json".into()]);
        }
        match Cli::try_parse_from(words)?.command {
            CliCommand::Probe(args) => Ok(*args),
            _ => Err(clap::Error::new(clap::error::ErrorKind::InvalidSubcommand)),
        }
    }
}

impl Cli {
    /// The colour choice, and whether the output and the exit code are those of a plug-in.
    pub(super) fn output(&self) -> (ColorChoice, bool) {
        match &self.command {
            CliCommand::Probe(args) => (args.color, args.output == OutputFormat::Nagios),
            CliCommand::Show(args) => (args.color, false),
            _ => (ColorChoice::Auto, false),
        }
    }
}

/// A whole number within bounds, with an error in the style of the configuration's.
fn whole<const LEAST: u32, const MOST: u32>(text: &str) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number| (LEAST..=MOST).contains(number));
    let most = if MOST == u32::MAX { "or more".to_owned() } else { format!("to {MOST}") };
    number.ok_or_else(|| format!("expected a whole number, {LEAST} {most}, such as 20"))
}

/// The digits of a trace id, or the first of them, in small letters.
fn trace_id(text: &str) -> Result<String, String> {
    let is_valid = (4..=32).contains(&text.len()) && text.bytes().all(|digit| digit.is_ascii_hexdigit());
    let valid = is_valid.then(|| text.to_ascii_lowercase());
    valid.ok_or_else(|| "expected 4 to 32 hexadecimal digits, such as 4bf92f35".to_owned())
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|seconds: &f64| seconds.is_finite() && *seconds >= 0.0);
    seconds.ok_or_else(|| "expected a number of seconds, such as 0.5".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn the_words_are_those_of_the_configuration() {
        let known = |key: &str| config::choices(key).unwrap_or_else(|| panic!("{key}"));
        for (key, words) in [
            ("security", SECURITY),
            ("auth", AUTH),
            ("address", ADDRESS),
            ("window", WINDOW),
            ("tag", TAG),
            ("propagate", PROPAGATE),
        ] {
            let ours: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            assert_eq!(ours, known(key), "{key}");
        }
        assert_eq!(known("protocol"), ["grpc", "http/protobuf"]);
    }
}
