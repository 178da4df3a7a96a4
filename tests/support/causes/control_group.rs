//! A control group of the test's own, in cgroup v1 or v2: a CPU quota, or limits of a block device.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process, thread,
    time::Duration,
};

/// What a group limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Controller {
    Cpu,
    Block,
}

/// The group, for as long as it is held. Then its processes are where they were, and without limits.
pub struct ControlGroup {
    path: PathBuf,
    controller: Controller,
    is_v2: bool,
}

impl ControlGroup {
    /// A group without limits and without processes.
    pub fn new(controller: Controller) -> Self {
        let root = Path::new("/sys/fs/cgroup");
        let (v1, v2) = match controller {
            Controller::Cpu => ("cpu", "cpu"),
            Controller::Block => ("blkio", "io"),
        };
        // scripts/test-causes.sh removes groups of this name, whatever has ended the test.
        let name = env::var("CAUSES_GROUPS").unwrap_or_else(|_| format!("imaptrace-causes-{}", process::id()));
        let name = format!("{name}-{v1}");
        let (path, is_v2) = if root.join(v1).join("cgroup.procs").exists() {
            (root.join(v1).join(name), false)
        } else {
            fs::write(root.join("cgroup.subtree_control"), format!("+{v2}")).unwrap_or_else(|error| {
                panic!("this test needs root and the controller {v1} of cgroup v1 or {v2} of cgroup v2: {error}")
            });
            (root.join(name), true)
        };
        fs::create_dir(&path)
            .unwrap_or_else(|error| panic!("this test needs root, for the control group {}: {error}", path.display()));
        Self { path, controller, is_v2 }
    }

    /// Processes that join, and the children that they start from now on.
    pub fn add(&self, processes: &[i32]) {
        for process in processes {
            // One may have ended.
            drop(fs::write(self.path.join("cgroup.procs"), process.to_string()));
        }
    }

    /// CPU time in each 100 ms.
    pub fn limit_cpu(&self, each_100_ms: Duration) {
        assert_eq!(self.controller, Controller::Cpu);
        let micros = each_100_ms.as_micros();
        if self.is_v2 {
            self.set("cpu.max", &format!("{micros} 100000"));
        } else {
            self.set("cpu.cfs_period_us", "100000");
            self.set("cpu.cfs_quota_us", &micros.to_string());
        }
    }

    /// Reads of a device (`MAJOR:MINOR`) in each second; none: no limit.
    pub fn limit_reads(&self, device: &str, each_second: Option<u32>) {
        self.limit_block("blkio.throttle.read_iops_device", "riops", device, each_second);
    }

    /// Writes of a device in each second; none: no limit.
    pub fn limit_writes(&self, device: &str, each_second: Option<u32>) {
        self.limit_block("blkio.throttle.write_iops_device", "wiops", device, each_second);
    }

    fn limit_block(&self, v1: &str, v2: &str, device: &str, each_second: Option<u32>) {
        assert_eq!(self.controller, Controller::Block);
        if self.is_v2 {
            let limit = each_second.map_or_else(|| "max".to_owned(), |limit| limit.to_string());
            self.set("io.max", &format!("{device} {v2}={limit}"));
        } else {
            self.set(v1, &format!("{device} {}", each_second.unwrap_or_default()));
        }
    }

    fn set(&self, file: &str, value: &str) {
        let path = self.path.join(file);
        fs::write(&path, value).unwrap_or_else(|error| panic!("{value:?} to {}: {error}", path.display()));
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        let parent = self.path.parent().unwrap().join("cgroup.procs");
        for _ in 0..200 {
            for process in fs::read_to_string(self.path.join("cgroup.procs")).unwrap_or_default().lines() {
                drop(fs::write(&parent, process));
            }
            if fs::remove_dir(&self.path).is_ok() {
                return;
            }
            // A process that ends is still counted for a moment.
            thread::sleep(Duration::from_millis(20));
        }
        assert!(thread::panicking(), "the control group {} cannot be removed", self.path.display());
    }
}
