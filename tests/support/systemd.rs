//! A systemd of the test's own, with the whole machine's files under it and none of its processes, sockets and addresses. Needs
//! root. What it writes is in memory and gone with it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use super::program::wait_until;

/// Becomes the first process of namespaces of its own, which ends with the caller, however that ends: `$1` is a directory for
/// mounts, `$2` a control group, `$3` the program to test.
const BOOT: &str = r#"
set -e
mkdir "$2"
echo $$ >"$2/cgroup.procs"
exec setpriv --pdeathsig KILL unshare --mount --pid --fork --uts --ipc --net --cgroup --kill-child=KILL sh -c '
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs "$1"
mkdir "$1/root" "$1/upper" "$1/work"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
root=$1/root
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
ln -s pts/ptmx "$root/dev/ptmx"
mkdir "$root/dev/shm"
mount -t tmpfs tmpfs "$root/dev/shm"
for device in null zero full random urandom tty; do
  touch "$root/dev/$device"
  mount --bind "/dev/$device" "$root/dev/$device"
done
rm -rf "$root/etc/systemd/system" "$root/etc/machine-id" "$root/var/log/journal"
mkdir "$root/etc/systemd/system"
printf "[Unit]\nRequires=systemd-journald.service\n" >"$root/etc/systemd/system/test.target"
echo 0123456789abcdef0123456789abcdef >"$root/etc/machine-id"
touch "$root/usr/bin/imaptrace"
mount --bind "$2" "$root/usr/bin/imaptrace"
ip link set lo up
cd "$root"
mkdir -p old
pivot_root . old
umount -l /old
mount --make-rshared /
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --unit=test.target --show-status=0
' sh "$1" "$3"
"#;

/// How many this process has started.
static STARTED: AtomicU32 = AtomicU32::new(0);

/// The systemd, for as long as it is held.
pub struct Systemd {
    unshare: Child,
    /// Its id outside.
    init: u32,
    group: PathBuf,
    _directory: tempfile::TempDir,
}

impl Systemd {
    /// Starts one in which `program` is /usr/bin/imaptrace, and waits until it takes commands.
    pub fn start(program: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let unified = Path::new("/sys/fs/cgroup/unified");
        let root = if unified.is_dir() { unified } else { Path::new("/sys/fs/cgroup") };
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let group = root.join(format!("imaptrace-systemd-{}-{number}", std::process::id()));
        let mut boot = Command::new("sh");
        boot.args(["-c", BOOT, "sh"]).arg(directory.path()).arg(&group).arg(program);
        let log = fs::File::create(directory.path().join("log")).unwrap();
        boot.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let mut unshare = boot.spawn().unwrap();
        let said = directory.path().join("log");
        let init = wait_until("the first process of the namespaces", || {
            let ended = unshare.try_wait().unwrap();
            assert!(ended.is_none(), "this test needs root: {}", fs::read_to_string(&said).unwrap());
            let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", unshare.id())).ok()?;
            // A program that the script ran before its exec, such as mkdir, has no second process id.
            children.split_whitespace().find_map(|child| {
                let status = fs::read_to_string(format!("/proc/{child}/status")).ok()?;
                let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
                ids.trim_end().ends_with("\t1").then(|| child.parse().unwrap())
            })
        });
        let this = Self { unshare, init, group, _directory: directory };
        wait_until("systemd takes commands", || {
            let state = this.run(&["systemctl", "is-system-running"]);
            let text = String::from_utf8_lossy(&state.stdout).into_owned();
            ["running", "degraded"].contains(&text.trim()).then_some(())
        });
        this
    }

    /// Runs a program inside.
    pub fn run(&self, command: &[&str]) -> Output {
        let init = self.init.to_string();
        let mut nsenter = Command::new("nsenter");
        nsenter
            .args(["-t", &init, "--mount", "--pid", "--net", "--uts", "--ipc"])
            .args(command)
            .env_remove("DOVECOT_EXTRA");
        nsenter.stdin(Stdio::null()).output().unwrap()
    }

    /// The output of a program that has to succeed inside.
    pub fn output(&self, command: &[&str]) -> String {
        let output = self.run(command);
        assert!(output.status.success(), "{command:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// A file inside, as seen from outside.
    pub fn path(&self, path: &str) -> PathBuf {
        Path::new("/proc").join(self.init.to_string()).join("root").join(path.trim_start_matches('/'))
    }

    /// Writes a file inside, with its directories.
    pub fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        // The first process dies with it, and with that all others inside.
        drop(self.unshare.kill());
        drop(self.unshare.wait());
        let inside = format!("/proc/{}", self.init);
        for _ in 0..100 {
            if !Path::new(&inside).exists() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        let remove = ["-depth", "-type", "d", "-exec", "rmdir", "{}", ";"];
        drop(Command::new("find").arg(&self.group).args(remove).output());
    }
}
