//! The closed sets of IMAP as types: command names, conditions, response codes, SASL mechanisms (RFC 9051 §6, §7.1).
//!
//! A word that a server sent becomes one of these or nothing, so that no word of a server can become a label. They are parsed
//! by `response` and `code`, sent by `command`, and recorded by the callers of this crate.

use std::{fmt, str::FromStr};

/// A word that is none of a closed set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a known name")]
pub struct UnknownName;

macro_rules! names {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $name {
            /// All of them, in order.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The name on the wire, in capitals.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// The one of this name, in any case.
            pub fn parse(name: &[u8]) -> Option<Self> {
                Self::ALL.iter().copied().find(|known| name.eq_ignore_ascii_case(known.as_str().as_bytes()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        /// Exact, in capitals.
        impl FromStr for $name {
            type Err = UnknownName;

            fn from_str(name: &str) -> Result<Self, UnknownName> {
                Self::ALL.iter().copied().find(|known| name == known.as_str()).ok_or(UnknownName)
            }
        }
    };
}

names! {
    /// The commands of a client that have a name in a record. [`Command`](crate::Command) sends some of them.
    CommandName {
        /// Stores a message (RFC 9051 §6.3.12).
        Append = "APPEND",
        /// Logs in by SASL (RFC 9051 §6.2.2).
        Authenticate = "AUTHENTICATE",
        /// Asks for the capabilities (RFC 9051 §6.1.1).
        Capability = "CAPABILITY",
        /// Closes the mailbox and expunges (RFC 9051 §6.4.1).
        Close = "CLOSE",
        /// Begins compression (RFC 4978).
        Compress = "COMPRESS",
        /// Creates a mailbox (RFC 9051 §6.3.4).
        Create = "CREATE",
        /// Enables an extension (RFC 9051 §6.3.1).
        Enable = "ENABLE",
        /// Opens a mailbox read-only (RFC 9051 §6.3.3).
        Examine = "EXAMINE",
        /// Reads messages (RFC 9051 §6.4.5).
        Fetch = "FETCH",
        /// Names the client and the server (RFC 2971).
        Id = "ID",
        /// Waits for changes (RFC 9051 §6.3.13).
        Idle = "IDLE",
        /// Lists mailboxes (RFC 9051 §6.3.9).
        List = "LIST",
        /// Logs in by user name and password (RFC 9051 §6.2.3).
        Login = "LOGIN",
        /// Ends the session (RFC 9051 §6.1.3).
        Logout = "LOGOUT",
        /// Asks for the namespaces (RFC 9051 §6.3.10).
        Namespace = "NAMESPACE",
        /// Does nothing (RFC 9051 §6.1.2).
        Noop = "NOOP",
        /// Finds messages (RFC 9051 §6.4.4).
        Search = "SEARCH",
        /// Opens a mailbox (RFC 9051 §6.3.2).
        Select = "SELECT",
        /// Begins TLS (RFC 9051 §6.2.1).
        StartTls = "STARTTLS",
        /// Asks about a mailbox (RFC 9051 §6.3.11).
        Status = "STATUS",
        /// Closes the mailbox (RFC 9051 §6.4.2).
        Unselect = "UNSELECT",
    }
}

names! {
    /// The first word of a status response (RFC 9051 §7.1).
    Condition {
        /// Done, or just information.
        Ok = "OK",
        /// Not done.
        No = "NO",
        /// Not understood.
        Bad = "BAD",
        /// The server closes the connection.
        Bye = "BYE",
        /// Greeting: already logged in.
        Preauth = "PREAUTH",
    }
}

names! {
    /// A SASL mechanism that this crate has.
    Mechanism {
        /// By the certificate that the client showed in the TLS handshake (RFC 4422 appendix A).
        External = "EXTERNAL",
        /// By the password itself (RFC 4616).
        Plain = "PLAIN",
        /// By a proof that the client has the password, which the server answers with one of its own (RFC 5802, RFC 7677).
        ScramSha256 = "SCRAM-SHA-256",
    }
}

names! {
    /// The name of a response code (RFC 9051 §7.1, RFC 5530; RFC 2060, 2193, 3516, 4469, 4978, 7162, 8474, 9585 and 9738).
    ResponseCode {
        /// Words that a user has to see (RFC 9051).
        Alert = "ALERT",
        /// The mailbox to create exists (RFC 5530).
        AlreadyExists = "ALREADYEXISTS",
        /// UID of an appended message (RFC 9051).
        AppendUid = "APPENDUID",
        /// User name or password is wrong (RFC 5530).
        AuthenticationFailed = "AUTHENTICATIONFAILED",
        /// The user may not act for the authorization identity (RFC 5530).
        AuthorizationFailed = "AUTHORIZATIONFAILED",
        /// The charset of a SEARCH is not supported (RFC 9051).
        BadCharset = "BADCHARSET",
        /// The operation is never possible on this mailbox (RFC 5530).
        Cannot = "CANNOT",
        /// The capability list (RFC 9051).
        Capability = "CAPABILITY",
        /// The client broke the protocol (RFC 5530).
        ClientBug = "CLIENTBUG",
        /// The mailbox that was open is closed (RFC 9051).
        Closed = "CLOSED",
        /// Compression is active already (RFC 4978).
        CompressionActive = "COMPRESSIONACTIVE",
        /// Only the administrator can help (RFC 5530).
        ContactAdmin = "CONTACTADMIN",
        /// UIDs of copied messages (RFC 9051).
        CopyUid = "COPYUID",
        /// The server's data are damaged (RFC 5530).
        Corruption = "CORRUPTION",
        /// The password has expired (RFC 5530).
        Expired = "EXPIRED",
        /// Messages were expunged by another session (RFC 5530).
        ExpungeIssued = "EXPUNGEISSUED",
        /// The mailbox has children and cannot be deleted (RFC 9051).
        HasChildren = "HASCHILDREN",
        /// The highest MODSEQ of the mailbox (RFC 7162).
        HighestModSeq = "HIGHESTMODSEQ",
        /// How far a long command has come (RFC 9585).
        InProgress = "INPROGRESS",
        /// Another session holds a lock (RFC 5530).
        InUse = "INUSE",
        /// A limit of the server is reached (RFC 5530).
        Limit = "LIMIT",
        /// The id of a created mailbox (RFC 8474).
        MailboxId = "MAILBOXID",
        /// More messages than one command may touch (RFC 9738).
        MessageLimit = "MESSAGELIMIT",
        /// Messages that a conditional STORE left alone (RFC 7162).
        Modified = "MODIFIED",
        /// The mailbox has another name (RFC 2060).
        NewName = "NEWNAME",
        /// The mailbox has no MODSEQ (RFC 7162).
        NoModSeq = "NOMODSEQ",
        /// There is no such mailbox (RFC 5530).
        NonExistent = "NONEXISTENT",
        /// The user's rights do not allow it (RFC 5530).
        NoPerm = "NOPERM",
        /// The result of a SEARCH was not saved (RFC 9051).
        NotSaved = "NOTSAVED",
        /// The quota is used up (RFC 5530).
        OverQuota = "OVERQUOTA",
        /// A message could not be parsed (RFC 9051).
        Parse = "PARSE",
        /// The flags that can be changed for good (RFC 9051).
        PermanentFlags = "PERMANENTFLAGS",
        /// The login requires TLS (RFC 5530).
        PrivacyRequired = "PRIVACYREQUIRED",
        /// The mailbox is open read-only (RFC 9051).
        ReadOnly = "READ-ONLY",
        /// The mailbox is open for reading and writing (RFC 9051).
        ReadWrite = "READ-WRITE",
        /// The mailbox or user is on another server (RFC 2193, RFC 2221).
        Referral = "REFERRAL",
        /// A fault inside the server (RFC 5530).
        ServerBug = "SERVERBUG",
        /// The message is too large (RFC 4469).
        TooBig = "TOOBIG",
        /// The mailbox does not exist and can be created (RFC 9051).
        TryCreate = "TRYCREATE",
        /// The UID that the next message gets (RFC 9051).
        UidNext = "UIDNEXT",
        /// The mailbox does not keep UIDs (RFC 9051).
        UidNotSticky = "UIDNOTSTICKY",
        /// How long the UIDs are valid (RFC 9051).
        UidValidity = "UIDVALIDITY",
        /// A part behind the server is down (RFC 5530).
        Unavailable = "UNAVAILABLE",
        /// A part's transfer encoding is not known (RFC 3516).
        UnknownCte = "UNKNOWN-CTE",
        /// The first message without `\Seen` (RFC 3501).
        Unseen = "UNSEEN",
        /// None of the above. No server sends this word.
        Other = "_OTHER",
    }
}

/// How a user logs in: by LOGIN, or by AUTHENTICATE with a mechanism (RFC 9051 §6.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LoginMethod {
    /// The LOGIN command.
    Login,
    /// AUTHENTICATE with this mechanism.
    Sasl(Mechanism),
}

impl LoginMethod {
    /// The mechanism's name, or `LOGIN`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Login => "LOGIN",
            Self::Sasl(mechanism) => mechanism.as_str(),
        }
    }

    /// The command that carries it.
    pub const fn command(self) -> CommandName {
        match self {
            Self::Login => CommandName::Login,
            Self::Sasl(_) => CommandName::Authenticate,
        }
    }
}

impl fmt::Display for LoginMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for LoginMethod {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, UnknownName> {
        if name == Self::Login.as_str() { Ok(Self::Login) } else { name.parse().map(Self::Sasl) }
    }
}

impl CommandName {
    /// Whether the command is a login.
    pub const fn is_login(self) -> bool {
        matches!(self, Self::Login | Self::Authenticate)
    }

    /// Whether the command opens a mailbox.
    pub const fn opens_mailbox(self) -> bool {
        matches!(self, Self::Select | Self::Examine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_by_itself_and_on_the_wire_in_any_case() {
        for command in CommandName::ALL {
            assert_eq!(command.to_string().parse(), Ok(*command));
        }
        for code in ResponseCode::ALL {
            assert_eq!(code.as_str().parse(), Ok(*code));
            assert_eq!(ResponseCode::parse(code.as_str().to_ascii_lowercase().as_bytes()), Some(*code));
        }
        for method in Mechanism::ALL.iter().map(|mechanism| LoginMethod::Sasl(*mechanism)).chain([LoginMethod::Login]) {
            assert_eq!(method.to_string().parse(), Ok(method));
        }
        assert_eq!("fetch".parse::<CommandName>(), Err(UnknownName));
        assert_eq!(Condition::parse(b"bye"), Some(Condition::Bye));
    }
}
