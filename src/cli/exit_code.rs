//! The exit codes of all commands.

/// All runs passed.
pub(super) const PASSED: u8 = 0;
/// A run failed or was void.
pub(super) const FAILED: u8 = 1;
/// Wrong usage or configuration.
pub(super) const USAGE: u8 = 2;
/// The plug-in convention's word for it.
pub(super) const NAGIOS_UNKNOWN: u8 = 3;
