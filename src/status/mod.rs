//! What the agent tells of itself over HTTP: whether it lives, whether it is ready, and what its last runs found.
//!
//! A [`Board`] remembers the last runs of each account, a few dozen bytes each. A [`Server`] answers GET and HEAD on a
//! thread of its own from the board and from [`Facts`], which it asks for at each request. It takes no commands, changes
//! nothing, reads no clock, and shows no secret, no user name and no words of a server; whoever may connect may see all
//! of it. `agent` fills the board and tells the facts.

mod board;
mod facts;
mod kept;
mod lag;
mod page;
mod request;
mod server;

pub use self::{
    board::{Board, Counts, Depth, Planned},
    facts::{Config, Delivery, Facts, Identity, Reload},
    server::Server,
};
