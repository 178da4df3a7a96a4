//! A piece of a command: the bytes up to the next `+` that the client waits for. Made by `command` and `sasl`.

use std::fmt;

use zeroize::Zeroizing;

/// Bytes that are sent without waiting. Wiped when dropped: they may hold a password.
pub struct CommandPart {
    /// What is sent.
    pub bytes: Zeroizing<Vec<u8>>,
    /// Whether the next part may only follow a `+`.
    pub then_wait: bool,
}

impl fmt::Debug for CommandPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CommandPart({} bytes)", self.bytes.len())
    }
}
