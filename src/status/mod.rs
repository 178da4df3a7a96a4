//! The status endpoint over HTTP: whether the agent is live and ready, and the last runs of each account.
//!
//! [`StatusServer`] answers GET and HEAD on a thread of its own from [`RunHistory`], the last runs of each account, and from
//! [`Facts`], which `agent` provides at each request. It changes nothing, reads no clock, and shows no secret, no user name and
//! no text of a server; everyone who can connect can read all of it.
//!
//! ```text
//! request      a request: endpoint, query, Host
//! server       the listener and its limits
//! page         `/status.json`, piece by piece
//! facts        the state of the agent beside its runs
//! run_history  the remembered runs of all accounts
//! account      those of one account, and its state
//! compact_run  one of them
//! lag          how late runs started
//! ```

mod account;
mod compact_run;
mod facts;
mod lag;
mod page;
mod request;
mod run_history;
mod server;

pub use self::{
    account::HistoryDepth,
    facts::{ConfigStatus, Facts, Identity, LastReload},
    run_history::{AccountCounts, RunHistory, StateCounts},
    server::StatusServer,
};
