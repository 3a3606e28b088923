//! The service as its clients see it, on a simulated disk. One program for all, so that it is compiled once.

mod durability;
mod every_command;
mod files;
mod files_full;
mod limits;
mod scripts;
mod support;
