//! The store as its users see it, on a simulated disk. One program for all, so that it is compiled once.

mod backup;
mod common;
mod crash;
mod files;
mod limits;
mod model;
mod regressions;
