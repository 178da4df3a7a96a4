//! One line of an IMAP conversation for `probe --verbose`. It is no part of the [`Run`](super::Run), is never exported, and has no
//! secret and no mail: `probe` redacts it, `terminal` formats it, `cli` writes it.

use super::{Seconds, ServerText};

/// Who sent a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineOrigin {
    /// imaptrace.
    Client,
    /// The server.
    Server,
    /// Neither: an event of the connection, such as the end of the TLS handshake.
    Connection,
}

/// One line of a conversation, redacted and escaped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConversationLine {
    /// Since the start of the run: before the line was sent, or when its last byte arrived.
    pub at_s: Seconds,
    /// Who sent it.
    pub sender: LineOrigin,
    /// The line without its line end; what is not shown is replaced by its size in brackets.
    pub text: ServerText,
}
