//! `siltstone fsck`.

use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;

use indicatif::ProgressBar;
use lfs::host::{Access, HostClock};
use lfs::{CheckEvent, CheckOptions, CheckSummary, Finding, Mirror, Severity};
use serde_json::{Map, Value};

use crate::arguments::Fsck;
use crate::error::{Error, Outcome, complain};
use crate::image::{expect_file_system, open_whole};
use crate::key::{self, Key};
use crate::output::{Output, human, put_text};
use crate::progress::byte_bar;

/// As e2fsck has them.
const REPAIRED: u8 = 1;
const ERRORS_LEFT: u8 = 4;
const OPERATIONAL: u8 = 8;
pub(crate) const USAGE: u8 = 16;

pub(crate) async fn fsck(arguments: Fsck) -> Outcome<()> {
    match run(&arguments).await {
        Ok(0) => Ok(()),
        Ok(status) => Err(Error::Status(status)),
        Err(Error::Failed(message)) => {
            complain(message);
            Err(Error::Status(OPERATIONAL))
        }
        Err(Error::Usage(message)) => {
            complain(message);
            Err(Error::Status(USAGE))
        }
        Err(error) => Err(error),
    }
}

/// Checks, and returns the exit status.
async fn run(arguments: &Fsck) -> Outcome<u8> {
    let name = &arguments.image.name;
    let access = if arguments.repair {
        Access::Write
    } else {
        Access::Read
    };
    let device = open_whole(name, "a check is", access)?;
    let device = match access {
        Access::Read => Mirror::open_read_only(device).await,
        Access::Write => Mirror::open(vec![device], [0; 16]).await,
    };
    let device = device.map_err(|error| Error::new(name, error))?;
    let key = key::given()?;
    let key = key.as_ref().map(Key::unlock);
    expect_file_system(&device, name, key.as_ref()).await?;
    let options = CheckOptions {
        key,
        data: arguments.data,
        ..CheckOptions::default()
    };
    let mut report = Report::new(arguments);
    let mut events = |event: CheckEvent<'_>| report.event(event);
    let (summary, repaired) = if arguments.repair {
        let repaired = Box::pin(lfs::repair(
            &device,
            &HostClock::new(),
            options,
            &mut events,
        ))
        .await;
        let outcome = repaired.map_err(|error| Error::new(name, error))?;
        (outcome.after, outcome.repaired)
    } else {
        (lfs::check(&device, options, &mut events).await, Vec::new())
    };
    report.end(&summary, &repaired)?;
    Ok(match (summary.is_clean(), repaired.is_empty()) {
        (false, _) => ERRORS_LEFT,
        (true, false) => REPAIRED,
        (true, true) => 0,
    })
}

/// Prints what is found, each thing once.
struct Report<'a> {
    arguments: &'a Fsck,
    output: Output,
    bar: ProgressBar,
    /// A repair checks more than once: hashes of what was said.
    said: HashSet<u64>,
    hasher: RandomState,
    /// What went wrong with the output.
    outcome: Outcome<()>,
}

impl<'a> Report<'a> {
    fn new(arguments: &'a Fsck) -> Self {
        Self {
            arguments,
            output: Output::new(),
            bar: byte_bar(None),
            said: HashSet::new(),
            hasher: RandomState::new(),
            outcome: Ok(()),
        }
    }

    fn event(&mut self, event: CheckEvent<'_>) {
        match event {
            CheckEvent::Finding(finding) => {
                let text = finding.to_string();
                let wanted = finding.severity > Severity::Note || self.arguments.verbose;
                if wanted && self.said.insert(self.hasher.hash_one(&text)) && self.outcome.is_ok() {
                    self.outcome = self.print(finding, &text);
                }
            }
            CheckEvent::Progress { done, total } => {
                self.bar.set_length(total);
                self.bar.set_position(done);
            }
            _ => {}
        }
    }

    fn print(&mut self, finding: &Finding, text: &str) -> Outcome<()> {
        if self.arguments.json {
            return self.output.json(object_of(finding));
        }
        self.bar.suspend(|| {
            self.output.text(format_args!("{text}\n"))?;
            self.output.finish()
        })
    }

    fn end(mut self, summary: &CheckSummary, repaired: &[Finding]) -> Outcome<()> {
        self.bar.finish_and_clear();
        std::mem::replace(&mut self.outcome, Ok(()))?;
        let state = match (summary.is_clean(), repaired.is_empty()) {
            (true, true) => "clean",
            (true, false) => "repaired",
            (false, _) if summary.mounts => "damaged",
            (false, _) => "damaged, and does not mount",
        };
        let files = summary.inodes.saturating_sub(summary.directories);
        if self.arguments.json {
            let mut object = Map::new();
            let mut put = |key: &str, value: Value| object.insert(key.to_owned(), value);
            put("state", state.into());
            put("mounts", summary.mounts.into());
            put("errors", summary.errors.into());
            put("warnings", summary.warnings.into());
            put("repairable", summary.repairable.into());
            put("repaired", repaired.len().into());
            put("files", files.into());
            put("directories", summary.directories.into());
            put("snapshots", summary.snapshots.into());
            put("live_bytes", summary.live_bytes.into());
            put("replayed_commits", summary.replayed_commits.into());
            put("nodes", summary.nodes.into());
            put("nodes_read", summary.nodes_read.into());
            self.output.json(object)?;
            return self.output.finish();
        }
        for finding in repaired {
            self.output.text(format_args!("repaired: {finding}\n"))?;
        }
        self.output.text(format_args!(
            "{}: {state}: {files} files, {} directories, {} snapshots, {} in use\n",
            self.arguments.image.name,
            summary.directories,
            summary.snapshots,
            human(summary.live_bytes),
        ))?;
        if !summary.is_clean() {
            self.output.text(format_args!(
                "{}: {} errors and {} warnings are left, of which --repair mends {}\n",
                self.arguments.image.name, summary.errors, summary.warnings, summary.repairable,
            ))?;
        }
        self.output.finish()
    }
}

/// A finding in JSON.
pub(crate) fn object_of(finding: &Finding) -> Map<String, Value> {
    let mut object = Map::new();
    let mut put = |key: &str, value: Value| object.insert(key.to_owned(), value);
    put("severity", finding.severity.to_string().into());
    put("part", finding.part.to_string().into());
    put("problem", finding.problem.to_string().into());
    if let Some(block) = finding.block {
        put("block", block.0.into());
    }
    if let Some(inode) = finding.inode {
        put("inode", inode.0.into());
    }
    if let Some(bytes) = &finding.bytes {
        put("from_byte", bytes.start.into());
        put("to_byte", bytes.end.into());
    }
    if let Some(repair) = finding.repair {
        put("repair", repair.to_string().into());
    }
    if let Some(path) = &finding.path {
        put_text(&mut object, "path", path);
    }
    object
}
