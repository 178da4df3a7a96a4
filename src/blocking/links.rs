//! Follows the symbolic links of a path one by one, so that a link to another mount is found before anything there is touched.

use std::{
    ffi::OsString,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use super::mounts::MountTable;

/// Links that the kernel follows on one path (`path_resolution(7)`).
const MOST_LINKS: u32 = 40;

/// Where a walk has stopped.
pub(super) enum WalkEnd {
    /// At its end, or where the call itself will fail; all on the walk's mount, or above its mount point.
    Here,
    /// At a link or directory that leads to another mount, which is now the walk's mount.
    OtherMount,
}

pub(super) struct PathWalk {
    table: Arc<MountTable>,
    mount: Arc<Path>,
    /// The part without links.
    followed: PathBuf,
    /// The components that remain, in reverse.
    rest: Vec<OsString>,
    links: u32,
}

impl PathWalk {
    pub(super) fn new(path: &Path) -> Self {
        Self::with_table(path, MountTable::current())
    }

    pub(super) fn with_table(path: &Path, table: Arc<MountTable>) -> Self {
        let path = absolute(path);
        let mut walk = Self { mount: Path::new("/").into(), table, followed: "/".into(), rest: Vec::new(), links: 0 };
        walk.go_on(&path);
        walk.mount = walk.table.mount_of(&walk.whole());
        walk
    }

    pub(super) fn mount(&self) -> Arc<Path> {
        self.mount.clone()
    }

    /// Follows the path while it is on the mount. Blocks.
    #[expect(clippy::disallowed_methods, reason = "inside a call of `blocking`")]
    pub(super) fn follow(&mut self) -> WalkEnd {
        while let Some(name) = self.rest.pop() {
            if name == ".." {
                self.followed.pop();
                if self.has_left() {
                    return WalkEnd::OtherMount;
                }
                continue;
            }
            let next = self.followed.join(&name);
            let mount = self.table.mount_of(&next);
            if !self.mount.starts_with(&mount) {
                self.rest.push(name);
                self.mount = mount;
                return WalkEnd::OtherMount;
            }
            match std::fs::read_link(&next) {
                Ok(_) if self.links == MOST_LINKS => return WalkEnd::Here,
                Ok(target) => {
                    self.links += 1;
                    self.go_on(&target);
                    if self.has_left() {
                        return WalkEnd::OtherMount;
                    }
                }
                // No link.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => self.followed = next,
                // The call itself fails with this error.
                Err(_) => return WalkEnd::Here,
            }
        }
        WalkEnd::Here
    }

    /// Puts a path, or the target of a link, before the components that remain.
    fn go_on(&mut self, path: &Path) {
        let before = self.rest.len();
        for component in path.components() {
            match component {
                Component::RootDir | Component::Prefix(_) => self.followed = "/".into(),
                Component::CurDir => {}
                Component::ParentDir => self.rest.push("..".into()),
                Component::Normal(name) => self.rest.push(name.to_owned()),
            }
        }
        if let Some(new) = self.rest.get_mut(before..) {
            new.reverse();
        }
    }

    /// Whether the path is on another mount now, which becomes the walk's.
    fn has_left(&mut self) -> bool {
        let mount = self.table.mount_of(&self.whole());
        let left = mount != self.mount;
        self.mount = mount;
        left
    }

    /// The whole path, as far as it has been resolved.
    fn whole(&self) -> PathBuf {
        normal(&self.followed.join(self.rest.iter().rev().collect::<PathBuf>()))
    }
}

/// The path from the root on.
pub(super) fn absolute(path: &Path) -> PathBuf {
    // getcwd(2) touches no file system.
    std::path::absolute(path).unwrap_or_else(|_| Path::new("/").join(path))
}

/// The path without `.` and `..`, as if there were no links.
pub(super) fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => drop(normal.pop()),
            other => normal.push(other),
        }
    }
    normal
}
