//! Secrets, values without a printable form, and their sources.
//!
//! Configuration holds a [`SecretSource`]. The value is loaded just before a run needs it and is wiped when it is dropped, as is
//! every copy of ours. It never appears in an output; it may stay in memory: the TLS library, the kernel and the environment
//! have copies that cannot be wiped (SECURITY.md).

mod buffer;
mod command;
mod dumps;
mod error;
mod file;
mod form;
mod source;

pub use command::{end_commands, set_environment, share_terminal};
pub use dumps::no_dumps;
pub use error::{SecretError, shown_variable};
pub use file::read_key;
pub use form::Edge;
pub use source::SecretSource;

use imaptrace_imap::Secret;

/// Makes the build fail if a type implements `Display` or `Serialize`: then `_` is ambiguous.
macro_rules! unprintable {
    ($($hidden:ty),+) => {
        const _: () = {
            trait NotPrintable<Which> {
                const ONE: () = ();
            }
            impl<T: ?Sized> NotPrintable<()> for T {}
            impl<T: ?Sized + std::fmt::Display> NotPrintable<u8> for T {}
            impl<T: ?Sized + serde::Serialize> NotPrintable<u16> for T {}
            $(let () = <$hidden as NotPrintable<_>>::ONE;)+
        };
    };
}
pub(crate) use unprintable;

unprintable!(Secret, SecretSource);

#[cfg(test)]
mod tests;
