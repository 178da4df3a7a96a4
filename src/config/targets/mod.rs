//! Makes [`Target`](crate::plan::Target)s from `[defaults]`, `[[targets]]`, `[[groups]]`, files of `targets_from`, and the command
//! line of `probe`.

pub(super) mod account;
pub(super) mod consistency;
mod expand;
mod file_sd;
pub(super) mod group;
pub(super) mod labels;
pub(super) mod options;
pub(super) mod target;
pub(super) mod target_sources;
pub mod url;
