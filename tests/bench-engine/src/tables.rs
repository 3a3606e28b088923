//! What came of it as tables, figures for programs, and whether what is wanted is reached.

use ::tests::report::{Report, Table, figure};

use crate::cases::{Case, OVERWRITES, WRITERS};
use crate::engine::Name;
use crate::measured::PhaseResult;
use crate::rounds::{Rounds, median};
use crate::settings::Settings;

pub fn show(rounds: &Rounds, settings: &Settings, report: &mut Report) {
    show_ratios(rounds, settings, report);
    for case in &rounds.cases {
        show_case(rounds, case, report);
    }
    let has = |name: &str| rounds.cases.iter().any(|case| case.name == name);
    if has("conflicts") {
        show_conflicts(rounds, report);
    }
    if has("overwrite") {
        show_overwrite(rounds, report);
    }
    show_memory(rounds, settings, report);
    note_goals(rounds, report);
}

/// A line for each phase, a column for each peer.
fn show_ratios(rounds: &Rounds, settings: &Settings, report: &mut Report) {
    let peers = rounds.peers().collect::<Vec<_>>();
    let columns = ["operations per second, ours / peer"].into_iter();
    let columns = columns
        .chain(peers.iter().map(|peer| peer.text()))
        .chain(["best peer"]);
    let mut table = Table::new("Ours beside each peer", &columns.collect::<Vec<_>>());
    for case in &rounds.cases {
        for (name, title) in rounds.phases(case.name) {
            if name == "fill" && !case.name.starts_with("fill") {
                continue;
            }
            let ratios = peers
                .iter()
                .map(|&peer| rounds.ratio(case.name, &name, peer));
            let ratios = ratios.collect::<Vec<_>>();
            for (peer, ratio) in peers.iter().zip(&ratios) {
                if let Some(ratio) = *ratio {
                    let figure = format!("engine_{}_{name}_ratio", case.name);
                    report.figures.add(&figure, peer.text(), ratio, "times");
                }
            }
            let best = ratios.iter().flatten().copied().min_by(f64::total_cmp);
            let cells = ratios.iter().copied().chain([best]).map(cell);
            let title = if name == "fill" {
                case.title.to_owned()
            } else {
                format!("{}: {title}", case.title)
            };
            table.row([title].into_iter().chain(cells));
        }
    }
    for note in &rounds.absent {
        table.note(note);
    }
    for failure in rounds.failures() {
        table.note(format!("FAILED: {failure}"));
    }
    let mib = |bytes: u64| figure(bytes as f64 / f64::from(1 << 20));
    table.note(format!(
        "median of {} rounds of {} s each; seed {}; each commit is durable",
        settings.rounds, settings.seconds, settings.seed
    ));
    table.note(format!(
        "data {} MiB; memory {} MiB, where data does not fit {} MiB",
        mib(settings.data_bytes),
        mib(settings.large_memory_bytes()),
        mib(settings.small_memory_bytes)
    ));
    table.note(match &settings.cgroup {
        Some(_) => "where data does not fit, a cgroup bounds what the kernel keeps of files as well",
        None => {
            "memory is what engines are told to take; the kernel keeps their files in what else there is, but forgets them again and again while reads out of cache are measured (lmdb's it does not: what is mapped is lmdb's cache)"
        }
    });
    report.show(&table);
}

/// A line for each phase and engine.
fn show_case(rounds: &Rounds, case: &Case, report: &mut Report) {
    let columns = [
        "",
        "operations/s",
        "p50 µs",
        "p99 µs",
        "max ms",
        "device bytes/byte",
        "own count",
        "flushes/commit",
        "KiB read",
        "ours/it",
    ];
    let mut table = Table::new(case.title, &columns);
    for (name, title) in rounds.phases(case.name) {
        for &engine in &rounds.engines {
            let value = |of: &dyn Fn(&PhaseResult) -> Option<f64>| {
                rounds.median(case.name, &name, engine, of)
            };
            let per_second = value(&|phase| Some(phase.operations_per_second()));
            let columns = [
                ("operations", per_second, "1/s"),
                ("p50", value(&|phase| Some(phase.p50_us)), "us"),
                ("p99", value(&|phase| Some(phase.p99_us)), "us"),
                ("max", value(&|phase| Some(phase.max_us / 1000.0)), "ms"),
                (
                    "device_bytes",
                    value(&PhaseResult::amplification),
                    "bytes/byte",
                ),
                (
                    "own_bytes",
                    value(&PhaseResult::own_amplification),
                    "bytes/byte",
                ),
                (
                    "flushes",
                    value(&PhaseResult::flushes_per_commit),
                    "flushes/commit",
                ),
                (
                    "read",
                    value(&PhaseResult::kib_read_per_operation),
                    "KiB/operation",
                ),
            ];
            for (quantity, value, unit) in columns {
                if let Some(value) = value {
                    let figure = format!("engine_{}_{name}_{quantity}", case.name);
                    report.figures.add(&figure, engine.text(), value, unit);
                }
            }
            let ratio = (engine != Name::Ours).then(|| rounds.ratio(case.name, &name, engine));
            let cells = columns
                .into_iter()
                .map(|(_, value, _)| value)
                .chain([ratio.flatten()]);
            let row = format!("{title}, {}", engine.text());
            table.row([row].into_iter().chain(cells.map(cell)));
        }
    }
    table.note("device bytes: pages that the process made dirty, for each byte of keys and values that clients wrote; KiB read: from the disk, for each operation that only reads");
    if case.name == "ycsb_100" || case.name == "ycsb_1k" {
        table.note("p50 and p99 are of all operations of a workload together; 16 clients");
    }
    report.show(&table);
}

fn show_conflicts(rounds: &Rounds, report: &mut Report) {
    let phases = rounds.phases("conflicts");
    let columns = ["attempts per commit"].into_iter();
    let columns = columns.chain(phases.iter().map(|(_, title)| title.as_str()));
    let mut table = Table::new("The price of conflicts", &columns.collect::<Vec<_>>());
    for &engine in &rounds.engines {
        let attempts = phases.iter().map(|(name, _)| {
            let attempts = rounds.median("conflicts", name, engine, |phase| {
                Some(phase.attempts_per_commit())
            });
            if let Some(attempts) = attempts {
                let figure = format!("engine_conflicts_{name}_attempts");
                report
                    .figures
                    .add(&figure, engine.text(), attempts, "attempts/commit");
            }
            cell(attempts)
        });
        table.row([engine.text().to_owned()].into_iter().chain(attempts));
    }
    table.note("16 clients at once, each from one account to another; 1: writers take turns, or a transaction is one step");
    report.show(&table);
}

fn show_overwrite(rounds: &Rounds, report: &mut Report) {
    let columns = [
        "",
        "times overwritten",
        "device bytes/byte",
        "own count",
        "room/live byte, most",
        "at the end",
        "at rest",
        "closed",
        "group ms",
        "longest gap ms",
        "group requests",
        "longest gap requests",
    ];
    let mut table = Table::new("Overwritten at random", &columns);
    for &engine in &rounds.engines {
        let Some((_, result)) = rounds.case("overwrite", engine).pop() else {
            continue;
        };
        let [_, phase] = result.phases.as_slice() else {
            continue;
        };
        let times = phase.space_samples.last().map(|(times, _)| *times);
        let most = phase.space_samples.iter().map(|(_, space)| *space);
        let most = most.chain([phase.space]).max_by(f64::total_cmp);
        let gaps = phase.gaps;
        let milliseconds = |microseconds: u64| microseconds as f64 / 1000.0;
        let requests = |requests: u64| (requests > 0).then_some(requests as f64);
        let columns = [
            ("times", times, "times"),
            ("device_bytes_per_byte", phase.amplification(), "bytes/byte"),
            (
                "own_bytes_per_byte",
                phase.own_amplification(),
                "bytes/byte",
            ),
            ("space_most", most, "bytes/byte"),
            ("space_end", Some(phase.space), "bytes/byte"),
            ("space_at_rest", result.space_at_rest, "bytes/byte"),
            ("space_closed", Some(result.space_closed), "bytes/byte"),
            ("group", Some(milliseconds(gaps.median_us)), "ms"),
            ("gap", Some(milliseconds(gaps.max_us)), "ms"),
            ("group_requests", requests(gaps.median_requests), "requests"),
            ("gap_requests", requests(gaps.max_requests), "requests"),
        ];
        for (quantity, value, unit) in columns {
            if let Some(value) = value {
                let figure = format!("engine_overwrite_{quantity}");
                report.figures.add(&figure, engine.text(), value, unit);
            }
        }
        let cells = columns.map(|(_, value, _)| cell(value));
        table.row([engine.text().to_owned()].into_iter().chain(cells));
    }
    table.note(format!(
        "values of 1 KiB, 16 in a commit, 16 clients; who had not overwritten all {OVERWRITES} times when its time was up stopped there"
    ));
    table.note(
        "room is what files take on the disk, without holes; a group is what commits share a flush",
    );
    report.show(&table);
}

fn show_memory(rounds: &Rounds, settings: &Settings, report: &mut Report) {
    let columns = ["MiB at most"].into_iter();
    let columns = columns.chain(rounds.cases.iter().map(|case| case.name));
    let mut table = Table::new("Memory", &columns.collect::<Vec<_>>());
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let told = rounds
        .cases
        .iter()
        .map(|case| figure(mib(case.memory_bytes(settings))));
    table.row(["told to take".to_owned()].into_iter().chain(told));
    for &engine in &rounds.engines {
        let peaks = rounds.cases.iter().map(|case| {
            let results = rounds.case(case.name, engine).into_iter();
            let peak = median(results.map(|(_, result)| mib(result.memory_bytes)));
            if let Some(peak) = peak {
                let figure = format!("engine_{}_memory", case.name);
                report.figures.add(&figure, engine.text(), peak, "MiB");
            }
            cell(peak)
        });
        table.row([engine.text().to_owned()].into_iter().chain(peaks));
    }
    table.note(
        "the process's resident memory at its peak, less what it had before it opened the store",
    );
    table.note(
        "of LMDB most of it is its file, mapped, which the kernel takes away when it needs room",
    );
    report.show(&table);
}

fn note_goals(rounds: &Rounds, report: &mut Report) {
    let [alone, _, many] = WRITERS;
    for (writers, least) in [(alone, 1.0), (many, 1.5)] {
        let what = format!("durable commits/s, {writers} at once, beside the best peer");
        let best = best(rounds, rounds.peers(), |peer| {
            rounds.ratio("commits", &format!("put_{writers}"), peer)
        });
        if let Some(ratio) = best {
            report.at_least(&what, ratio, least, "times");
        }
    }
    for (case, where_from) in [("read_in", "in cache"), ("read_out", "out of cache")] {
        for (phase, clients) in [("read_1", "1 client"), ("read_16", "16 clients")] {
            let best = best(rounds, lsm_peers(rounds), |peer| {
                rounds.ratio(case, phase, peer)
            });
            if let Some(ratio) = best {
                let what =
                    format!("random reads {where_from}, {clients}, beside the best LSM peer");
                report.at_least(&what, ratio, 1.0, "times");
            }
        }
    }
    let best_ycsb = best(rounds, rounds.peers(), |peer| {
        let workloads = ["ycsb_100", "ycsb_1k"].into_iter().flat_map(|case| {
            ["A", "B", "C", "F"].map(|workload| rounds.ratio(case, workload, peer))
        });
        geometric_mean(workloads)
    });
    if let Some(ratio) = best_ycsb {
        let what = "YCSB A, B, C, F, 100 B and 1 KiB, geometric mean, beside the best peer";
        report.at_least(what, ratio, 1.2, "times");
    }
    note_overwrite_goals(rounds, report);
}

fn note_overwrite_goals(rounds: &Rounds, report: &mut Report) {
    let phase = |engine| {
        let (_, phase) = rounds.phase("overwrite", "overwrite", engine).pop()?;
        Some(phase)
    };
    let at_rest = || {
        let (_, result) = rounds.case("overwrite", Name::Ours).pop()?;
        result.space_at_rest
    };
    let Some(ours) = phase(Name::Ours) else {
        return;
    };
    let written = |engine| phase(engine)?.amplification();
    let peers = lsm_peers(rounds).filter_map(written).min_by(f64::total_cmp);
    if let Some((ours, best)) = written(Name::Ours).zip(peers) {
        let what = "device bytes of random overwrites of 1 KiB beside the best LSM peer";
        report.at_most(what, ours / best, 0.5, "times");
    }
    let what = format!("room on the disk after {OVERWRITES} overwrites");
    report.at_most(&what, ours.space, 1.3, "bytes per live byte");
    if let Some(at_rest) = at_rest() {
        report.at_most(
            &format!("{what}, when it was left alone for a while"),
            at_rest,
            1.3,
            "bytes per live byte",
        );
    }
    let gaps = ours.gaps;
    let longest = gaps.max_requests as f64 / gaps.median_requests.max(1) as f64;
    report.at_most(
        "longest gap between commits while everything is overwritten, in requests",
        longest,
        10.0,
        "times the median group",
    );
}

fn lsm_peers(rounds: &Rounds) -> impl Iterator<Item = Name> {
    rounds.peers().filter(|peer| peer.is_lsm_peer())
}

/// How ours does beside whoever does best, if ours was measured.
fn best(
    rounds: &Rounds,
    peers: impl Iterator<Item = Name>,
    ratio: impl Fn(Name) -> Option<f64>,
) -> Option<f64> {
    let ours = rounds.engines.contains(&Name::Ours);
    peers
        .filter(|_| ours)
        .filter_map(ratio)
        .min_by(f64::total_cmp)
}

/// If there are all of them.
fn geometric_mean(ratios: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let logarithms = ratios
        .map(|ratio| Some(ratio?.ln()))
        .collect::<Option<Vec<_>>>()?;
    let count = logarithms.len() as f64;
    (count > 0.0).then(|| (logarithms.into_iter().sum::<f64>() / count).exp())
}

fn cell(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), figure)
}

#[cfg(test)]
mod tests {
    use super::geometric_mean;

    #[test]
    fn geometric_means() {
        let mean = geometric_mean([Some(2.0), Some(8.0)].into_iter());
        assert!((mean.expect("all are there") - 4.0).abs() < 1e-9);
        assert_eq!(geometric_mean([Some(2.0), None].into_iter()), None);
    }
}
