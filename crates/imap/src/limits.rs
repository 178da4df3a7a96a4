//! How much a server may send. Set by the caller, enforced by `framer` and `session`.

/// How much is read before the session ends with a [`ProtocolViolation`](crate::ProtocolViolation). Sizes in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// A line without its literals.
    pub line: usize,
    /// All bytes received for one command.
    pub command_bytes: u64,
    /// All bytes received in the session.
    pub session_bytes: u64,
    /// Untagged responses for one command.
    pub responses: u64,
    /// Parentheses inside each other.
    pub depth: u32,
    /// The longest literal that is kept if it may be a name.
    pub literal_kept: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            line: 64 << 10,
            command_bytes: 64 << 20,
            session_bytes: 256 << 20,
            responses: 100_000,
            depth: 32,
            literal_kept: 4 << 10,
        }
    }
}
