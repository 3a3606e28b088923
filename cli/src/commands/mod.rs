//! One module for each command.

mod backup;
mod cat;
mod compression;
mod copy;
mod diff;
mod dump;
pub(crate) mod fsck;
mod grow;
mod info;
mod key;
mod list;
mod mkfs;
mod pages;
mod restore;
mod scrub;
mod snapshot;
mod stat;
mod tree;

use crate::arguments::Command;
use crate::error::Outcome;

/// Does what the command line says.
pub(crate) async fn run(command: Command) -> Outcome<()> {
    match command {
        Command::Mkfs(arguments) => mkfs::mkfs(arguments).await,
        Command::Fsck(arguments) => fsck::fsck(arguments).await,
        Command::Dump(arguments) => dump::dump(arguments).await,
        Command::Scrub(arguments) => scrub::scrub(arguments).await,
        Command::Grow(arguments) => grow::grow(arguments).await,
        Command::Key(arguments) => key::key(arguments).await,
        Command::Info(arguments) => info::info(arguments).await,
        Command::Compression(arguments) => compression::compression(arguments).await,
        Command::Ls(arguments) => list::ls(arguments).await,
        Command::Cat(arguments) => cat::cat(arguments).await,
        Command::Stat(arguments) => stat::stat(arguments).await,
        Command::Cp(arguments) => copy::cp(arguments).await,
        Command::Mkdir(arguments) => tree::mkdir(arguments).await,
        Command::Rm(arguments) => tree::rm(arguments).await,
        Command::Mv(arguments) => tree::mv(arguments).await,
        Command::Snapshot(arguments) => snapshot::snapshot(arguments).await,
        Command::Diff(arguments) => diff::diff(arguments).await,
        Command::Backup(arguments) => Box::pin(backup::backup(arguments)).await,
        Command::Restore(arguments) => Box::pin(restore::restore(arguments)).await,
        Command::Mount(arguments) => crate::mount::mount(arguments).await,
        Command::Completions(arguments) => pages::completions(&arguments),
        Command::Man(arguments) => pages::man(&arguments),
    }
}
