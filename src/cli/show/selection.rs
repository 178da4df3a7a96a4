//! Selects the runs to show while they are read: the newest, or all, or one for each side of a comparison.
//!
//! Memory is bounded by bytes as well as by number. The files of a state directory are read from the newest back, and those
//! that cannot hold a run to show are left out. Prints nothing: what is selected goes to [`show`](super) by a channel.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use imaptrace_record::{Run, SpanId, Timestamp};
use tokio::sync::mpsc;

use super::filter::RunFilter;
use crate::cli::run_reader::{self, RunSource, RunVisitor};

/// Bytes that the selected runs of a side may take.
const HELD: usize = 64 << 20;
/// Digits of a whole trace id.
const WHOLE_ID: usize = 32;
/// By how much the wall clock may have been set back between the start of a run and the change of its file.
const SET_BACK: Duration = Duration::from_secs(60);

/// A run to show.
pub(super) struct SelectedRun {
    pub(super) run: Run,
    /// The file that it is in, printable.
    pub(super) place: String,
    /// The file is a dead letter.
    is_refused: bool,
    /// The side of a comparison that it is for.
    pub(super) side: usize,
}

/// What comes of reading.
pub(super) enum ShowItem {
    Run(Box<SelectedRun>),
    /// A line, a file or a directory cannot be read.
    Unreadable(String),
    /// The last item.
    End(LeftOut),
}

/// What is not shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct LeftOut {
    /// Older runs that match.
    pub(super) runs: u64,
    /// Files that were not read: all in them is older.
    pub(super) files: u64,
    /// Their size in bytes.
    pub(super) bytes: u64,
    /// The newest runs together take too much memory.
    pub(super) is_large: bool,
}

/// What is asked for.
pub(super) struct ShowRequest {
    pub(super) filter: RunFilter,
    /// The sources of each argument, the oldest first.
    pub(super) sources: Vec<Vec<RunSource>>,
    /// The most runs of a side; none for all, in the order of the files.
    pub(super) most: Option<usize>,
    /// Two runs are compared.
    pub(super) compares: bool,
}

impl ShowRequest {
    /// The side that a run of this argument is for, if it is shown at all.
    fn side_of(&self, run: &Run, argument: usize) -> Option<usize> {
        if !self.filter.matches(run) {
            return None;
        }
        match (self.compares, self.sources.len(), self.filter.trace_ids.len()) {
            (false, ..) => Some(0),
            (true, 2, 2) => (self.filter.trace_id_of(run) == Some(argument)).then_some(argument),
            (true, 2, _) => Some(argument),
            (true, ..) => self.filter.trace_id_of(run),
        }
    }

    /// The sides that runs of this argument can be for.
    fn sides(&self, argument: usize) -> std::ops::Range<usize> {
        match (self.compares, self.sources.len()) {
            (false, _) => 0..1,
            (true, 1) => 0..2,
            (true, _) => argument..argument + 1,
        }
    }
}

/// Reads, selects, and sends what is to be shown.
pub(super) fn select(request: &ShowRequest, items: mpsc::Sender<ShowItem>) {
    let sides = [Newest::default(), Newest::default()];
    let mut selection = Selection {
        request,
        items,
        argument: 0,
        place: String::new(),
        is_refused: false,
        sides,
        left_out: LeftOut::default(),
    };
    for (argument, sources) in request.sources.iter().enumerate() {
        selection.argument = argument;
        if request.most.is_some() {
            run_reader::read(sources.iter().rev(), &mut selection);
        } else {
            run_reader::read(sources, &mut selection);
        }
    }
    selection.end();
}

/// The selection under way.
struct Selection<'a> {
    request: &'a ShowRequest,
    items: mpsc::Sender<ShowItem>,
    argument: usize,
    place: String,
    is_refused: bool,
    sides: [Newest; 2],
    left_out: LeftOut,
}

impl RunVisitor for Selection<'_> {
    fn file(&mut self, source: &RunSource) -> bool {
        if let (Some(most), RunSource::Kept(file)) = (self.request.most, source) {
            let newest = file.modified.checked_add(SET_BACK).unwrap_or(file.modified);
            if self.request.filter.since.is_some_and(|since| newest < since) {
                return false;
            }
            if self.sides[self.request.sides(self.argument)].iter().all(|side| side.is_full_after(newest, most)) {
                self.left_out.files += 1;
                self.left_out.bytes = self.left_out.bytes.saturating_add(file.size);
                return false;
            }
        }
        self.place = source.name();
        self.is_refused = matches!(source, RunSource::Kept(file) if file.is_refused);
        true
    }

    fn run(&mut self, run: Run) -> bool {
        let Some(side) = self.request.side_of(&run, self.argument) else { return true };
        let selected = SelectedRun { run, place: self.place.clone(), is_refused: self.is_refused, side };
        match self.request.most {
            None => self.items.blocking_send(ShowItem::Run(Box::new(selected))).is_ok(),
            Some(most) => {
                self.sides[side].add(selected, most, &mut self.left_out);
                !self.has_all()
            }
        }
    }

    fn unreadable(&mut self, problem: String) -> bool {
        self.items.blocking_send(ShowItem::Unreadable(problem)).is_ok()
    }
}

impl Selection<'_> {
    /// Whether all runs that were asked for by whole ids are there.
    fn has_all(&self) -> bool {
        let ids = &self.request.filter.trace_ids;
        let held = || self.sides[self.request.sides(self.argument)].iter().flat_map(|side| side.runs.values());
        let is_there = |id: &String| held().any(|held| held.run.trace_id.to_string() == *id);
        let mut wanted = ids.iter().enumerate().filter(|(index, _)| {
            !(self.request.compares && self.request.sources.len() == 2 && ids.len() == 2) || *index == self.argument
        });
        // A trace has one run, unless its id came from outside.
        !ids.is_empty() && wanted.all(|(_, id)| id.len() == WHOLE_ID && is_there(id))
    }

    /// Sends the newest runs, and the end.
    fn end(self) {
        let Self { items, sides, left_out, .. } = self;
        let runs = sides.into_iter().flat_map(|side| side.runs.into_values()).map(|run| ShowItem::Run(Box::new(run)));
        for item in runs.chain([ShowItem::End(left_out)]) {
            if items.blocking_send(item).is_err() {
                return;
            }
        }
    }
}

/// The newest runs of a side, by their start.
#[derive(Default)]
struct Newest {
    /// A run that is in two files is one.
    runs: BTreeMap<(Timestamp, SpanId), SelectedRun>,
    bytes: usize,
}

impl Newest {
    fn add(&mut self, selected: SelectedRun, most: usize, left_out: &mut LeftOut) {
        let key = (selected.run.started_at, selected.run.span_id);
        let bytes = selected.run.held_bytes();
        if let Some(known) = self.runs.get_mut(&key) {
            // Its group in the queue is not deleted yet.
            if selected.is_refused && !known.is_refused {
                (known.place, known.is_refused) = (selected.place, true);
            }
            return;
        }
        self.runs.insert(key, selected);
        self.bytes += bytes;
        while self.runs.len() > most || (self.bytes > HELD && self.runs.len() > 1) {
            left_out.is_large |= self.runs.len() <= most;
            let Some((_, oldest)) = self.runs.pop_first() else { break };
            self.bytes = self.bytes.saturating_sub(oldest.run.held_bytes());
            left_out.runs += 1;
        }
    }

    /// Whether no older run than at this moment can be one of the newest.
    fn is_full_after(&self, at: SystemTime, most: usize) -> bool {
        let oldest = self.runs.first_key_value();
        self.runs.len() >= most && oldest.is_some_and(|((started, _), _)| started.to_system_time() > at)
    }
}
