//! The built-in IMAP server.
