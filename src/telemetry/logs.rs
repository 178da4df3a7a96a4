//! The log on standard error: one event is one line, as text or as JSON, with the ids of the run it belongs to.
//!
//! `RUST_LOG` is the filter (default `info`); the crates that carry telemetry are quiet unless it names them, since `delivery`
//! logs their failures, once per change. The layer of live roots has its own filter. All text is escaped: no line can contain
//! an escape sequence or a line end. A thread of its own writes the lines (`queue`), so that logging never waits for the
//! reader. The command line calls it before anything else, and sends its own messages the same way ([`write()`]).

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
    filter::ParseError,
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

/// The queue to standard error, once its thread runs.
static QUEUE: OnceLock<LogQueue> = OnceLock::new();
/// Held by the thread that starts [`QUEUE`].
static STARTING: Mutex<()> = Mutex::new(());

/// How long a panic on the main thread waits until its message is written.
const PANIC_FLUSH: Duration = Duration::from_millis(200);

/// The default directives.
const QUIET: &str = "info,opentelemetry=off,opentelemetry_sdk=off,h2=warn,hyper=warn,hyper_util=warn,\
    hickory_proto=warn";

/// The format of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// Time, level, module, message, and the fields.
    #[default]
    Text,
    /// One JSON object.
    Json,
}

/// The log's settings.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogSettings {
    /// Text or JSON.
    pub format: LogFormat,
    /// Colour the level; only for text on a terminal without `NO_COLOR`.
    pub color: bool,
    /// Begin each line with its priority for the journal (sd-daemon(3)); see [`to_journal`].
    pub journal: bool,
    /// `RUST_LOG`: directives in addition to the default ones.
    pub filter: Option<String>,
}

/// The log cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// `RUST_LOG` cannot be read: its value, and the problem.
    #[error("cannot read the log filter {0:?}: {1}; write it like `info,imaptrace::delivery=debug`")]
    Filter(String, #[source] ParseError),
    /// The system has no more threads.
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

/// Lets each thread that logs write by itself and wait for the reader. To be called when [`start_writer`] has failed.
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

/// Sends lines to standard error, after those that were logged before; drops them when standard error is not read. False if the
/// thread does not run: nothing was sent.
pub fn write(text: &[u8]) -> bool {
    let Some(queue) = QUEUE.get() else { return false };
    // A slow reader gets all of a long text.
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        queue.wait_for_room(line);
        queue.push(line);
    }
    true
}

/// The same without waiting, for texts during a run: dropped when there is no room.
pub fn write_at_once(text: &[u8]) -> bool {
    QUEUE.get().map(|queue| queue.push(text)).is_some()
}

/// Waits until all is written: no longer than `longest`, and 0.2 s when standard error is not read.
pub fn flush(longest: Duration) {
    if let Some(queue) = QUEUE.get() {
        queue.flush(longest);
    }
}

/// Lines that were dropped or could not be written.
pub fn dropped() -> u64 {
    QUEUE.get().map_or(0, LogQueue::dropped)
}

/// The process ends: panics from now on are caused by closed sockets.
static ENDING: AtomicBool = AtomicBool::new(false);

/// Suppresses the messages of panics. To be called before all sockets are closed at the end of the process.
pub fn ignore_panics() {
    ENDING.store(true, Ordering::SeqCst);
}

/// Sends the message of every panic to the log. To be called once.
pub fn catch_panics() {
    std::panic::set_hook(Box::new(|panic| {
        if ENDING.load(Ordering::SeqCst) {
            return;
        }
        let text = panic_text(panic, std::thread::current().name());
        if !write_at_once(text.as_bytes()) {
            // Nothing is started yet, so nothing waits for this.
            let _ = write_all(&io::stderr(), text.as_bytes());
        } else if std::thread::current().name() == Some("main") {
            flush(PANIC_FLUSH);
        }
    }));
}

/// The text of the standard library in one line, and the backtrace if `RUST_BACKTRACE` asks for it.
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

/// Queues each event's line.
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
    // Writing to a string cannot fail.
    let _ = settings.line(&mut line, Level::WARN, module_path!(), fields);
    line
}

/// The subscriber of [`init`] with any writer, not yet installed.
pub fn subscriber<W>(settings: &LogSettings, writer: W) -> Result<impl Subscriber + Send + Sync + use<W>, LogError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let given = settings.filter.as_deref().filter(|given| !given.trim().is_empty());
    let all = given.map_or_else(|| QUIET.to_owned(), |given| format!("{QUIET},{given}"));
    let filter = EnvFilter::builder()
        .parse(all)
        .map_err(|source| LogError::Filter(given.unwrap_or_default().to_owned(), source))?;
    let log = tracing_subscriber::fmt::layer()
        .with_writer(writer)
        .with_ansi(settings.color)
        .event_format(settings.clone())
        .with_filter(filter);
    Ok(tracing_subscriber::registry().with(live::layer()).with(log))
}

/// Whether standard error is the journal's stream, which `JOURNAL_STREAM` identifies (systemd.exec(5)); the variable is also set
/// for a program with another standard error.
pub fn to_journal() -> bool {
    let stream = std::env::var("JOURNAL_STREAM").ok();
    let Some((device, inode)) = stream.as_deref().and_then(|stream| stream.split_once(':')) else { return false };
    let Ok(stream) = nix::sys::stat::fstat(io::stderr()) else { return false };
    device.parse() == Ok(stream.st_dev) && inode.parse() == Ok(stream.st_ino)
}

/// Formats one event as one line.
impl<S, N> FormatEvent<S, N> for LogSettings
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        fields.fit();
        // The live root is the current context inside a run, whatever this log's filter is.
        let context = Context::current();
        let span = context.span().span_context().clone();
        if span.is_valid() {
            fields.put("trace_id", span.trace_id().to_string());
            fields.put("span_id", span.span_id().to_string());
        }
        self.line(writer, *event.metadata().level(), event.metadata().target(), fields)
    }
}

impl LogSettings {
    fn line(&self, mut writer: impl fmt::Write, level: Level, target: &str, fields: Fields) -> fmt::Result {
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let (priority, color) = priority_and_color(level);
        if self.journal {
            write!(writer, "<{priority}>")?;
        }
        match self.format {
            LogFormat::Text => {
                let (on, off) = if self.color { (color, "\u{1b}[0m") } else { ("", "") };
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
                // Not `target`, which is the name of a field.
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

/// The priority of syslog(3), and the escape sequence of the color.
fn priority_and_color(level: Level) -> (u8, &'static str) {
    match level {
        Level::ERROR => (3, "\u{1b}[31m"),
        Level::WARN => (4, "\u{1b}[33m"),
        Level::INFO => (6, "\u{1b}[32m"),
        Level::DEBUG | Level::TRACE => (7, "\u{1b}[2m"),
    }
}

/// The most bytes of text of an event, message and fields together.
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

    /// Cuts the longest texts to [`MOST_TEXT`] in all.
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
            // The longer ones get what the shorter ones leave.
            cut(text, left / count);
            (left, count) = (left - text.len(), count - 1);
        }
    }
}

/// Cuts a text to `most` bytes, `…` included.
fn cut(text: &mut String, most: usize) {
    if text.len() > most {
        text.truncate(boundary(text, most.saturating_sub('…'.len_utf8())));
        text.push('…');
    }
}

/// The last character boundary up to `at`.
fn boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default()
}

/// Text that is escaped as it is written, and cut to [`MOST_TEXT`].
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
