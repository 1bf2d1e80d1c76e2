//! The log output: limits lines that repeat, on top of the formats of `tracing-subscriber`.
//!
//! Lines are alike when the same place of the code writes them about the same shard and client. Of lines that are
//! alike, [`repeats::FREE`] are written within [`repeats::WINDOW`]. The further ones are held back, and one line at the
//! end of the window stands for them: it is the last of them, with their number as the field `repeated`. Lines of the
//! levels DEBUG and TRACE are all written, because an operator who asks for these levels wants each line; so are the
//! frames of a traced shard ([`trace`]), which have a limit of their own.
//!
//! Costs: a lock and a look into a table for each line of the levels INFO, WARN and ERROR. No such line is written for
//! an event from Discord.

pub mod repeats;
pub mod trace;

use repeats::{Next, Repeats};
use std::{
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    io::Write,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    EnvFilter,
    filter::ParseError,
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
    reload,
};

/// Why a `log_level` does not hold.
#[derive(Debug, thiserror::Error)]
pub enum LogLevelError {
    /// The value is no level, nor a list of levels for parts of the program.
    #[error("`log_level` is {level:?}, expected error, warn, info, debug or trace ({source})")]
    NoLevel {
        /// The value of the key.
        level: String,
        /// What is wrong with it.
        source: ParseError,
    },
    /// The log of the running process can not be changed.
    #[error(transparent)]
    Unchangeable(#[from] reload::Error),
}

/// The filter of the log for a `log_level`.
pub fn filter(level: &str) -> Result<EnvFilter, LogLevelError> {
    EnvFilter::try_new(level).map_err(|source| LogLevelError::NoLevel { level: level.to_owned(), source })
}

/// How the lines of a format end, which decides where a field can be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Text for people: fields are at the end of the line.
    Text,
    /// One JSON object a line.
    Json,
}

/// The lines that are held back because they repeat. The log format adds them, and a task of the control core writes
/// those that are due.
#[derive(Clone)]
pub struct Held {
    repeats: Arc<Mutex<Repeats>>,
    /// The time since some moment.
    clock: Arc<dyn Fn() -> Duration + Send + Sync>,
    ending: Ending,
}

impl Held {
    /// Starts without any lines.
    pub fn new(ending: Ending) -> Self {
        let epoch = Instant::now();
        Self { repeats: Arc::default(), clock: Arc::new(move || epoch.elapsed()), ending }
    }

    /// Writes the lines that stand for held ones whose window is over to standard error, where the log goes.
    pub fn write_due(&self) {
        write(self.take((self.clock)()));
    }

    /// Writes the lines that stand for all held ones, at the end of the process.
    pub fn write_all(&self) {
        write(self.take(Duration::MAX));
    }

    fn take(&self, now: Duration) -> Vec<String> {
        let due = self.repeats.lock().unwrap_or_else(PoisonError::into_inner).take_due(now);
        due.into_iter().map(|(line, count)| with_count(line, count, self.ending)).collect()
    }
}

fn write(lines: Vec<String>) {
    let mut out = std::io::stderr().lock();
    for line in lines {
        // If standard error can not be written, there is no other place to say that.
        let _ = out.write_all(line.as_bytes());
    }
}

/// A format that holds back lines that repeat. See the module's description.
pub struct Limited<F> {
    format: F,
    held: Held,
}

impl<F> Limited<F> {
    /// Limits the lines of `format`.
    pub fn new(format: F, held: Held) -> Self {
        Self { format, held }
    }
}

impl<S, N, F> FormatEvent<S, N> for Limited<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let Some(key) = key(event) else { return self.format.format_event(context, writer, event) };
        let Held { repeats, clock, ending } = &self.held;
        let next = repeats.lock().unwrap_or_else(PoisonError::into_inner).next(key, clock());
        if next == Next::Write(1) {
            return self.format.format_event(context, writer, event);
        }
        let mut line = String::new();
        self.format.format_event(context, Writer::new(&mut line), event)?;
        match next {
            Next::Write(count) => writer.write_str(&with_count(line, count, *ending)),
            Next::HoldBack => {
                repeats.lock().unwrap_or_else(PoisonError::into_inner).keep(key, line);
                Ok(())
            }
        }
    }
}

/// The key that lines have in common when they are alike; `None`: the line is not limited.
fn key(event: &Event<'_>) -> Option<u64> {
    let metadata = event.metadata();
    if *metadata.level() > Level::INFO || metadata.target() == trace::TARGET {
        return None;
    }
    let mut subject = Subject(DefaultHasher::new());
    metadata.callsite().hash(&mut subject.0);
    event.record(&mut subject);
    Some(subject.0.finish())
}

/// Hashes the fields that name what a line is about.
struct Subject(DefaultHasher);

impl Visit for Subject {
    fn record_u64(&mut self, field: &Field, value: u64) {
        if matches!(field.name(), "shard" | "client") {
            (field.name(), value).hash(&mut self.0);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if matches!(field.name(), "shard" | "client") {
            (field.name(), format!("{value:?}")).hash(&mut self.0);
        }
    }
}

/// Adds the field `repeated` to a line: for how many lines this one stands.
fn with_count(mut line: String, count: u64, ending: Ending) -> String {
    line.truncate(line.trim_end().len());
    match ending {
        Ending::Json if line.ends_with('}') => {
            line.pop();
            line.push_str(&format!(",\"repeated\":{count}}}\n"));
        }
        Ending::Json | Ending::Text => line.push_str(&format!(" repeated={count}\n")),
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the lines of a test go.
    #[derive(Clone, Default)]
    struct Output(Arc<Mutex<Vec<u8>>>);

    impl Write for Output {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Output {
        fn lines(&self) -> Vec<String> {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap().lines().map(ToOwned::to_owned).collect()
        }
    }

    /// Lines of one moment.
    fn standing(ending: Ending) -> Held {
        Held { clock: Arc::new(|| Duration::from_secs(1)), ..Held::new(ending) }
    }

    /// Five lines are free; the rest of a burst becomes one line.
    fn burst() {
        for number in 0..100 {
            tracing::warn!(shard = 1, number, "the same");
            tracing::debug!(shard = 1, "each is written");
        }
        tracing::warn!(shard = 2, "the same");
        tracing::info!(target: trace::TARGET, shard = 1, "a frame");
    }

    #[test]
    fn a_burst_becomes_one_line_with_a_count_in_both_formats() {
        let (output, held) = (Output::default(), standing(Ending::Text));
        let out = output.clone();
        let log = tracing_subscriber::fmt().with_max_level(Level::DEBUG).with_ansi(false);
        let log = log.with_writer(move || out.clone());
        let log = log.map_event_format(|format| Limited::new(format, held.clone())).finish();
        tracing::subscriber::with_default(log, burst);
        let lines = output.lines();
        let count = |what: &str| lines.iter().filter(|line| line.contains(what)).count();
        assert_eq!((count("the same"), count("each is written"), count("a frame")), (6, 100, 1), "{lines:#?}");
        let due = held.take(Duration::MAX);
        assert_eq!(due.len(), 1);
        assert!(due[0].ends_with("the same shard=1 number=99 repeated=95\n"), "the last line stands for all: {due:?}");
        assert_eq!(held.take(Duration::MAX), Vec::<String>::new());

        let (output, held) = (Output::default(), standing(Ending::Json));
        let out = output.clone();
        let log = tracing_subscriber::fmt().with_max_level(Level::DEBUG).json().flatten_event(true);
        let log = log.with_writer(move || out.clone());
        let log = log.map_event_format(|format| Limited::new(format, held.clone())).finish();
        tracing::subscriber::with_default(log, burst);
        let parsed: serde_json::Value = serde_json::from_str(&held.take(Duration::MAX)[0]).unwrap();
        assert_eq!((&parsed["repeated"], &parsed["number"], &parsed["shard"]), (&95.into(), &99.into(), &1.into()));
    }
}
