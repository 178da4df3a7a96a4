//! Which mount a path is on, by its name, from `/proc/self/mountinfo`: reading that touches no other file system.
//!
//! The file is kept open and read again when the kernel reports a change (`POLLPRI`). Without `/proc` all is one mount.

use std::{
    collections::HashSet,
    ffi::OsString,
    fs::File,
    io::{Read as _, Seek as _},
    os::{fd::AsFd as _, unix::ffi::OsStringExt as _},
    path::Path,
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

#[derive(Debug, Default)]
pub(super) struct MountTable {
    points: HashSet<Arc<Path>>,
}

impl MountTable {
    pub(super) fn current() -> Arc<Self> {
        static KEPT: LazyLock<Mutex<MountInfo>> = LazyLock::new(|| Mutex::new(MountInfo::open("/proc/self/mountinfo")));
        KEPT.lock().unwrap_or_else(PoisonError::into_inner).current()
    }

    /// The mount of an absolute path without `..`: the longest mount point that the path begins with.
    pub(super) fn mount_of(&self, path: &Path) -> Arc<Path> {
        path.ancestors().find_map(|above| self.points.get(above)).cloned().unwrap_or_else(|| Path::new("/").into())
    }

    #[cfg(test)]
    pub(super) fn of(points: &[&Path]) -> Arc<Self> {
        Arc::new(Self { points: points.iter().map(|point| (*point).into()).collect() })
    }

    fn parse(text: &[u8]) -> Self {
        let points = text.split(|byte| *byte == b'\n').filter_map(|line| {
            // Number, parent, device, root, mount point: proc_pid_mountinfo(5).
            let point = line.split(|byte| *byte == b' ').nth(4)?;
            Some(Path::new(&OsString::from_vec(unescaped(point))).into())
        });
        Self { points: points.collect() }
    }
}

/// Decodes a field: space, tab, line end and backslash are written as a backslash and three octal digits.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, others)) = rest.split_first() {
        let escape = if *first == b'\\' { others.get(..3).and_then(octal) } else { None };
        plain.push(escape.unwrap_or(*first));
        rest = if escape.is_some() { others.get(3..).unwrap_or_default() } else { others };
    }
    plain
}

fn octal(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}

struct MountInfo {
    file: Option<File>,
    table: Option<Arc<MountTable>>,
}

impl MountInfo {
    #[expect(clippy::disallowed_methods, reason = "a path below /proc")]
    fn open(path: &str) -> Self {
        Self { file: File::open(path).ok(), table: None }
    }

    fn current(&mut self) -> Arc<MountTable> {
        if self.has_changed() {
            self.table = None;
        }
        match &self.table {
            Some(table) => table.clone(),
            None => self.read().unwrap_or_default(),
        }
    }

    /// Whether the mounts have changed since the last call.
    fn has_changed(&self) -> bool {
        let Some(file) = &self.file else { return false };
        let mut asked = [PollFd::new(file.as_fd(), PollFlags::POLLPRI)];
        // A failure counts as a change.
        poll(&mut asked, PollTimeout::ZERO).map_or(true, |changed| changed > 0)
    }

    fn read(&mut self) -> Option<Arc<MountTable>> {
        let file = self.file.as_mut()?;
        let mut text = Vec::new();
        file.rewind().and_then(|()| file.read_to_end(&mut text)).ok()?;
        let table = Arc::new(MountTable::parse(&text));
        self.table = Some(table.clone());
        Some(table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_on_the_mount_whose_point_is_the_longest_that_it_begins_with() {
        let table = MountTable::parse(
            b"22 1 0:20 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
              30 22 0:31 / /mnt rw - tmpfs tmpfs rw\n\
              31 30 0:32 /sub /mnt/with\\040a\\011blank\\134 rw master:2 - nfs host:/x rw\n",
        );
        let of = |path: &str| table.mount_of(Path::new(path)).to_str().unwrap().to_owned();
        assert_eq!(of("/etc/passwd"), "/");
        assert_eq!(of("/mnt"), "/mnt");
        assert_eq!(of("/mnt/a/b"), "/mnt");
        assert_eq!(of("/mntx/a"), "/");
        assert_eq!(of("/mnt/with a\tblank\\/file"), "/mnt/with a\tblank\\");
        assert_eq!(of("/mnt/with"), "/mnt");
    }

    #[test]
    fn an_escape_that_is_none_stays() {
        assert_eq!(unescaped(b"a\\04"), b"a\\04");
        assert_eq!(unescaped(b"\\9990\\"), b"\\9990\\");
    }

    #[test]
    fn without_the_file_all_is_one_mount() {
        let mut kept = MountInfo::open("/proc/self/no such file");
        assert_eq!(&*kept.current().mount_of(Path::new("/any/where")), Path::new("/"));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_table_of_this_machine_is_read_once_and_kept() {
        let mut kept = MountInfo::open("/proc/self/mountinfo");
        let table = kept.current();
        assert_eq!(&*table.mount_of(Path::new("/proc/self/status")), Path::new("/proc"));
        assert!(Arc::ptr_eq(&table, &kept.current()));
    }
}
