//! `siltstone completions` and `siltstone man`.

use std::io::{self, Write};

use clap::CommandFactory as _;

use crate::arguments::{self, Arguments};
use crate::error::{About as _, Error, Outcome};

pub(crate) fn completions(arguments: &arguments::Completions) -> Outcome<()> {
    let mut script = Vec::new();
    let mut command = Arguments::command();
    clap_complete::generate(arguments.shell, &mut command, "siltstone", &mut script);
    print(&script)
}

pub(crate) fn man(arguments: &arguments::Man) -> Outcome<()> {
    if let Some(directory) = &arguments.directory {
        std::fs::create_dir_all(directory).about(&directory.display())?;
        return clap_mangen::generate_to(Arguments::command(), directory)
            .about(&directory.display());
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(Arguments::command())
        .render(&mut page)
        .map_err(|error| Error::new("cannot make the page", error))?;
    print(&page)
}

fn print(bytes: &[u8]) -> Outcome<()> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(bytes)
        .and_then(|()| stdout.flush())
        .map_err(|error| Error::output(&error))
}
