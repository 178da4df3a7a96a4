//! The log on standard error: one event is one line, as text or as JSON, with the ids of the run it belongs to.
//!
//! What is shown is set by `RUST_LOG` (default `info`); the crates that carry telemetry are quiet unless named there,
//! since `delivery` itself reports how they fare, once per change. The layer of live roots hangs beside the log with
//! a filter of its own. Whatever is logged is escaped here once more: no line can hold an escape sequence or a line end.
//! A thread of its own writes the lines (`queue`), so that logging never waits for who reads. Called once, by the command
//! line, before anything else starts; which also sends its own messages the same way ([`write()`]), so that they keep their
//! order.

mod queue;

use std::{
    fmt, io,
    panic::PanicHookInfo,
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use opentelemetry::{Context, trace::TraceContextExt as _};
use serde_json::{Map, Value};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    EnvFilter, Layer as _,
    fmt::{
        FmtContext, FormatEvent, FormatFields, MakeWriter,
        format::Writer,
        time::{FormatTime as _, SystemTime},
    },
    layer::SubscriberExt as _,
    registry::LookupSpan,
    util::{SubscriberInitExt as _, TryInitError},
};

use self::queue::LogQueue;
pub use self::queue::write_all;
use imaptrace_record::escape;

use super::live;

/// The way to standard error, once its thread runs.
static QUEUE: OnceLock<LogQueue> = OnceLock::new();
/// Only one starts it.
static STARTING: Mutex<()> = Mutex::new(());

/// What the end of a panic on the main thread waits for its message.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// What is quiet unless `RUST_LOG` names it.
const QUIET: &str = "info,opentelemetry=off,opentelemetry_sdk=off,h2=warn,hyper=warn,hyper_util=warn,\
    hickory_proto=warn";

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// Time, level, where, what, and the fields.
    #[default]
    Text,
    /// One object.
    Json,
}

/// The log's settings.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogSettings {
    /// Text or JSON.
    pub format: LogFormat,
    /// Colour the level; only for text on a terminal without `NO_COLOR`.
    pub color: bool,
    /// Begin each line with its priority, as the journal reads it (sd-daemon(3)); see [`to_journal`].
    pub journal: bool,
    /// `RUST_LOG`. Its directives come on top of `info` and of the quiet crates.
    pub filter: Option<String>,
}

/// A log that could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// `RUST_LOG` cannot be read.
    #[error("cannot read the log filter {filter:?}: {source}; write it like `info,imaptrace::delivery=debug`")]
    Filter {
        /// What it was.
        filter: String,
        /// Why.
        source: tracing_subscriber::filter::ParseError,
    },
    /// The machine gives no more threads.
    #[error("cannot start the thread that writes the log: {0}")]
    Thread(#[source] io::Error),
    /// This process has a log already.
    #[error("the log was set up twice")]
    Twice(#[source] TryInitError),
}

/// Sets up the process's log on standard error, and the live roots.
pub fn init(settings: &LogSettings) -> Result<(), LogError> {
    let queue = start().map_err(LogError::Thread)?;
    subscriber(settings, || Queued(queue))?.try_init().map_err(LogError::Twice)?;
    let notice = settings.clone();
    queue.set_notice(Box::new(move |count| dropped_line(&notice, count)));
    Ok(())
}

/// Starts the thread that writes to standard error, unless it runs.
pub fn start_writer() -> io::Result<()> {
    start().map(drop)
}

/// Has each thread that logs write by itself and wait for the reader: for a command with no thread but one, where the system
/// gives no other. To be called when [`start_writer`] has failed.
pub fn write_in_place() {
    let _alone = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    QUEUE.get_or_init(|| LogQueue::in_place(|text| write_all(&io::stderr(), text)));
}

fn start() -> io::Result<&'static LogQueue> {
    let _alone = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(queue) = QUEUE.get() {
        return Ok(queue);
    }
    let queue = LogQueue::start(|text| write_all(&io::stderr(), text))?;
    Ok(QUEUE.get_or_init(|| queue))
}

/// Sends texts to standard error, behind the lines that were logged before: at once and in the order of the calls, or not
/// at all when standard error is not read. False before the thread runs: nothing was sent.
pub fn write(text: &[u8]) -> bool {
    let Some(queue) = QUEUE.get() else { return false };
    // A reader that only lags behind gets all of a long text.
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        queue.wait_for_room(line);
        queue.push(line);
    }
    true
}

/// The same for what is written while a run is under way: it never waits, and is dropped when there is no room.
pub fn write_at_once(text: &[u8]) -> bool {
    QUEUE.get().map(|queue| queue.push(text)).is_some()
}

/// Waits until all that was sent is written: no longer than `longest`, and no longer than a moment when it is not read.
pub fn flush(longest: Duration) {
    if let Some(queue) = QUEUE.get() {
        queue.flush(longest);
    }
}

/// Lines that were dropped because they were not read, or that could not be written.
pub fn dropped() -> u64 {
    QUEUE.get().map_or(0, LogQueue::dropped)
}

/// The process ends: what panics from now on only finds closed what it was using.
static ENDING: AtomicBool = AtomicBool::new(false);

/// From now on no panic has a message. To be called right before all sockets are closed at the end of the process.
pub fn ignore_panics() {
    ENDING.store(true, Ordering::SeqCst);
}

/// Has the message of every panic go the way of the log. To be called once, by the program.
pub fn catch_panics() {
    std::panic::set_hook(Box::new(|panic| {
        if ENDING.load(Ordering::SeqCst) {
            return;
        }
        let text = panic_text(panic, std::thread::current().name());
        if !write_at_once(text.as_bytes()) {
            // Nothing was started yet, so nothing waits for this.
            let _ = write_all(&io::stderr(), text.as_bytes());
        } else if std::thread::current().name() == Some("main") {
            flush(LAST_WORDS);
        }
    }));
}

/// As the standard library puts it, in one line, and with what `RUST_BACKTRACE` asks for.
fn panic_text(panic: &PanicHookInfo<'_>, thread: Option<&str>) -> String {
    let thread = thread.unwrap_or("<unnamed>");
    let place = panic.location().map_or_else(String::new, |place| format!(" at {place}"));
    let payload = panic.payload();
    let what = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let what = what.unwrap_or("no message");
    let line = escape(&format!("thread '{thread}' panicked{place}: {what}"));
    let trace = std::backtrace::Backtrace::capture();
    match trace.status() {
        std::backtrace::BacktraceStatus::Captured => format!("{line}\n{trace}\n"),
        _ => format!("{line}\n"),
    }
}

/// Writes each event's line to the queue, whole.
#[derive(Clone, Copy)]
struct Queued(&'static LogQueue);

impl io::Write for Queued {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.push(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The line in place of lines that were dropped.
fn dropped_line(settings: &LogSettings, count: u64) -> String {
    let fields = Fields { message: queue::plain(count), rest: vec![("dropped".to_owned(), count.into())] };
    let mut line = String::new();
    let format = LineFormat { format: settings.format, journal: settings.journal };
    // Writing to a string cannot fail.
    let _ = format.line(&mut line, settings.color, Level::WARN, module_path!(), fields);
    line
}

/// The same over any writer, not yet installed.
pub fn subscriber<W>(settings: &LogSettings, writer: W) -> Result<impl Subscriber + Send + Sync + use<W>, LogError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let given = settings.filter.as_deref().filter(|given| !given.trim().is_empty());
    let all = given.map_or_else(|| QUIET.to_owned(), |given| format!("{QUIET},{given}"));
    let filter = EnvFilter::builder()
        .parse(all)
        .map_err(|source| LogError::Filter { filter: given.unwrap_or_default().to_owned(), source })?;
    let log = tracing_subscriber::fmt::layer()
        .with_writer(writer)
        .with_ansi(settings.color)
        .event_format(LineFormat { format: settings.format, journal: settings.journal })
        .with_filter(filter);
    Ok(tracing_subscriber::registry().with(live::layer()).with(log))
}

/// Whether standard error goes to the journal: systemd says which stream that is in `JOURNAL_STREAM` (systemd.exec(5)),
/// and a program that was given another one has the variable all the same.
pub fn to_journal() -> bool {
    let said = std::env::var("JOURNAL_STREAM").ok();
    let Some((device, inode)) = said.as_deref().and_then(|said| said.split_once(':')) else { return false };
    let Ok(stream) = nix::sys::stat::fstat(io::stderr()) else { return false };
    device.parse() == Ok(stream.st_dev) && inode.parse() == Ok(stream.st_ino)
}

/// Formats one event as one line.
struct LineFormat {
    format: LogFormat,
    journal: bool,
}

impl<S, N> FormatEvent<S, N> for LineFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        fields.fit();
        // The live root is the current context inside a run, whatever this log's filter thinks of spans.
        let context = Context::current();
        let span = context.span().span_context().clone();
        if span.is_valid() {
            fields.put("trace_id", span.trace_id().to_string());
            fields.put("span_id", span.span_id().to_string());
        }
        let color = writer.has_ansi_escapes();
        self.line(writer, color, *event.metadata().level(), event.metadata().target(), fields)
    }
}

impl LineFormat {
    fn line(
        &self,
        mut writer: impl fmt::Write,
        has_color: bool,
        level: Level,
        target: &str,
        fields: Fields,
    ) -> fmt::Result {
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        if self.journal {
            write!(writer, "<{}>", priority(level))?;
        }
        match self.format {
            LogFormat::Text => {
                let (on, off) = if has_color { (color(level), "\u{1b}[0m") } else { ("", "") };
                write!(writer, "{time} {on}{level:5}{off} {target}: {}", fields.message)?;
                for (name, value) in &fields.rest {
                    match value {
                        Value::String(text) if text.contains(char::is_whitespace) => write!(writer, " {name}={value}")?,
                        Value::String(text) => write!(writer, " {name}={text}")?,
                        value => write!(writer, " {name}={value}")?,
                    }
                }
                writeln!(writer)
            }
            LogFormat::Json => {
                let mut line = Map::new();
                line.insert("time".into(), time.into());
                line.insert("level".into(), level.as_str().to_ascii_lowercase().into());
                // Not `target`: that is what a field calls the IMAP service.
                line.insert("module".into(), target.into());
                line.insert("message".into(), fields.message.into());
                for (name, value) in fields.rest {
                    line.entry(name).or_insert(value);
                }
                writeln!(writer, "{}", Value::Object(line))
            }
        }
    }
}

/// As syslog(3) numbers them.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

fn color(level: Level) -> &'static str {
    match level {
        Level::ERROR => "\u{1b}[31m",
        Level::WARN => "\u{1b}[33m",
        Level::INFO => "\u{1b}[32m",
        Level::DEBUG | Level::TRACE => "\u{1b}[2m",
    }
}

/// Bytes of text that an event may have, its message and fields together: most of it may come from outside.
const MOST_TEXT: usize = 1024;

/// The fields of an event, safe to print.
#[derive(Default)]
struct Fields {
    message: String,
    rest: Vec<(String, Value)>,
}

impl Fields {
    fn put(&mut self, name: &str, value: impl Into<Value>) {
        self.rest.push((name.to_owned(), value.into()));
    }

    /// Cuts the longest texts so that all of them together are no longer than [`MOST_TEXT`].
    fn fit(&mut self) {
        let rest = self.rest.iter_mut().filter_map(|(_, value)| match value {
            Value::String(text) => Some(text),
            _ => None,
        });
        let mut texts: Vec<&mut String> = std::iter::once(&mut self.message).chain(rest).collect();
        if texts.iter().map(|text| text.len()).sum::<usize>() <= MOST_TEXT {
            return;
        }
        texts.sort_by_key(|text| text.len());
        let (mut left, mut count) = (MOST_TEXT, texts.len());
        for text in texts {
            // What the shorter ones leave is for the longer ones.
            cut(text, left / count);
            (left, count) = (left - text.len(), count - 1);
        }
    }
}

/// Cuts a text to so many bytes, `…` included.
fn cut(text: &mut String, most: usize) {
    if text.len() > most {
        text.truncate(boundary(text, most.saturating_sub('…'.len_utf8())));
        text.push('…');
    }
}

/// The last place between two characters that is not behind this one.
fn boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default()
}

/// Text that is escaped as it is written, and cut to what an event may have.
#[derive(Default)]
struct Bounded(String);

impl Bounded {
    fn of(value: fmt::Arguments<'_>) -> String {
        let mut text = Self::default();
        // It ends with an error when it is full.
        if fmt::write(&mut text, value).is_err() {
            cut(&mut text.0, MOST_TEXT);
        }
        text.0
    }
}

impl fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let enough = boundary(text, MOST_TEXT + 4);
        self.0.push_str(&escape(text.get(..enough).unwrap_or_default()));
        if enough < text.len() || self.0.len() > MOST_TEXT { Err(fmt::Error) } else { Ok(()) }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = Bounded::of(format_args!("{value:?}"));
        if field.name() == "message" {
            self.message = text;
        } else {
            self.put(field.name(), text);
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field.name(), value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field.name(), value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field.name(), value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field.name(), value);
    }
}

#[cfg(test)]
mod tests;
