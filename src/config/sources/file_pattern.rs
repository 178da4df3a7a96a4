//! The files of a path with `*` in its last component. Called by `include` and `file_sd`.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::file;
use crate::plan::Glob;

/// The files that match a pattern, in the order of their names; one without `*` is its own only file. The files, and the
/// directory of a pattern with `*`, are added to `watched`.
pub(crate) fn files(pattern: &str, example: &str, watched: &mut Vec<PathBuf>) -> Result<Vec<PathBuf>, PatternError> {
    let path = Path::new(pattern);
    let (Some(name), Some(directory)) = (path.file_name().and_then(|name| name.to_str()), path.parent()) else {
        return Err(PatternError::new("it is not the path of a file", format!("write a path such as {example}")));
    };
    if directory.to_string_lossy().contains('*') {
        return Err(PatternError::new("`*` is allowed in the last component of a path only", "name each directory"));
    }
    if !name.contains('*') {
        watched.push(path.to_owned());
        return Ok(vec![path.to_owned()]);
    }
    let directory = if directory == Path::new("") { Path::new(".") } else { directory };
    watched.push(directory.to_owned());
    let names = file::names(directory).map_err(|error| PatternError {
        read: Some(error.kind()),
        ..PatternError::new(
            format!("cannot read {}: {error}", directory.display()),
            "give the path of a directory that can be read",
        )
    })?;
    let glob = Glob::new(name);
    // A file that begins with a dot is still being written, or a temporary file of an editor.
    let hidden = name.starts_with('.');
    let fits = |name: &str| glob.matches(name) && (hidden || !name.starts_with('.'));
    let mut found: Vec<PathBuf> = names.iter().filter(|name| fits(name)).map(|name| directory.join(name)).collect();
    found.sort();
    watched.extend(found.iter().cloned());
    Ok(found)
}

/// Why the files of a pattern cannot be found, and what to do.
#[derive(Debug)]
pub(crate) struct PatternError {
    pub(crate) what: String,
    pub(crate) help: String,
    /// The directory could not be read, and why.
    pub(crate) read: Option<io::ErrorKind>,
}

impl PatternError {
    pub(super) fn new(what: impl Into<String>, help: impl Into<String>) -> Self {
        Self { what: what.into(), help: help.into(), read: None }
    }
}
