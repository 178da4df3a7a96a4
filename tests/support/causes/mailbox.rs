//! The mailbox of the probes: mail that arrives, locks that another process holds, 100,000 messages.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::{OpenOptionsExt as _, chown},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, UNIX_EPOCH},
};

use imaptrace::clock;
use nix::fcntl::{FcntlArg, fcntl};

use super::{background::Background, storage::succeed};

/// nobody, whose the mail is.
pub const OWNER: u32 = 65534;
/// nogroup.
pub const GROUP: u32 = 65534;

/// Makes a home with this many messages in its Maildir.
pub fn make(home: &Path, messages: u32) {
    fs::create_dir_all(home).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/mailbox.pl");
    succeed(Command::new(script).arg(home.join("Maildir")).args([&messages.to_string(), "probe1"]));
    own(home);
}

/// Copies a home, with the indexes in it.
pub fn copy(from: &Path, to: &Path) {
    succeed(Command::new("cp").arg("-a").arg(from).arg(to));
}

/// Makes a home with 100,000 messages, which are links to a few files.
pub fn make_huge(home: &Path) {
    const MESSAGES: u32 = 100_000;
    // A file of ext4 has 65,000 links at most.
    const FILES: u32 = 4;
    make(home, FILES);
    let cur = home.join("Maildir/cur");
    let files: Vec<PathBuf> = fs::read_dir(&cur).unwrap().map(|file| file.unwrap().path()).collect();
    let sizes: Vec<u64> = files.iter().map(|file| fs::metadata(file).unwrap().len()).collect();
    for number in 0..MESSAGES - FILES {
        let at = (number % FILES) as usize;
        let (time, size) = (1_600_000_000 + number * 500, sizes[at]);
        let name = format!("{time}.M{number}P2.example,S={size},W={size}:2,S");
        fs::hard_link(&files[at], cur.join(name)).unwrap();
    }
    own(home);
}

fn own(path: &Path) {
    succeed(Command::new("chown").args(["-R", &format!("{OWNER}:{GROUP}")]).arg(path));
}

/// Puts a message into `new`, as a delivery does.
pub fn deliver(maildir: &Path) {
    let now = clock::wall().duration_since(UNIX_EPOCH).unwrap();
    let name = format!("{}.M{}P3.example", now.as_secs(), now.subsec_micros());
    let temporary = maildir.join("tmp").join(&name);
    let text = format!(
        "Return-Path: <news@example.org>\r\nReceived: from out.example.org by in.example.com; Mon, 23 Nov 2026 10:00:00 \
         +0000\r\nDate: Mon, 23 Nov 2026 10:00:00 +0000\r\nFrom: News <news@example.org>\r\nTo: <probe1@example.com>\r\n\
         Subject: It is {}\r\nMessage-ID: <{name}@example.org>\r\n\r\nNothing new.\r\n",
        now.as_secs()
    );
    fs::write(&temporary, text).unwrap();
    chown(&temporary, Some(OWNER), Some(GROUP)).unwrap();
    fs::rename(&temporary, maildir.join("new").join(&name)).unwrap();
}

/// Mail that arrives every so often while this is held.
pub fn deliveries(maildir: PathBuf, every: Duration) -> Background {
    Background::start(move |stop| {
        deliver(&maildir);
        while stop.pause(every) {
            deliver(&maildir);
        }
    })
}

/// The lock file of the list of UIDs, which another process has again and again.
pub fn hold_uidlist(maildir: PathBuf, held: Duration, free: Duration) -> Background {
    let host = nix::unistd::gethostname().unwrap().into_string().unwrap();
    Background::start(move |stop| {
        let lock = maildir.join("dovecot-uidlist.lock");
        loop {
            // Dovecot itself may have it just now.
            let mine = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&lock);
            let Ok(mut mine) = mine else {
                if stop.pause(Duration::from_millis(5)) {
                    continue;
                }
                return;
            };
            mine.write_all(format!("{}:{host}", std::process::id()).as_bytes()).unwrap();
            chown(&lock, Some(OWNER), Some(GROUP)).unwrap();
            deliver(&maildir);
            let goes_on = stop.pause(held);
            fs::remove_file(&lock).unwrap();
            if !goes_on || !stop.pause(free) {
                return;
            }
        }
    })
}

/// The lock of the index, which another process has again and again.
pub fn hold_index(maildir: PathBuf, held: Duration, free: Duration) -> Background {
    Background::start(move |stop| {
        loop {
            let log = fs::OpenOptions::new().read(true).write(true).open(maildir.join("dovecot.index.log")).unwrap();
            let write = libc::F_WRLCK.try_into().unwrap();
            let all = libc::flock { l_type: write, l_whence: 0, l_start: 0, l_len: 0, l_pid: 0 };
            fcntl(&log, FcntlArg::F_OFD_SETLKW(&all)).unwrap();
            deliver(&maildir);
            let goes_on = stop.pause(held);
            drop(log);
            if !goes_on || !stop.pause(free) {
                return;
            }
        }
    })
}
