use std::{future::Future, os::unix::fs::symlink, sync::mpsc};

use futures_util::poll;

use super::*;
use crate::clock;

const SOON: Duration = Duration::from_secs(1);
const LATER: Duration = Duration::from_secs(600);

fn mount(name: &str) -> Origin {
    Origin::Mount(Path::new(name).into())
}

/// Calls that return when this is dropped.
struct Stuck(Vec<mpsc::Sender<()>>);

impl Stuck {
    /// Begins so many calls that do not return, and lets their deadlines pass.
    async fn begin(calls: &Calls, origin: &Origin, count: usize) -> Self {
        let mut stuck = Self(Vec::new());
        for _ in 0..count {
            let (keep, wait) = mpsc::channel();
            stuck.0.push(keep);
            let call = calls.run(Wait::Await, origin.clone(), clock::now().into(), move || until_dropped(&wait));
            assert_eq!(call.await, Err(Unfinished::Deadline(origin.clone())));
        }
        stuck
    }
}

/// Blocks until the other end is dropped.
fn until_dropped(wait: &mpsc::Receiver<()>) {
    wait.recv().unwrap_err();
}

fn small(each: usize) -> Calls {
    Calls {
        files: Class::new(each + 1, each, Duration::MAX),
        commands: Class::new(1, 1, Duration::MAX),
        names: Class::new(1, 1, Duration::MAX),
    }
}

async fn answers(calls: &Calls, origin: Origin) -> Result<u8, Unfinished> {
    calls.run(Wait::Await, origin, (clock::now() + LATER).into(), || 7).await
}

#[tokio::test]
async fn a_call_gives_its_result() {
    assert_eq!(run(mount("/"), clock::now() + LATER, || 7).await, Ok(7));
}

#[tokio::test]
async fn a_stuck_origin_fails_new_calls_at_once_and_leaves_others_alone() {
    let calls = small(2);
    let _stuck = Stuck::begin(&calls, &mount("/hung"), 2).await;
    // With ten minutes to wait, this would not end.
    assert_eq!(answers(&calls, mount("/hung")).await, Err(Unfinished::NoThread(mount("/hung"))));
    assert_eq!(answers(&calls, mount("/")).await, Ok(7));
    for other in [Origin::Command(["pass".to_owned()].into()), Origin::Name("mail.example".into())] {
        assert_eq!(answers(&calls, other).await, Ok(7));
    }
}

#[tokio::test]
async fn a_class_whose_threads_are_all_stuck_fails_new_calls_at_once_and_leaves_other_classes_alone() {
    let calls = small(1);
    let _stuck = (Stuck::begin(&calls, &mount("/a"), 1).await, Stuck::begin(&calls, &mount("/b"), 1).await);
    assert_eq!(answers(&calls, mount("/c")).await, Err(Unfinished::NoThread(mount("/c"))));
    assert_eq!(answers(&calls, Origin::Name("mail.example".into())).await, Ok(7));
}

#[tokio::test]
async fn permits_come_back_when_the_call_really_returns() {
    let calls = small(1);
    let stuck = Stuck::begin(&calls, &mount("/hung"), 1).await;
    assert!(answers(&calls, mount("/hung")).await.is_err());
    drop(stuck);
    while answers(&calls, mount("/hung")).await.is_err() {
        tokio::task::yield_now().await;
    }
    // An origin without calls is forgotten: by the thread that made the last one, a moment after it let its permits go.
    while !calls.files.origins.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn waiting_ends_when_the_last_call_before_it_is_past_its_deadline() {
    let calls = small(1);
    let (keep, wait) = mpsc::channel::<()>();
    let begin = clock::now();
    let mut hangs =
        Box::pin(calls.run(Wait::Await, mount("/hung"), (begin + SOON).into(), move || until_dropped(&wait)));
    assert!(poll!(hangs.as_mut()).is_pending());
    let mut waits = Box::pin(answers(&calls, mount("/hung")));
    assert!(poll!(waits.as_mut()).is_pending());
    tokio::time::advance(SOON).await;
    assert_eq!(waits.await, Err(Unfinished::NoThread(mount("/hung"))));
    assert!(clock::now() < begin + LATER);
    drop(keep);
}

#[tokio::test(start_paused = true)]
async fn no_caller_waits_longer_for_a_mount_than_a_read_usually_takes() {
    let calls = Calls { files: Class::new(2, 1, SOON), ..small(1) };
    let (keep, wait) = mpsc::channel::<()>();
    let begin = clock::now();
    let mut hangs =
        Box::pin(calls.run(Wait::Await, mount("/hung"), (begin + LATER).into(), move || until_dropped(&wait)));
    assert!(poll!(hangs.as_mut()).is_pending());
    let mut waits = Box::pin(answers(&calls, mount("/hung")));
    assert!(poll!(waits.as_mut()).is_pending());
    tokio::time::advance(SOON).await;
    let no_thread = Err(Unfinished::NoThread(mount("/hung")));
    assert_eq!(waits.await, no_thread);
    assert_eq!(answers(&calls, mount("/hung")).await, no_thread);
    // The call itself has its own time.
    drop(keep);
    assert_eq!(hangs.await, Ok(()));
    assert_eq!(answers(&calls, mount("/hung")).await, Ok(7));
}

#[tokio::test(start_paused = true)]
async fn a_pause_of_this_process_is_not_the_time_of_a_call_nor_of_those_behind_it() {
    let calls = small(1);
    let (keep, wait) = mpsc::channel::<()>();
    let begin = clock::now();
    let mut slow = Box::pin(calls.run(Wait::Await, mount("/"), (begin + SOON).into(), move || until_dropped(&wait)));
    assert!(poll!(slow.as_mut()).is_pending());
    let mut behind = Box::pin(calls.run(Wait::Await, mount("/"), (begin + SOON).into(), || 7));
    assert!(poll!(behind.as_mut()).is_pending());
    clock::injected::pause(begin + SOON / 2, begin + 60 * SOON);
    tokio::time::advance(60 * SOON).await;
    assert!(poll!(slow.as_mut()).is_pending() && poll!(behind.as_mut()).is_pending());
    drop(keep);
    assert_eq!(slow.await, Ok(()));
    assert_eq!(behind.await, Ok(7));
}

#[tokio::test]
async fn calls_of_an_origin_take_turns_in_the_order_they_came() {
    let calls = Calls { commands: Class::new(8, 1, Duration::MAX), ..small(1) };
    let same = Origin::Command(["pass".to_owned(), "show".to_owned()].into());
    let (order, came) = mpsc::channel();
    let (keep, wait) = mpsc::channel::<()>();
    let call = |number: u8, wait: Option<mpsc::Receiver<()>>| {
        let order = order.clone();
        let call = move || {
            wait.iter().for_each(until_dropped);
            order.send(number).unwrap();
        };
        Box::pin(calls.run(Wait::Await, same.clone(), (clock::now() + LATER).into(), call))
    };
    let mut all = vec![call(0, Some(wait))];
    all.extend((1..5).map(|number| call(number, None)));
    for waiting in &mut all {
        assert!(poll!(waiting.as_mut()).is_pending());
    }
    drop(keep);
    // The last asks first.
    all.reverse();
    assert!(futures_util::future::join_all(all).await.iter().all(Result::is_ok));
    assert_eq!(came.try_iter().collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
}

#[tokio::test]
async fn a_caller_that_goes_away_frees_nothing_that_its_call_still_holds() {
    let calls = small(1);
    let (keep, wait) = mpsc::channel::<()>();
    let mut gone =
        Box::pin(calls.run(Wait::Await, mount("/hung"), (clock::now() + LATER).into(), move || until_dropped(&wait)));
    assert!(poll!(gone.as_mut()).is_pending());
    drop(gone);
    let mut waits = Box::pin(answers(&calls, mount("/hung")));
    assert!(poll!(waits.as_mut()).is_pending());
    drop(keep);
    assert_eq!(waits.await, Ok(7));
}

/// A runtime that gets no threads: no address space has room for such a stack.
fn without_threads() -> Runtime {
    tokio::runtime::Builder::new_current_thread().thread_stack_size(1 << 50).build().unwrap()
}

#[tokio::test]
async fn work_for_which_the_system_gives_no_thread_is_an_error_and_no_panic_of_its_caller() {
    let without_threads = without_threads();
    let failed = work_on(without_threads.handle(), || ()).await;
    assert!(failed.unwrap_err().is_cancelled());
    without_threads.shutdown_background();
}

#[tokio::test]
async fn a_call_for_which_the_system_gives_no_thread_holds_no_permit() {
    let without_threads = without_threads();
    let calls = small(1);
    let entry = calls.entry(&mount("/"));
    let of_origin = entry.limit.acquire(Wait::Await, (clock::now() + LATER).into()).await.unwrap();
    let of_class = entry.class.all.acquire(Wait::Await, (clock::now() + LATER).into()).await.unwrap();
    assert!(spawn(without_threads.handle(), (of_class, of_origin, entry), || ()).is_none());
    assert!(calls.files.origins.lock().unwrap().is_empty(), "nothing is held of the origin");
    assert_eq!(answers(&calls, mount("/")).await, Ok(7));
    without_threads.shutdown_background();
}

#[tokio::test]
async fn a_panic_in_the_call_is_the_callers() {
    use futures_util::FutureExt as _;
    let calls = small(1);
    let panics = calls.run(Wait::Await, mount("/"), (clock::now() + LATER).into(), || panic!("a panic on purpose"));
    assert!(AssertUnwindSafe(panics).catch_unwind().await.is_err());
    assert_eq!(answers(&calls, mount("/")).await, Ok(7));
}

#[test]
fn a_commands_arguments_are_not_shown() {
    let origin = Origin::Command(["pass".to_owned(), "--key=planted".to_owned()].into());
    let text = format!("{origin} {origin:?} {}", Unfinished::Deadline(origin.clone()));
    assert!(text.contains("pass") && !text.contains("planted"), "{text}");
}

// === paths ===

/// A walk over a tree of this test's, part of which the table says is another mount.
fn walk(path: &Path, points: &[&Path]) -> PathWalk {
    PathWalk::with_table(path, mounts::MountTable::of(points))
}

#[test]
fn a_link_to_another_mount_is_followed_under_that_mount_before_it_is_touched() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().canonicalize().unwrap();
    // Not there: a walk that touched it would end at it.
    let other = root.join("other");
    symlink(&other, root.join("link")).unwrap();
    let mut walk = walk(&root.join("link/file"), &[Path::new("/"), &other]);
    assert_eq!(&*walk.mount(), Path::new("/"));
    assert!(matches!(walk.follow(), WalkEnd::OtherMount));
    assert_eq!(*walk.mount(), other);
    assert!(matches!(walk.follow(), WalkEnd::Here));
}

#[test]
fn links_that_stay_on_the_mount_are_followed_at_one_go() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().canonicalize().unwrap();
    std::fs::create_dir_all(root.join("a/b")).unwrap();
    std::fs::write(root.join("a/file"), "").unwrap();
    symlink("a/b/../file", root.join("one")).unwrap();
    symlink("./one", root.join("two")).unwrap();
    symlink("three", root.join("three")).unwrap();
    for path in ["two", "three", "a/b", "nothing/there"] {
        let mut walk = walk(&root.join(path), &[Path::new("/")]);
        assert!(matches!(walk.follow(), WalkEnd::Here), "{path}");
        assert_eq!(&*walk.mount(), Path::new("/"));
    }
}

#[test]
fn a_mount_that_a_path_only_passes_through_is_entered_under_its_own_name() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().canonicalize().unwrap();
    let through = root.join("through");
    std::fs::create_dir(&through).unwrap();
    std::fs::write(root.join("file"), "").unwrap();
    let mut walk = walk(&root.join("through/../file"), &[Path::new("/"), &through]);
    let mut mounts = vec![walk.mount()];
    while matches!(walk.follow(), WalkEnd::OtherMount) {
        mounts.push(walk.mount());
    }
    assert_eq!(mounts, [Path::new("/").into(), through.into(), Arc::<Path>::from(Path::new("/"))]);
}

#[tokio::test]
async fn a_path_is_handed_on_as_it_was_given() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("file"), "text").unwrap();
    symlink("file", directory.path().join("link")).unwrap();
    let link = directory.path().join("link");
    let read = with_path(&link, clock::now() + LATER, |path| (path.to_owned(), std::fs::read(path).unwrap())).await;
    assert_eq!(read, Ok((link, b"text".to_vec())));
}

#[tokio::test]
async fn a_link_to_a_hung_mount_uses_up_nothing_of_the_mount_that_the_link_is_on() {
    let directory = tempfile::tempdir().unwrap();
    symlink("/proc/self/status", directory.path().join("link")).unwrap();
    let calls = small(1);
    let _stuck = Stuck::begin(&calls, &mount("/proc"), 1).await;
    let deadline = (clock::now() + LATER).into();
    let blocked = calls.with_path(Wait::Await, &directory.path().join("link"), deadline, |_| ()).await;
    assert_eq!(blocked, Err(Unfinished::NoThread(mount("/proc"))));
    assert_eq!(calls.with_path(Wait::Await, directory.path(), deadline, |_| 7).await, Ok(7));
}

/// Keeps a future's type out of sight.
#[expect(dead_code, reason = "it is the compiler that asks")]
fn can_be_sent(path: &Path) -> impl Future<Output = Result<(), Unfinished>> + Send {
    with_path(path, clock::now(), |_| ())
}
