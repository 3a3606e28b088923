//! The Redis serialisation protocol: requests in, replies out.
//!
//! [`request`] turns bytes into arguments without copying them, [`inline`] does so for what a person types,
//! [`reply`] writes replies for protocol versions 2 and 3. Nothing here knows a command.

mod inline;
pub(crate) mod reply;
pub(crate) mod request;

pub(crate) use reply::Reply;
pub(crate) use request::{Args, Limits, Progress, RequestParser, Span};
