//! Reads the runs of files, of standard input and of state directories.
//!
//! Decides nothing about the runs. Blocks, so it is called on a [thread](on_thread) of its own: a FIFO without a writer, a silent
//! pipe or a hung mount delays neither a signal nor the end of the command. Called by `replay` and `show`.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::FileTypeExt as _,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use imaptrace_record::{Run, escape};

use crate::delivery::{BadLine, KeptFile, Lines};

/// How long an agent may take to write a group of runs that was begun.
const WRITING: Duration = Duration::from_millis(300);
/// The most characters of a problem with a line.
const LONGEST_PROBLEM: usize = 200;

/// What runs are read from.
pub(super) enum RunSource {
    /// Standard input.
    Input,
    File(PathBuf),
    /// A file of a state directory.
    Kept(KeptFile),
}

impl RunSource {
    pub(super) fn of(path: PathBuf) -> Self {
        if path == Path::new("-") { Self::Input } else { Self::File(path) }
    }

    /// Its name, printable.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Input => "-".to_owned(),
            Self::File(path) => escape(&path.display().to_string()),
            Self::Kept(file) => escape(&file.path().display().to_string()),
        }
    }

    /// The error of opening it. A pipe is opened once, when it is read: its writer would lose its reader.
    pub(super) fn check(&self) -> Result<(), String> {
        match self {
            Self::File(path) if !is_pipe(path) => match open(path) {
                Ok(_) => Ok(()),
                Err(error) => Err(format!("error: {}: {error}", self.name())),
            },
            _ => Ok(()),
        }
    }
}

/// What is done with the things that are read.
pub(super) trait RunVisitor {
    /// The next file begins. False leaves it out.
    fn file(&mut self, source: &RunSource) -> bool;
    /// A run of that file. False ends the reading.
    fn run(&mut self, run: Run) -> bool;
    /// A line, or a file, cannot be read. False ends the reading.
    fn unreadable(&mut self, problem: String) -> bool;
}

/// Starts a thread that reads. It ends with the process if nothing else ends it.
pub(super) fn on_thread(work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name("files".to_owned()).spawn(work).map(drop)
}

/// Reads all, one after another, until the visitor ends it.
pub(super) fn read<'a>(sources: impl IntoIterator<Item = &'a RunSource>, visitor: &mut impl RunVisitor) {
    for source in sources {
        if visitor.file(source) && !read_one(source, visitor) {
            return;
        }
    }
}

fn read_one(source: &RunSource, visitor: &mut impl RunVisitor) -> bool {
    let name = source.name();
    let mut seen = 0;
    let mut again = matches!(source, RunSource::Kept(file) if file.may_grow);
    'file: loop {
        let lines = match source {
            RunSource::Input => Lines::new(io::stdin()).map(Some),
            RunSource::File(path) => open(path).and_then(Lines::new).map(Some),
            RunSource::Kept(file) => file.lines(),
        };
        let lines = match lines {
            Ok(Some(lines)) => lines,
            Ok(None) => return true,
            // That of a state directory has its path.
            Err(error) if matches!(source, RunSource::Kept(_)) => return visitor.unreadable(error.to_string()),
            Err(error) => return visitor.unreadable(format!("{name}: {error}")),
        };
        for line in lines.skip(seen) {
            seen += 1;
            let go_on = match line {
                Ok(run) => visitor.run(run),
                Err(BadLine { at_end: true, .. }) if again => {
                    // The agent may be writing it.
                    again = false;
                    seen -= 1;
                    thread::sleep(WRITING);
                    continue 'file;
                }
                Err(BadLine { line, problem, .. }) => visitor.unreadable(format!("{name}:{line}: {}", short(&problem))),
            };
            if !go_on {
                return false;
            }
        }
        return true;
    }
}

/// A problem may repeat text of the line, of any length.
fn short(problem: &str) -> String {
    let end = problem.char_indices().nth(LONGEST_PROBLEM).map_or(problem.len(), |(at, _)| at);
    let more = if end < problem.len() { "…" } else { "" };
    format!("{}{more}", escape(problem.get(..end).unwrap_or_default()))
}

/// Whether this is a directory; links are followed, since the path is the operator's.
#[expect(clippy::disallowed_methods, reason = "on a thread of its own")]
pub(super) fn is_directory(path: &Path) -> bool {
    path.is_dir()
}

#[expect(clippy::disallowed_methods, reason = "on a thread of its own")]
fn is_pipe(file: &Path) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.file_type().is_fifo())
}

#[expect(clippy::disallowed_methods, reason = "on a thread of its own")]
fn open(file: &Path) -> io::Result<Box<dyn Read>> {
    let opened = File::open(file)?;
    if opened.metadata()?.is_dir() { Err(io::ErrorKind::IsADirectory.into()) } else { Ok(Box::new(opened)) }
}
