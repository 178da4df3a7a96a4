//! What a session reports: its state, events, counts, and the violations that end it. Values only, made by `session`.

use crate::{Condition, ResponseCode, StatusLine, Syntax};

/// State of the session (RFC 9051 §3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SessionState {
    /// No greeting yet.
    #[default]
    Connected,
    /// Before login.
    NotAuthenticated,
    /// After login.
    Authenticated,
    /// A mailbox is open.
    Selected,
    /// LOGOUT was completed, or BYE came.
    Logout,
}

/// A violation of the protocol after which the stream cannot be trusted. The caller closes the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolViolation {
    /// Framing broke.
    #[error(transparent)]
    Syntax(#[from] Syntax),
    /// The first line is no greeting.
    #[error("the first line is no IMAP greeting")]
    Greeting,
    /// A tagged line with a tag that is not the running command's, or before the command was written.
    #[error("a line bears a tag that is not the running command's")]
    Tag,
    /// A line among the rows of a FETCH that is no response: a row or a literal was cut wrongly.
    #[error("what came among the rows of FETCH is no response")]
    OutOfPlace,
    /// Our tag, and then no status.
    #[error("a tagged line holds no status")]
    Status,
    /// A `+` without a command that waits for one.
    #[error("a continuation that no command waits for")]
    Continuation,
    /// AUTHENTICATE succeeded before the server gave the proof that its mechanism requires, or after it was cancelled.
    #[error("the server accepted the login without the proof that it has the password")]
    Unproven,
    /// More bytes than the limit.
    #[error("more bytes than the limit")]
    Bytes,
    /// More untagged responses than the limit.
    #[error("more untagged responses than the limit")]
    Responses,
}

/// An event. It belongs to the bytes that were taken in the same call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The greeting: OK, PREAUTH or BYE.
    Greeting(StatusResponse),
    /// The first byte of an untagged or tagged response to the command. The bytes themselves are still to be passed in.
    FirstByte,
    /// The first FETCH response with data of a requested message is whole.
    FirstRow,
    /// `+`: the next part may be sent, or the reply that [`Session::answer`](crate::Session::answer) gives.
    Continuation,
    /// The text of an untagged OK with `[ALERT]`. Later rows may show that it was mail: see
    /// [`Session::trusts_untagged`](crate::Session::trusts_untagged).
    Alert(Vec<u8>),
    /// An untagged NO or BAD, which may stay the only response (RFC 9051 §7.1). Its text may be mail, as an alert's.
    Warning(StatusResponse),
    /// BYE outside LOGOUT: the server closes the connection.
    Bye(StatusResponse),
    /// The command's end.
    Tagged(StatusResponse),
}

/// A status response, without its code's argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusResponse {
    /// Its first word.
    pub condition: Condition,
    /// The name of its code.
    pub code: Option<ResponseCode>,
    /// The human-readable text. Untrusted, any bytes.
    pub text: Vec<u8>,
}

impl From<StatusLine<'_>> for StatusResponse {
    fn from(status: StatusLine<'_>) -> Self {
        Self { condition: status.condition, code: status.code.map(|code| code.name), text: status.text.to_vec() }
    }
}

/// What a step has received so far.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SessionProgress {
    /// Bytes received since the previous step's last one.
    pub received: u64,
    /// Untagged responses.
    pub untagged: u64,
    /// Literals.
    pub literals: u64,
    /// Bytes in literals.
    pub literal_bytes: u64,
    /// Requested messages with data beside flags.
    pub rows: u64,
    /// Deviations from the grammar that were tolerated.
    pub deviations: u64,
    /// EXISTS while SELECT ran; the last one that could be read.
    pub exists: Option<u32>,
    /// How many messages a SEARCH found; none without a count.
    pub found: Option<u64>,
    /// Host of a referral.
    pub referral: Option<Vec<u8>>,
}
