//! All cases on all engines, in turns, each in a process of its own; and what came of it.

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use ::tests::process::Process;

use crate::cases::Case;
use crate::engine::Name;
use crate::measured::{CaseResult, PhaseResult};
use crate::settings::Settings;
use crate::{CHILD, child};

/// What stands before the result in what a process prints.
const RESULT: &str = "RESULT ";

const MEASURE: &str = "measure";
const SMOKE: &str = "smoke";

/// Why RocksDB is not there, if `make bench-engine` knows.
const WITHOUT_ROCKSDB: &str = "BENCH_WITHOUT_ROCKSDB";

/// A process that takes that much longer than its phases hangs.
const PATIENCE: Duration = Duration::from_mins(15);

/// What was measured.
pub struct Rounds {
    /// Those that are there.
    pub engines: Vec<Name>,
    pub cases: Vec<&'static Case>,
    /// Why others are not.
    pub absent: Vec<String>,
    results: Vec<Measured>,
    failures: Vec<String>,
}

struct Measured {
    case: &'static str,
    engine: Name,
    round: u64,
    result: CaseResult,
}

impl Rounds {
    pub fn run(settings: &Settings, engines: &[Name], cases: &[&'static Case]) -> Self {
        let (built, absent) = engines
            .iter()
            .partition::<Vec<Name>, _>(|name| name.is_built());
        let reason = env::var(WITHOUT_ROCKSDB);
        let reason = reason.unwrap_or_else(|_| "built without the feature rocksdb".to_owned());
        let absent = absent
            .iter()
            .map(|name| format!("{} was NOT MEASURED: {reason}", name.text()));
        let mut rounds = Self {
            engines: built,
            cases: cases.to_vec(),
            absent: absent.collect(),
            results: Vec::new(),
            failures: Vec::new(),
        };
        for round in 0..settings.rounds {
            for &case in cases {
                if case.once && round > 0 {
                    continue;
                }
                for engine in rounds.engines.clone() {
                    rounds.measure(settings, case, engine, round);
                }
            }
        }
        rounds
    }

    fn measure(&mut self, settings: &Settings, case: &'static Case, engine: Name, round: u64) {
        eprintln!("round {}: {} on {}", round + 1, case.name, engine.text());
        match ask(settings, case, engine) {
            Ok(result) => self.results.push(Measured {
                case: case.name,
                engine,
                round,
                result,
            }),
            Err(error) => {
                eprintln!("{error}");
                let last = error.lines().rev().take(4).collect::<Vec<_>>();
                let last = last.into_iter().rev().collect::<Vec<_>>().join(" ");
                self.failures
                    .push(format!("{} on {}: {last}", case.name, engine.text()));
            }
        }
    }

    /// What failed, and why.
    pub fn failures(&self) -> &[String] {
        &self.failures
    }

    /// A case on an engine, with the number of each round.
    pub fn case(&self, case: &str, engine: Name) -> Vec<(u64, &CaseResult)> {
        let own = self.results.iter();
        let own = own.filter(|measured| measured.case == case && measured.engine == engine);
        own.map(|measured| (measured.round, &measured.result))
            .collect()
    }

    /// The same of a phase.
    pub fn phase(&self, case: &str, phase: &str, engine: Name) -> Vec<(u64, &PhaseResult)> {
        let own = self.case(case, engine).into_iter();
        let found = own.filter_map(|(round, result)| {
            let found = result.phases.iter().find(|found| found.name == phase);
            Some((round, found?))
        });
        found.collect()
    }

    /// Names and titles of the phases of a case.
    pub fn phases(&self, case: &str) -> Vec<(String, String)> {
        let some = self.results.iter().find(|measured| measured.case == case);
        let phases = some
            .into_iter()
            .flat_map(|measured| &measured.result.phases);
        phases
            .map(|phase| (phase.name.clone(), phase.title.clone()))
            .collect()
    }

    /// The median of a figure of all rounds, where there is one.
    pub fn median(
        &self,
        case: &str,
        phase: &str,
        engine: Name,
        figure: impl Fn(&PhaseResult) -> Option<f64>,
    ) -> Option<f64> {
        let phases = self.phase(case, phase, engine);
        median(phases.into_iter().filter_map(|(_, phase)| figure(phase)))
    }

    /// How many times as fast as `peer` ours is: the median of the rounds, each by itself.
    pub fn ratio(&self, case: &str, phase: &str, peer: Name) -> Option<f64> {
        let peers = self.phase(case, phase, peer);
        let ours = self.phase(case, phase, Name::Ours);
        let ratios = ours.iter().filter_map(|(round, ours)| {
            let (_, peer) = peers.iter().find(|(other, _)| other == round)?;
            Some(ours.operations_per_second() / peer.operations_per_second())
        });
        median(ratios)
    }

    pub fn peers(&self) -> impl Iterator<Item = Name> {
        self.engines
            .iter()
            .copied()
            .filter(|&name| name != Name::Ours)
    }
}

/// The middle one; the mean of the two, where there are two.
pub fn median(numbers: impl Iterator<Item = f64>) -> Option<f64> {
    let mut numbers = numbers.collect::<Vec<_>>();
    numbers.sort_by(f64::total_cmp);
    let upper = *numbers.get(numbers.len() / 2)?;
    let lower = numbers[(numbers.len() - 1) / 2];
    Some(f64::midpoint(lower, upper))
}

/// Starts a process that measures a case on an engine, and waits for what it says.
fn ask(settings: &Settings, case: &Case, engine: Name) -> Result<CaseResult, String> {
    let directory = tempfile::Builder::new()
        .prefix("bench-engine-")
        .tempdir_in(&settings.directory)
        .map_err(|error| format!("{}: {error}", settings.directory.display()))?;
    let mut command = Command::new(env::current_exe().map_err(|error| error.to_string())?);
    let mode = if settings.smoke { SMOKE } else { MEASURE };
    command
        .args([CHILD, mode, engine.text(), case.name])
        .arg(directory.path());
    let limit = PATIENCE + Duration::from_secs_f64(settings.seconds * 10.0);
    let limit = limit + Duration::from_secs_f64(settings.overwrite_seconds);
    // It panics when the time is up.
    let printed = catch_unwind(AssertUnwindSafe(|| Process::try_run(command, limit)));
    let printed = printed.map_err(|_| "it took too long".to_owned())??;
    let result = printed.lines().find_map(|line| line.strip_prefix(RESULT));
    let result = result.ok_or_else(|| format!("no result: {printed}"))?;
    serde_json::from_str(result).map_err(|error| error.to_string())
}

/// The other side of it.
pub fn answer(mode: &str, engine: &str, case: &str, directory: &Path) {
    let settings = Settings::from_environment(mode == SMOKE);
    let engine = Name::parse(engine).expect("an engine");
    let case = Case::find(case).expect("a case");
    let result = child::run(engine, case, &settings, directory);
    let result = serde_json::to_string(&result).expect("numbers");
    println!("{RESULT}{result}");
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn medians() {
        assert_eq!(median([].into_iter()), None);
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median([1.0, 4.0, 2.0, 3.0].into_iter()), Some(2.5));
    }
}
