//! A value without a printable form, and where to get it.
//!
//! Configuration holds a [`SecretSource`], a reference. The value is loaded just before a run needs it and is wiped
//! when it is dropped, and so is every copy that is made on the way. This file promises "never in an output", not "never
//! in memory": the TLS library, the kernel and the environment have copies that it cannot reach (SECURITY.md).

mod dumps;
mod form;

pub use dumps::no_dumps;
pub use form::Edge;

use std::{
    ffi::OsString,
    fmt,
    fs::{File, Metadata},
    io::{ErrorKind, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use secrecy::{ExposeSecret as _, SecretString};
use tokio::io::AsyncReadExt as _;
use zeroize::Zeroizing;

use self::form::{Extent, remedy, take};

/// A password. It cannot be printed, compared in telemetry or serialised.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// Takes the value over.
    pub fn new(value: String) -> Self {
        // Copied: a text with room to spare would be moved to give it back, and leave its words where it was.
        Self(SecretString::from(Zeroizing::new(value).as_str()))
    }

    /// The value, for the wire and for finding it in what a server echoes.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl Eq for Secret {}

/// Makes the build fail when a type can be displayed or serialised: then there is more than one answer to `_`.
macro_rules! unprintable {
    ($($hidden:ty),+) => {
        const _: () = {
            trait Answer<Which> {
                const ONE: () = ();
            }
            impl<T: ?Sized> Answer<()> for T {}
            impl<T: ?Sized + std::fmt::Display> Answer<u8> for T {}
            impl<T: ?Sized + serde::Serialize> Answer<u16> for T {}
            $(let () = <$hidden as Answer<_>>::ONE;)+
        };
    };
}
pub(crate) use unprintable;

unprintable!(Secret, SecretSource);

/// Where a secret is.
#[derive(Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// The first line of a file that others cannot read.
    File {
        /// Its path.
        path: PathBuf,
        /// Take it even if others can read it.
        insecure_mode: bool,
    },
    /// An environment variable, whole.
    Env(String),
    /// The first line that a program prints; no shell.
    Command(Vec<String>),
    /// A file in `$CREDENTIALS_DIRECTORY` (systemd `LoadCredential`).
    Credential(String),
    /// Already here, and taken as it is: typed at a prompt or given in the URL.
    Given(Secret),
    /// The source inside, whose value may begin or end with a blank or a byte order mark (`exact = true`).
    Exact(Box<Self>),
    /// Nowhere: who logs in has no password.
    Nowhere,
}

impl fmt::Debug for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, .. } => f.debug_tuple("File").field(path).finish(),
            Self::Env(name) => f.debug_tuple("Env").field(&shown_variable(name)).finish(),
            // Its arguments may be secrets.
            Self::Command(argv) => f
                .debug_tuple("Command")
                .field(&argv.first().map_or("", String::as_str))
                .field(&format_args!("…"))
                .finish(),
            Self::Credential(name) => f.debug_tuple("Credential").field(name).finish(),
            Self::Given(secret) => f.debug_tuple("Given").field(secret).finish(),
            Self::Exact(source) => f.debug_tuple("Exact").field(source).finish(),
            Self::Nowhere => f.write_str("Nowhere"),
        }
    }
}

/// A secret that could not be had. Says where it was looked for, never what was found.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read.
    #[error("cannot read the secret file {path}: {source}", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Others can read or change the file.
    #[error("the secret file {path} has mode {mode:04o}: others can read or change it; run `chmod 600` on it", path = path.display())]
    Mode {
        /// Which.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Somebody else owns the file.
    #[error("the secret file {path} belongs to user {owner}, neither to root nor to the user that runs imaptrace", path = path.display())]
    Owner {
        /// Which.
        path: PathBuf,
        /// Its owner's id.
        owner: u32,
    },
    /// Anybody can put another file in its place.
    #[error("others can write into the folder of the secret file {path}, and so put another in its place; run `chmod o-w` on the folder", path = path.display())]
    Folder {
        /// Which file.
        path: PathBuf,
    },
    /// It is a directory, a device, or the like.
    #[error("the secret file {path} is not a regular file", path = path.display())]
    NotAFile {
        /// Which.
        path: PathBuf,
    },
    /// The variable is not set or not UTF-8.
    #[error("the environment variable {} is not set, or is not UTF-8", shown_variable(.0))]
    Env(String),
    /// The program could not be run or ended badly.
    #[error("the password command {program:?} {problem}")]
    Command {
        /// Its first word.
        program: String,
        /// What went wrong.
        problem: String,
    },
    /// systemd gave this process no credentials.
    #[error("$CREDENTIALS_DIRECTORY is not set: is imaptrace run by systemd with LoadCredential={0}:…?")]
    NoCredentials(String),
    /// It is empty.
    #[error("the secret from {0} is empty")]
    Empty(String),
    /// It begins or ends with a blank or a byte order mark, and nothing says that this is meant.
    #[error("the secret from {place} {edge}: {}", remedy(*.edge))]
    Edge {
        /// Where it is from.
        place: String,
        /// What stands there.
        edge: Edge,
    },
    /// CR, LF or NUL: no IMAP command can carry it.
    #[error("the secret from {0} holds CR, LF or NUL, which no IMAP command can carry")]
    Control(String),
    /// Not UTF-8.
    #[error("the secret from {0} is not UTF-8: save it as UTF-8")]
    NotUtf8(String),
    /// UTF-16.
    #[error("the secret from {0} is in UTF-16, not UTF-8: save it as UTF-8 without a byte order mark")]
    Utf16(String),
    /// Over 64 KiB.
    #[error("the secret from {0} is larger than 64 KiB: is it the right one?")]
    TooLarge(String),
}

const LARGEST: usize = 64 << 10;
const COMMAND_DEADLINE: Duration = Duration::from_secs(10);

impl SecretSource {
    /// Fetches the value.
    ///
    /// `child_env` are variables that a password command gets back as the operator had set them.
    pub async fn load(&self, child_env: &[(OsString, Option<OsString>)]) -> Result<Secret, SecretError> {
        let (source, exact) = self.plain();
        match source {
            Self::Nowhere | Self::Exact(_) => Ok(Secret::new(String::new())),
            Self::Given(secret) => {
                take(secret.expose().as_bytes(), Extent::Whole, true, || "the prompt or the URL".to_owned())
            }
            Self::Env(name) => {
                let value = std::env::var(name).map_err(|_| SecretError::Env(name.clone()))?;
                take(&Zeroizing::new(value.into_bytes()), Extent::Whole, exact, || {
                    format!("environment variable {}", shown_variable(name))
                })
            }
            Self::File { path, insecure_mode } => read_file(path, *insecure_mode, exact, || in_words(path)),
            Self::Credential(name) => {
                let directory = std::env::var_os("CREDENTIALS_DIRECTORY")
                    .ok_or_else(|| SecretError::NoCredentials(name.clone()))?;
                // systemd makes these files itself, mode 0400 or, with an ACL, 0440.
                let path = PathBuf::from(directory).join(name);
                read_file(&path, true, exact, || format!("credential {name} ({})", path.display()))
            }
            Self::Command(argv) => run_command(argv, child_env, exact).await,
        }
    }

    /// The source itself, and whether its value may begin or end with a blank or a byte order mark.
    pub fn plain(&self) -> (&Self, bool) {
        match self {
            Self::Exact(source) => (source.plain().0, true),
            source => (source, false),
        }
    }

    /// Whether a secret's file is there, may be read, is nobody else's, and holds what a secret can be. What was read for
    /// this is wiped at once; sources other than files are not looked at.
    pub fn check(&self) -> Result<(), SecretError> {
        match self.plain() {
            (Self::File { path, insecure_mode }, exact) => {
                read_file(path, *insecure_mode, exact, || in_words(path)).map(drop)
            }
            _ => Ok(()),
        }
    }
}

/// Reads the file of a private key, if it is nobody else's.
pub fn read_key(path: &Path) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    let key = take_in(path, false)?;
    if key.bytes().len() > LARGEST {
        return Err(SecretError::TooLarge(in_words(path)));
    }
    Ok(Zeroizing::new(key.bytes().to_vec()))
}

/// The name of a variable as it may be told: somebody may have put the secret itself where its variable's name belongs,
/// and that is seldom all capitals.
pub fn shown_variable(name: &str) -> &str {
    let is_usual = name.bytes().all(|byte| matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'_'));
    if is_usual && name.len() <= 64 { name } else { "(not shown: its name is not in capitals)" }
}

fn read_file(path: &Path, insecure_mode: bool, exact: bool, place: impl Fn() -> String) -> Result<Secret, SecretError> {
    take(take_in(path, insecure_mode)?.bytes(), Extent::FirstLine, exact, place)
}

/// All of a secret's file, or one byte more than the largest that is taken.
fn take_in(path: &Path, insecure_mode: bool) -> Result<Intake, SecretError> {
    let (mut file, _) = open_file(path, insecure_mode)?;
    let mut value = Intake::new();
    loop {
        match file.read(value.room()) {
            Ok(0) => return Ok(value),
            Ok(count) => value.took(count),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(source) => return Err(unreadable(path, source)),
        }
    }
}

/// A value that is being read. Grown by hand, so that no outgrown memory with a secret in it is left behind unwiped.
struct Intake {
    memory: Zeroizing<Vec<u8>>,
    taken: usize,
}

impl Intake {
    /// One byte more than the largest that is taken shows that it is larger.
    const MOST: usize = LARGEST + 1;

    fn new() -> Self {
        Self { memory: Zeroizing::new(vec![0; 256]), taken: 0 }
    }

    /// Where to read into; empty when it holds the most.
    fn room(&mut self) -> &mut [u8] {
        if self.taken == self.memory.len() && self.taken < Self::MOST {
            let mut larger = Zeroizing::new(vec![0; (self.taken * 2).min(Self::MOST)]);
            if let Some(start) = larger.get_mut(..self.taken) {
                start.copy_from_slice(&self.memory);
            }
            self.memory = larger;
        }
        self.memory.get_mut(self.taken..).unwrap_or_default()
    }

    fn took(&mut self, count: usize) {
        self.taken += count;
    }

    fn bytes(&self) -> &[u8] {
        self.memory.get(..self.taken).unwrap_or_default()
    }
}

/// Opens a secret's file if it is a file and nobody else's.
fn open_file(path: &Path, insecure_mode: bool) -> Result<(File, Metadata), SecretError> {
    // Opening a pipe would wait for its other end.
    let meta = std::fs::metadata(path).map_err(|source| unreadable(path, source))?;
    if !meta.is_file() {
        return Err(SecretError::NotAFile { path: path.to_owned() });
    }
    // What was opened is examined again, lest it was swapped in between.
    let file = File::open(path).map_err(|source| unreadable(path, source))?;
    let meta = file.metadata().map_err(|source| unreadable(path, source))?;
    if !insecure_mode {
        let me = nix::unistd::geteuid().as_raw();
        if meta.uid() != 0 && meta.uid() != me {
            return Err(SecretError::Owner { path: path.to_owned(), owner: meta.uid() });
        }
        if meta.mode() & 0o026 != 0 {
            return Err(SecretError::Mode { path: path.to_owned(), mode: meta.mode() & 0o7777 });
        }
        // With the sticky bit nobody can take away what is another's.
        let folder = path.parent().map(|folder| if folder == Path::new("") { Path::new(".") } else { folder });
        let folder = folder.map(std::fs::metadata).transpose().map_err(|source| unreadable(path, source))?;
        if folder.is_some_and(|folder| folder.mode() & 0o1002 == 0o002) {
            return Err(SecretError::Folder { path: path.to_owned() });
        }
    }
    Ok((file, meta))
}

fn unreadable(path: &Path, source: std::io::Error) -> SecretError {
    SecretError::File { path: path.to_owned(), source }
}

fn in_words(path: &Path) -> String {
    format!("file {}", path.display())
}

async fn run_command(
    argv: &[String],
    child_env: &[(OsString, Option<OsString>)],
    exact: bool,
) -> Result<Secret, SecretError> {
    let program = argv.first().cloned().unwrap_or_default();
    let failed = |problem: String| SecretError::Command { program: program.clone(), problem };
    let mut command = tokio::process::Command::new(&program);
    command
        .args(argv.iter().skip(1))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    for (name, value) in child_env {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let mut child = command.spawn().map_err(|error| failed(format!("cannot be started: {error}")))?;
    let mut value = Intake::new();
    let run = async {
        if let Some(mut stdout) = child.stdout.take() {
            loop {
                match stdout.read(value.room()).await? {
                    0 => break,
                    count => value.took(count),
                }
            }
        }
        child.wait().await
    };
    let status = tokio::time::timeout(COMMAND_DEADLINE, run)
        .await
        .map_err(|_| failed(format!("did not end within {} s", COMMAND_DEADLINE.as_secs())))?
        .map_err(|error| failed(format!("cannot be read: {error}")))?;
    // One that says more than is read may have ended for that.
    if value.bytes().len() <= LARGEST && !status.success() {
        return Err(failed(format!("ended with {status}")));
    }
    take(value.bytes(), Extent::FirstLine, exact, || format!("command {program:?}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn file(content: &[u8], mode: u32) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("password");
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        (directory, path)
    }

    async fn load(source: SecretSource) -> Result<String, String> {
        source.load(&[]).await.map(|secret| secret.expose().to_owned()).map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn a_file_gives_its_first_line_without_the_line_end() {
        let (_keep, path) = file(b"two words \"q\" \\ p\xc3\xa4ss\r\nsecond", 0o600);
        assert_eq!(load(SecretSource::File { path, insecure_mode: false }).await.unwrap(), "two words \"q\" \\ päss");
    }

    #[tokio::test]
    async fn a_file_that_others_can_read_is_refused_unless_told() {
        let (_keep, path) = file(b"canary", 0o644);
        let error = load(SecretSource::File { path: path.clone(), insecure_mode: false }).await.unwrap_err();
        assert!(error.contains("0644") && error.contains("chmod 600") && !error.contains("canary"), "{error}");
        assert_eq!(load(SecretSource::File { path, insecure_mode: true }).await.unwrap(), "canary");
    }

    #[tokio::test]
    async fn a_command_gives_its_first_line_and_a_failing_one_shows_nothing_of_it() {
        let command = |script: &str| SecretSource::Command(vec!["sh".into(), "-c".into(), script.into()]);
        assert_eq!(load(command("echo canary; echo more")).await.unwrap(), "canary");
        let error = load(command("echo canary; exit 3")).await.unwrap_err();
        assert!(error.contains("exit status: 3") && !error.contains("canary"), "{error}");
    }

    #[tokio::test]
    async fn empty_and_huge_values_are_errors() {
        let (_keep, path) = file(b"\n", 0o600);
        assert!(load(SecretSource::File { path, insecure_mode: false }).await.unwrap_err().contains("empty"));
        let (_keep, path) = file(&vec![b'x'; 70_000], 0o600);
        assert!(load(SecretSource::File { path, insecure_mode: false }).await.unwrap_err().contains("64 KiB"));
    }

    #[tokio::test]
    async fn a_value_of_any_length_comes_whole_and_the_largest_is_the_largest() {
        for length in [1, 255, 256, 257, 5000, LARGEST] {
            let long: String = ('a'..='w').cycle().take(length).collect();
            let (_keep, path) = file(long.as_bytes(), 0o600);
            assert!(load(SecretSource::File { path: path.clone(), insecure_mode: false }).await.as_ref() == Ok(&long));
            let cat = SecretSource::Command(vec!["cat".into(), path.display().to_string()]);
            assert!(load(cat).await.as_ref() == Ok(&long), "{length}");
        }
        for larger in [LARGEST + 1, 1 << 20] {
            let (_keep, path) = file(&vec![b'x'; larger], 0o600);
            let cat = SecretSource::Command(vec!["cat".into(), path.display().to_string()]);
            assert!(load(cat).await.unwrap_err().contains("64 KiB"), "{larger}");
        }
    }

    #[tokio::test]
    async fn a_file_in_a_folder_that_others_write_into_is_refused_unless_told_or_sticky() {
        let (keep, path) = file(b"canary", 0o600);
        let folder = |mode| std::fs::set_permissions(keep.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        let strict = || SecretSource::File { path: path.clone(), insecure_mode: false };
        folder(0o777);
        let error = load(strict()).await.unwrap_err();
        assert!(error.contains("chmod o-w") && !error.contains("canary"), "{error}");
        assert_eq!(load(SecretSource::File { path: path.clone(), insecure_mode: true }).await.unwrap(), "canary");
        for mode in [0o1777, 0o775] {
            folder(mode);
            assert_eq!(load(strict()).await.unwrap(), "canary", "{mode:o}");
        }
    }

    #[tokio::test]
    async fn of_a_link_it_is_the_file_behind_it_that_must_be_nobody_elses() {
        let (keep, path) = file(b"canary", 0o644);
        let link = keep.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let strict = || SecretSource::File { path: link.clone(), insecure_mode: false };
        assert!(load(strict()).await.unwrap_err().contains("0644"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o400)).unwrap();
        assert_eq!(load(strict()).await.unwrap(), "canary");
        assert!(load(SecretSource::File { path: keep.path().into(), insecure_mode: false }).await.is_err());
    }

    #[test]
    fn a_key_is_read_whole_and_only_if_others_cannot() {
        let (_keep, path) = file(b"-----BEGIN\nmore\n", 0o600);
        assert_eq!(*read_key(&path).unwrap(), b"-----BEGIN\nmore\n");
        for mode in [0o644, 0o620, 0o606] {
            let (_keep, path) = file(b"canary", mode);
            let error = read_key(&path).unwrap_err().to_string();
            assert!(error.contains("chmod 600") && !error.contains("canary"), "{mode:o}: {error}");
        }
        let (_keep, path) = file(&vec![b'x'; 70_000], 0o600);
        assert!(read_key(&path).unwrap_err().to_string().contains("64 KiB"));
    }

    #[test]
    fn no_printable_form() {
        assert_eq!(format!("{:?}", SecretSource::Given(Secret::new("canary".into()))), "Given([secret])");
        assert_eq!(format!("{:?}", SecretSource::Env("MAIL_1".into())), "Env(\"MAIL_1\")");
        let variable = SecretSource::Env("canary7".into());
        let told = format!("{variable:?} {}", SecretError::Env("canary7".into()));
        assert!(!told.contains("canary7"), "{told}");
        let command = SecretSource::Command(vec!["pass".into(), "--key=canary".into()]);
        assert_eq!(format!("{command:?}"), "Command(\"pass\", …)");
    }
}
