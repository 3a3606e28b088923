//! `siltstone`: the host tool for Siltstone's images.
//!
//! From the outside in: [`arguments`] is the command line and its manual; [`commands`] has one module for each command;
//! [`mount`] is the FUSE side; [`image`] opens and closes images (what is under them is [`lfs::host`]); [`key`] is what opens
//! encrypted ones; [`backup`] is where backups come from and go to. [`location`], [`output`], [`error`] and [`clock`] are what all
//! of them share.
//!
//! One thread runs everything that touches a file system, as `lfs` wants it.
#![forbid(unsafe_code)]

mod arguments;
mod backup;
mod clock;
mod commands;
mod error;
mod image;
mod key;
mod location;
mod mount;
mod output;
mod progress;

use std::process::ExitCode;

use clap::Parser as _;

use crate::error::complain;

fn main() -> ExitCode {
    let arguments = match arguments::Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return misused(&error),
    };
    key::choose(arguments.origin());
    match lfs::host::run(commands::run(arguments.command)) {
        Err(error) => {
            complain(format_args!("cannot start: {error}"));
            ExitCode::FAILURE
        }
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            if let Some(message) = error.message() {
                complain(message);
            }
            ExitCode::from(error.status())
        }
    }
}

/// Prints help, or what is wrong with the arguments. Of `fsck` the exit status is e2fsck's, also then.
fn misused(error: &clap::Error) -> ExitCode {
    // Whoever read it has gone.
    let _ = error.print();
    let of_fsck = std::env::args_os()
        .nth(1)
        .is_some_and(|word| word == "fsck");
    match u8::try_from(error.exit_code()).unwrap_or(2) {
        0 => ExitCode::SUCCESS,
        _ if of_fsck => ExitCode::from(commands::fsck::USAGE),
        status => ExitCode::from(status),
    }
}
