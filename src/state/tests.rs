use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    fcntl::{Flock, FlockArg},
    sys::stat::Mode,
    unistd::{geteuid, mkfifo},
};

use super::{
    attempt::OpenAttempt,
    lock::LOCK,
    ownership::{OWN, own},
    state_dir::mounts_above,
    *,
};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// A directory into which all may write, as an emptyDir of Kubernetes is.
fn open_to_all(home: &tempfile::TempDir) -> PathBuf {
    let path = home.path().join("given");
    fs::create_dir(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    path
}

fn names(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = entries.collect();
    names.sort();
    names
}

fn refusal(path: &Path) -> String {
    match StateDir::open(path) {
        Err(error @ StateDirError::Foreign(_)) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_directory_is_made_for_its_owner_alone_and_held_by_one_until_its_end() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("imaptrace");
    let first = StateDir::open(&path).unwrap();
    assert_eq!(mode(&path), 0o700);
    let error = StateDir::open(&path).unwrap_err();
    assert!(matches!(&error, StateDirError::Held(_, holder) if *holder == Some(std::process::id())), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(&format!("in use by process {}", std::process::id())), "{text}");
    let mut shared = first.clone();
    drop(first);
    assert!(StateDir::open(&path).is_err());
    let last = shared.clone();
    shared.close();
    assert!(StateDir::open(&path).is_err(), "another part of the agent still writes in it");
    drop(last);
    assert!(StateDir::open(&path).is_ok());
}

#[test]
fn what_stands_in_the_way_of_a_directory_is_no_error_and_the_lock_is_taken_when_it_is_gone() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("imaptrace");
    fs::write(&path, "a file").unwrap();
    let state = StateDir::open(&path).unwrap();
    let error = state.ready().unwrap_err().to_string();
    assert!(error.starts_with(&path.display().to_string()), "{error}");
    assert!(!state.hangs());
    fs::remove_file(&path).unwrap();
    state.ready().unwrap();
    assert!(StateDir::open(&path).is_err());
    // And once more when somebody removed it.
    fs::remove_dir_all(&path).unwrap();
    state.ready().unwrap();
    assert!(path.join(LOCK).exists() && StateDir::open(&path).is_err());
}

#[test]
fn in_a_directory_that_others_may_write_into_one_of_our_own_is_made() {
    let home = tempfile::tempdir().unwrap();
    for given_mode in [0o777, 0o1777, 0o770, 0o2775, 0o702] {
        let given = open_to_all(&home);
        fs::set_permissions(&given, fs::Permissions::from_mode(given_mode)).unwrap();
        let state = StateDir::open(&given).unwrap();
        assert_eq!(state.path(), given.join(OWN), "{given_mode:o}");
        assert_eq!(
            (mode(&given.join(OWN)) & 0o777, names(&given), mode(&given)),
            (0o700, vec![OWN.to_owned()], given_mode)
        );
        assert_eq!(names(&state.path()), [LOCK]);
        assert!(StateDir::open(&given).is_err(), "its lock is held");
        drop(state);
        // What stands open of it was closed before anything in it is used.
        fs::set_permissions(given.join(OWN), fs::Permissions::from_mode(0o777)).unwrap();
        StateDir::open(&given).unwrap();
        assert_eq!(mode(&given.join(OWN)), 0o700);
        fs::remove_dir_all(given).unwrap();
    }
    // One that others may only read is used as it is.
    let given = open_to_all(&home);
    fs::set_permissions(&given, fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(StateDir::open(&given).unwrap().path(), given);
}

#[test]
fn what_has_the_name_of_our_own_directory_and_is_none_is_refused_with_what_to_do() {
    let home = tempfile::tempdir().unwrap();
    let given = open_to_all(&home);
    let elsewhere = home.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let own = given.join(OWN);
    symlink(&elsewhere, &own).unwrap();
    let said = refusal(&given);
    assert!(said.contains("is a symbolic link") && said.ends_with(&format!("rm {}", own.display())), "{said}");
    assert_eq!(names(&elsewhere), [""; 0]);
    fs::remove_file(&own).unwrap();
    mkfifo(&own, Mode::S_IRWXU).unwrap();
    let said = refusal(&given);
    assert!(said.contains("is no directory") && said.contains(&format!("mv {0} {0}.old", own.display())), "{said}");
    fs::rename(&own, given.join("imaptrace.old")).unwrap();
    assert_eq!(StateDir::open(&given).unwrap().path(), own, "it was mended");
}

#[test]
fn our_own_directory_that_belongs_to_another_is_refused_and_a_given_one_that_does_is_not_used() {
    assert!(geteuid().is_root(), "only root can give a directory away: run this test as root");
    let home = tempfile::tempdir().unwrap();
    let given = home.path().join("given");
    fs::create_dir(&given).unwrap();
    std::os::unix::fs::chown(&given, Some(65_534), None).unwrap();
    let state = StateDir::open(&given).unwrap();
    assert_eq!(state.path(), given.join(OWN));
    drop(state);
    std::os::unix::fs::chown(given.join(OWN), Some(65_534), None).unwrap();
    let said = refusal(&given);
    assert!(said.contains("belongs to user 65534"), "{said}");
    assert!(said.contains(&format!("chown -R 0 {}", given.join(OWN).display())), "{said}");
}

#[test]
fn check_and_the_agent_report_the_same_of_a_directory() {
    assert!(geteuid().is_root(), "only root can give a directory away: run this test as root");
    let home = tempfile::tempdir().unwrap();
    let given = open_to_all(&home);
    let own = given.join(OWN);
    let shared = StateDir::examine(&given).unwrap().unwrap();
    assert!(shared.contains("mode 0777") && shared.ends_with(&format!("chmod 0700 {}", given.display())), "{shared}");
    assert_eq!(names(&given), [""; 0], "it was only looked at");
    std::os::unix::fs::chown(&given, Some(65_534), None).unwrap();
    let others = StateDir::examine(&given).unwrap().unwrap();
    assert!(others.ends_with(&format!("chown 0 {0} && chmod 0700 {0}", given.display())), "{others}");
    let make: [&dyn Fn(); 3] = [&|| symlink(home.path(), &own).unwrap(), &|| fs::write(&own, "").unwrap(), &|| {
        fs::create_dir(&own).unwrap();
        std::os::unix::fs::chown(&own, Some(65_534), None).unwrap();
    }];
    for make in make {
        make();
        assert_eq!(StateDir::examine(&given).unwrap_err().to_string(), refusal(&given));
        fs::rename(&own, home.path().join("away")).unwrap();
        drop(fs::remove_file(home.path().join("away")));
    }
    assert_eq!(StateDir::examine(&home.path().join("not there")).unwrap(), None);
}

/// The same as the agent's user has it whose files are root's or another's.
#[test]
fn our_own_directory_that_another_user_has_closed_is_refused() {
    const UID: u32 = 4242;
    assert!(geteuid().is_root(), "only root can be another user for a while: run this test as root");
    let home = tempfile::tempdir().unwrap();
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let given = open_to_all(&home);
    fs::create_dir(given.join(OWN)).unwrap();
    fs::set_permissions(given.join(OWN), fs::Permissions::from_mode(0o700)).unwrap();
    // Of this thread alone: glibc's would be the whole process's.
    let become_user = |uid: u32| {
        // SAFETY: setresuid(2) takes three numbers.
        #[expect(unsafe_code, reason = "there is no safe call for one thread")]
        let done = unsafe { libc::syscall(libc::SYS_setresuid, -1, uid, -1) };
        assert_eq!(done, 0);
    };
    let path = given.clone();
    let (said, examined) = std::thread::spawn(move || {
        become_user(UID);
        let (outer, examined) = (Directory::open(&path).unwrap(), StateDir::examine(&path));
        (own(&outer).unwrap_err().to_string(), examined.unwrap_err().to_string())
    })
    .join()
    .unwrap();
    let command = format!("chown -R {UID} {}", given.join(OWN).display());
    assert!(said.contains("belongs to user 0, and the agent runs as user 4242") && said.contains(&command), "{said}");
    assert_eq!(examined, said);
}

#[test]
fn our_own_directory_stays_in_use_when_the_given_one_is_put_right() {
    assert!(geteuid().is_root(), "only root can give a directory away: run this test as root");
    let home = tempfile::tempdir().unwrap();
    let given = open_to_all(&home);
    let own = given.join(OWN);
    let state = StateDir::open(&given).unwrap();
    fs::create_dir(own.join("queue")).unwrap();
    drop(state);
    fs::set_permissions(&given, fs::Permissions::from_mode(0o700)).unwrap();
    let state = StateDir::open(&given).unwrap();
    assert_eq!((state.path(), StateDir::examine(&given).unwrap()), (own.clone(), None));
    drop(state);
    // What another's agent left is not ours to use, and is not passed over in silence.
    std::os::unix::fs::chown(&own, Some(65_534), None).unwrap();
    assert_eq!(StateDir::open(&given).unwrap().path(), given);
    let said = StateDir::examine(&given).unwrap().unwrap();
    assert!(said.contains(&format!("chown -R 0 {0}", own.display())) && said.contains("user 65534"), "{said}");
    // A directory of this name in which no agent was is nobody's state.
    fs::remove_dir_all(&own).unwrap();
    fs::create_dir(&own).unwrap();
    assert_eq!(StateDir::open(&given).unwrap().path(), given);
}

#[test]
fn another_process_finds_the_directory_of_an_agent_and_whether_one_runs() {
    assert!(geteuid().is_root(), "only root can give a directory away: run this test as root");
    let home = tempfile::tempdir().unwrap();
    let find = |path: &Path| {
        let found = AgentDirectory::find(path).map(|found| (found.directory.path().to_owned(), found.in_use));
        found.map_err(|error| error.to_string())
    };
    let given = home.path().join("private");
    assert!(find(&given).unwrap_err().contains("No such file"), "{:?}", find(&given));
    fs::create_dir(&given).unwrap();
    assert_eq!(find(&given), Ok((given.clone(), false)), "as an agent of this user would do");
    let state = StateDir::open(&given).unwrap();
    assert_eq!(find(&given), Ok((given.clone(), true)));
    drop(state);
    assert_eq!(find(&given), Ok((given.clone(), false)));
    assert!(StateDir::open(&given).unwrap().ready().is_ok(), "looking leaves no lock");
    // Another's directory in it, in which an agent of that user was.
    fs::create_dir(given.join(OWN)).unwrap();
    fs::write(given.join(OWN).join(LOCK), "1").unwrap();
    std::os::unix::fs::chown(given.join(OWN), Some(65_534), None).unwrap();
    assert_eq!(find(&given), Ok((given.clone(), false)));

    let given = open_to_all(&home);
    let own = given.join(OWN);
    assert!(find(&given).unwrap_err().contains("no agent has used this directory"), "{:?}", find(&given));
    // A link leads nowhere.
    symlink(home.path(), &own).unwrap();
    assert!(find(&given).unwrap_err().contains("no agent has used this directory"), "{:?}", find(&given));
    fs::remove_file(&own).unwrap();
    let state = StateDir::open(&given).unwrap();
    assert_eq!(find(&given), Ok((own.clone(), true)));
    drop(state);
    assert_eq!(find(&given), Ok((own.clone(), false)));
    // An agent of another user in it, and the given one is root's.
    for path in [&own, &own.join(LOCK)] {
        std::os::unix::fs::chown(path, Some(65_534), None).unwrap();
    }
    assert_eq!(find(&given), Ok((own, false)));
}

#[test]
fn an_agent_that_starts_while_another_process_looks_whether_one_runs_gets_the_lock() {
    let home = tempfile::tempdir().unwrap();
    drop(StateDir::open(home.path()).unwrap());
    let looks = Flock::lock(fs::File::open(home.path().join(LOCK)).unwrap(), FlockArg::LockSharedNonblock).unwrap();
    std::thread::scope(|scope| {
        let starts = scope.spawn(|| StateDir::open(home.path()).map(drop));
        std::thread::sleep(Duration::from_millis(5));
        drop(looks);
        starts.join().unwrap().unwrap();
    });
}

#[test]
fn callers_during_an_attempt_get_its_outcome() {
    let home = tempfile::tempdir().unwrap();
    let state = StateDir::open(&home.path().join("no/parent")).unwrap();
    for _ in 0..50 {
        std::thread::scope(|scope| {
            let asked: Vec<_> = (0..4).map(|_| scope.spawn(|| state.ready().unwrap_err().to_string())).collect();
            for said in asked {
                let said = said.join().unwrap();
                assert!(said.contains("No such file") && said.matches("no/parent").count() == 1, "{said}");
            }
        });
    }
    assert!(!state.hangs());
}

#[test]
fn a_late_attempt_is_an_error_until_its_outcome() {
    let attempt = OpenAttempt::new(String::new());
    let (path, no_time) = (Path::new("/state"), Duration::ZERO);
    for _ in 0..2 {
        let said = attempt.wait(path, no_time).unwrap_err().to_string();
        assert!(said.starts_with("/state: it has not answered within "), "{said}");
    }
    assert!(attempt.is_late());
    let error = about(path, io::ErrorKind::PermissionDenied.into());
    assert!(attempt.end(Err(error.into())), "somebody was told");
    assert!(!attempt.is_late());
    assert_eq!(attempt.wait(path, no_time).unwrap_err().to_string(), "/state: permission denied");
}

#[test]
fn a_lock_that_is_no_file_is_set_aside_and_what_it_leads_to_stays_as_it_is() {
    let home = tempfile::tempdir().unwrap();
    let victim = home.path().join("victim");
    fs::write(&victim, "another's").unwrap();
    let make: [&dyn Fn(&Path); 3] =
        [&|path| symlink(&victim, path).unwrap(), &|path| mkfifo(path, Mode::S_IRWXU).unwrap(), &|path| {
            fs::create_dir(path).unwrap();
        }];
    for (number, make) in make.iter().enumerate() {
        let path = home.path().join(number.to_string());
        fs::create_dir(&path).unwrap();
        make(&path.join(LOCK));
        let _state = StateDir::open(&path).unwrap();
        assert!(StateDir::open(&path).is_err(), "{number}");
        assert_eq!(names(&path), [LOCK, "lock.damaged"]);
        assert_eq!(fs::read_to_string(&victim).unwrap(), "another's");
    }
}

/// What an earlier version left in a directory: files and their content.
fn leave(path: &Path) {
    fs::write(path.join(LOCK), "1\n").unwrap();
    fs::write(path.join("latency.jsonl"), "history").unwrap();
    for (directory, name) in [
        ("queue", "00000000000000000007.jsonl.gz"),
        ("queue", "00000000000000000009.jsonl.gz"),
        ("queue", "cursor"),
        ("refused", "00000001795434160000.jsonl.gz"),
    ] {
        let directory = path.join(directory);
        if !directory.is_dir() {
            fs::create_dir(&directory).unwrap();
        }
        fs::write(directory.join(name), name).unwrap();
    }
}

#[test]
fn what_an_earlier_version_left_is_moved_in_once() {
    let home = tempfile::tempdir().unwrap();
    let given = open_to_all(&home);
    leave(&given);
    drop(StateDir::open(&given).unwrap());
    let own = given.join(OWN);
    assert_eq!(names(&given), [OWN, LOCK]);
    assert_eq!(names(&own), ["latency.jsonl", LOCK, "queue", "refused"]);
    let queue = ["00000000000000000007.jsonl.gz", "00000000000000000009.jsonl.gz", "cursor"];
    assert_eq!(names(&own.join("queue")), queue);
    assert_eq!(mode(&own.join("queue")), 0o700);
    // The version before was started once more: its segments come behind, and nothing takes another's place.
    leave(&given);
    drop(StateDir::open(&given).unwrap());
    assert_eq!(names(&given), [OWN, "latency.jsonl", LOCK], "the history that is used is the newer one");
    let queue =
        [&queue[..2], &["00000000000000000010.jsonl.gz", "00000000000000000011.jsonl.gz"], &queue[2..]].concat();
    assert_eq!(names(&own.join("queue")), queue);
    assert_eq!(names(&own.join("refused")), ["00000001795434160000.jsonl.gz", "00000001795434160001.jsonl.gz"]);
    assert_eq!(fs::read_to_string(own.join("queue").join(queue[2])).unwrap(), queue[0]);
}

#[test]
fn an_agent_of_an_earlier_version_that_still_runs_is_in_the_way() {
    let home = tempfile::tempdir().unwrap();
    let given = open_to_all(&home);
    leave(&given);
    let lock = fs::OpenOptions::new().read(true).write(true).open(given.join(LOCK)).unwrap();
    let held = Flock::lock(lock, FlockArg::LockExclusiveNonblock).unwrap();
    let error = StateDir::open(&given).unwrap_err();
    assert!(matches!(&error, StateDirError::Held(path, _) if *path == given), "{error:?}");
    assert_eq!(names(&given), [OWN, "latency.jsonl", LOCK, "queue", "refused"]);
    drop(held);
    drop(StateDir::open(&given).unwrap());
    assert_eq!(names(&given), [OWN, LOCK]);
}

#[test]
fn what_is_no_file_of_ours_alone_is_not_moved_in() {
    let home = tempfile::tempdir().unwrap();
    let given = open_to_all(&home);
    let victim = home.path().join("victim");
    fs::write(&victim, "another's").unwrap();
    let queue = given.join("queue");
    fs::create_dir(&queue).unwrap();
    let segment = |number: u8| queue.join(format!("{number:020}.jsonl.gz"));
    symlink(&victim, segment(1)).unwrap();
    mkfifo(&segment(2), Mode::S_IRWXU).unwrap();
    fs::create_dir(segment(3)).unwrap();
    // Another name of a file that is elsewhere.
    fs::hard_link(&victim, segment(4)).unwrap();
    fs::write(segment(5), "ours").unwrap();
    symlink(&victim, given.join("latency.jsonl")).unwrap();
    symlink(home.path(), given.join("refused")).unwrap();
    let state = StateDir::open(&given).unwrap();
    assert_eq!(names(&state.path().join("queue")), ["00000000000000000005.jsonl.gz"]);
    assert_eq!(names(&state.path()), [LOCK, "queue"]);
    assert_eq!(names(&queue).len(), 4, "they stay where they are");
    assert_eq!(fs::read_to_string(&victim).unwrap(), "another's");
    assert_eq!(fs::metadata(&victim).unwrap().nlink(), 2);
}

#[test]
fn a_lock_in_the_given_directory_that_is_not_our_file_does_not_prevent_the_start() {
    let home = tempfile::tempdir().unwrap();
    let victim = home.path().join("victim");
    fs::write(&victim, "another's").unwrap();
    let make: [&dyn Fn(&Path); 4] = [
        &|path| symlink(&victim, path).unwrap(),
        &|path| mkfifo(path, Mode::S_IRWXU).unwrap(),
        &|path| fs::create_dir(path).unwrap(),
        &|path| fs::hard_link(&victim, path).unwrap(),
    ];
    for make in make {
        let given = open_to_all(&home);
        leave(&given);
        fs::remove_file(given.join(LOCK)).unwrap();
        make(&given.join(LOCK));
        let state = StateDir::open(&given).unwrap();
        assert_eq!(names(&state.path()), [LOCK]);
        assert_eq!(names(&given).len(), 5, "nothing was moved");
        assert_eq!(fs::read_to_string(&victim).unwrap(), "another's");
        fs::remove_dir_all(&given).unwrap();
    }
}

#[test]
fn what_is_mounted_above_a_path_is_known_by_its_line() {
    let root = mounts_above(Path::new("/"));
    assert!(root.lines().all(|line| line.split(' ').nth(4) == Some("/")), "{root}");
    let proc = mounts_above(Path::new("/proc/self/nothing"));
    assert!(proc.contains(&root) && proc.lines().count() > root.lines().count(), "{proc}");
    assert_eq!(mounts_above(Path::new("/proc2")), root);
}

#[test]
fn what_stands_in_the_place_of_a_file_is_named_by_its_kind_and_not_opened() {
    let home = tempfile::tempdir().unwrap();
    let state = StateDir::open(home.path()).unwrap();
    let (directory, files) = (state.path(), state.ready().unwrap());
    fs::create_dir(directory.join("directory")).unwrap();
    symlink(home.path(), directory.join("link")).unwrap();
    mkfifo(&directory.join("fifo"), Mode::S_IRWXU).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(directory.join("socket")).unwrap();
    for (name, kind) in
        [("directory", "a directory"), ("link", "a symbolic link"), ("fifo", "a FIFO"), ("socket", "a socket")]
    {
        let error = files.open_or_create(name).unwrap_err().to_string();
        assert!(error.contains(kind), "{name}: {error}");
    }
    assert!(files.open_or_create("file").is_ok());
}
