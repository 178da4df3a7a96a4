//! Why a look-up gave no address: answers of the name servers, and faults of this machine.

/// Why there is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveCause {
    /// The name does not exist.
    #[error("the name does not exist")]
    NxDomain,
    /// The name exists, but has no address of the family asked for.
    #[error("the name has no address of the family asked for")]
    NoData,
    /// No answer in time.
    #[error("no answer from the name servers in time")]
    Timeout,
    /// This process did not get to run for a tenth of the time or more.
    #[error("the name servers were not asked in time: this process did not get to run")]
    Late,
    /// The name servers failed, refused, or could not be reached.
    #[error("the name servers failed: {0}")]
    Failed(String),
    /// This process or machine has no file descriptor left, or no memory for sockets, to ask with.
    #[error("the name servers cannot be asked: {0}")]
    Exhausted(String),
    /// This host has no local port left to ask with.
    #[error("the name servers cannot be asked: {0}")]
    NoPort(String),
    /// Another fault of this process or machine.
    #[error("the name cannot be looked up here: {0}")]
    Local(String),
}

impl ResolveCause {
    pub(super) fn is_local(&self) -> bool {
        matches!(self, Self::Exhausted(_) | Self::Late | Self::Local(_) | Self::NoPort(_))
    }
}
