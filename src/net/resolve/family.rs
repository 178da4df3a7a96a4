//! Address families of a look-up.

use std::net::IpAddr;

/// The families that are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// Both.
    Any,
    /// A records.
    V4,
    /// AAAA records.
    V6,
}

impl Family {
    /// The addresses of the family, in their order.
    pub(super) fn of(self, addresses: &[IpAddr]) -> Vec<IpAddr> {
        let wanted = |address: &&IpAddr| match self {
            Self::Any => true,
            Self::V4 => address.is_ipv4(),
            Self::V6 => address.is_ipv6(),
        };
        addresses.iter().filter(wanted).copied().collect()
    }
}
