//! The IMAP protocol, without a socket and without time.
