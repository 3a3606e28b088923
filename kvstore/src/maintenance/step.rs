//! How far a step of a job goes, and what the runs are when it is carried out.
//!
//! A job merges neighbouring runs, from the lowest key up. What it writes is a run in front of its inputs: below the *cut*, up to which it has come, that has everything, above it the
//! inputs do. So a reader finds each key in one of them, in the order of commits, whenever it looks, and what newer runs hide is hidden as before. A job into the
//! base has the old base among its inputs; when no others are left, what is left of that is joined to what was written.
//!
//! Tables of which no other input has a key need not be written anew: they move as they are.

use alloc::vec::Vec;

use super::shape::{Work, output_of};
use crate::engine::manifest::{BASE, RunRef};
use crate::engine::table::{Dropped, TableRef};
use crate::engine::types::OutOfMemory;
use crate::{Key, Timestamp};
use lfs::ObjectId;

/// Whether a commit could be in both.
pub(super) fn commits_overlap(one: &RunRef, other: &RunRef) -> bool {
    one.first <= other.last && other.first <= one.last
}

/// What a step does.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// Tables that move as they are, in order.
    pub(super) moved: Vec<TableRef>,
    /// What is written anew; nothing if the inputs have no more.
    pub(super) rewritten: Option<Part>,
}

/// Keys from one to another, not included.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) from: Key,
    /// `None`: to the end.
    pub(super) to: Option<Key>,
}

/// Bytes that decide what a step does.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    /// What a step writes.
    pub(super) step: u64,
    /// A whole table.
    pub(super) table: u64,
}

/// What is left of an input.
struct Left<'r> {
    tables: &'r [TableRef],
    is_base: bool,
}

impl<'r> Left<'r> {
    fn from(&self) -> Option<&'r Key> {
        self.tables.first().map(|table| &table.from)
    }

    fn take(&mut self) -> Option<&'r TableRef> {
        let (first, rest) = self.tables.split_first()?;
        self.tables = rest;
        Some(first)
    }
}

/// What the next step of a job with these inputs does: it reads tables of about a step's bytes to their ends, or one, and parts of others.
pub(super) fn plan(inputs: &[RunRef], into: u8, sizes: Sizes) -> Result<Plan, OutOfMemory> {
    let mut left = Vec::new();
    left.try_reserve_exact(inputs.len())?;
    left.extend(inputs.iter().map(|run| Left {
        tables: &run.tables,
        is_base: run.tier == BASE,
    }));
    let moved = moved(&mut left, into, sizes)?;
    let from = left.iter().filter_map(Left::from).min().cloned();
    let rewritten = from.map(|from| Part {
        from,
        to: bound(&mut left, into, sizes),
    });
    Ok(Plan { moved, rewritten })
}

/// Takes the tables off that move as they are. Into the base only its own do: others have what does not belong there, such as tombstones.
fn moved(left: &mut [Left<'_>], into: u8, sizes: Sizes) -> Result<Vec<TableRef>, OutOfMemory> {
    let mut moved = Vec::new();
    loop {
        let with_keys = left.iter().enumerate();
        let next = with_keys
            .filter_map(|(number, left)| Some((left.from()?, number)))
            .min();
        let Some((_, number)) = next else {
            return Ok(moved);
        };
        let is_alone = |table: &TableRef| {
            let mut others = left
                .iter()
                .enumerate()
                .filter(|(other, _)| *other != number);
            others.all(|(_, other)| {
                let begins = other.from();
                begins.is_none_or(|begins| table.to.as_ref().is_some_and(|to| to <= begins))
            })
        };
        let Some(here) = left.get(number) else {
            return Ok(moved);
        };
        // A table that hardly holds anything takes whole segments all the same.
        let is_full = |table: &TableRef| table.bytes >= sizes.table / 4 * 3;
        let may_move = (here.is_base || into < BASE)
            && here
                .tables
                .first()
                .is_some_and(|table| is_full(table) && is_alone(table));
        if !may_move {
            return Ok(moved);
        }
        moved.try_reserve(1)?;
        moved.extend(left.get_mut(number).and_then(Left::take).cloned());
    }
}

/// The end of a table up to which the tables that end there take about a step's bytes; for a job into the base one of its own, if there is one, so that
/// none of them is written in part.
fn bound(left: &mut [Left<'_>], into: u8, sizes: Sizes) -> Option<Key> {
    let (mut bytes, mut last, mut last_of_base) = (0_u64, None, None);
    loop {
        // Without an end: behind all others.
        let ends = left.iter().enumerate().filter_map(|(number, left)| {
            let to = left.tables.first()?.to.as_ref();
            Some((to.is_none(), to, number))
        });
        let Some((_, to, number)) = ends.min() else {
            // All of it fits.
            return last;
        };
        let (to, here) = (to.cloned(), left.get_mut(number)?);
        let is_base = here.is_base;
        bytes = bytes.saturating_add(here.take()?.bytes);
        if last.is_some() && bytes > sizes.step {
            return last_of_base.or(last);
        }
        last = Some(to?);
        if into == BASE && is_base {
            last_of_base.clone_from(&last);
        }
    }
}

/// What a step came to.
#[derive(Debug)]
pub(super) struct Done<'d> {
    /// What it was made of, as they were when it began.
    pub(super) inputs: &'d [RunRef],
    pub(super) work: &'d Work,
    /// Tables that moved, and tables that were written, in order.
    pub(super) tables: Vec<TableRef>,
    /// Up to where all is in them; `None`: to the end of the inputs.
    pub(super) cut: Option<Key>,
    /// Tables whose lists of dropped slots are in those that were written now, in order.
    pub(super) handed_on: Vec<ObjectId>,
}

/// The runs are not those that the step was made of.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Disorder;

/// Puts what a step came to into the runs. Flushes may have added some since it began.
pub(super) fn carry_out(runs: &mut Vec<RunRef>, done: Done<'_>) -> Result<(), Disorder> {
    let name = |run: &RunRef| (run.tier, run.first, run.last);
    let first = done.inputs.first().ok_or(Disorder)?;
    let place = runs.iter().position(|run| name(run) == name(first));
    let place = place.ok_or(Disorder)?;
    let places = place..place + done.inputs.len();
    let there = runs.get_mut(places.clone()).ok_or(Disorder)?;
    if !there.iter().map(name).eq(done.inputs.iter().map(name)) {
        return Err(Disorder);
    }
    for table in there.iter_mut().flat_map(|run| &mut run.tables) {
        if done.handed_on.binary_search(&table.object).is_ok() {
            table.dropped = Dropped::Swept;
        }
    }
    if let Some(tables) = &done.work.tables {
        let run = there.first_mut().ok_or(Disorder)?;
        replace_tables(
            run,
            done.inputs.first().ok_or(Disorder)?,
            tables.clone(),
            &done,
        )?;
    } else {
        let output = output_of(runs, &places, done.work.into);
        move_to_output(runs, places, output, done);
    }
    runs.retain(|run| !run.tables.is_empty());
    Ok(())
}

/// Puts tables in the place of those of one run that they were made of.
fn replace_tables(
    run: &mut RunRef,
    before: &RunRef,
    tables: core::ops::Range<usize>,
    done: &Done<'_>,
) -> Result<(), Disorder> {
    let objects = |run: &RunRef| {
        let tables = run.tables.get(tables.clone())?;
        Some(tables.iter().map(|table| table.object).collect::<Vec<_>>())
    };
    if objects(run).is_none() || objects(run) != objects(before) {
        return Err(Disorder);
    }
    let rest: Vec<_> = run.tables.drain(tables.start..).collect();
    run.tables.extend(done.tables.iter().cloned());
    for (number, table) in rest.into_iter().enumerate() {
        if number >= tables.len() {
            run.tables.push(table);
        } else if let Some(cut) = &done.cut {
            run.tables.extend(behind(table, cut));
        }
    }
    Ok(())
}

/// What there is of a table from `cut` on.
fn behind(mut table: TableRef, cut: &Key) -> Option<TableRef> {
    if table.to.as_ref().is_some_and(|to| to <= cut) {
        return None;
    }
    if table.from < *cut {
        table.from = Key::clone(cut);
    }
    Some(table)
}

/// Puts tables at the end of a job's output, and leaves its inputs what is behind the cut.
fn move_to_output(
    runs: &mut Vec<RunRef>,
    mut places: core::ops::Range<usize>,
    output: Option<usize>,
    done: Done<'_>,
) {
    let into = done.work.into;
    let of_inputs = runs.get(places.clone()).unwrap_or_default();
    let commits = of_inputs.iter().fold(None, |commits, run| {
        let (first, last) = commits.unwrap_or((run.first, run.last));
        Some((run.first.min(first), run.last.max(last)))
    });
    let (first, last) = commits.unwrap_or((Timestamp(0), Timestamp(0)));
    let output = output.unwrap_or_else(|| {
        runs.insert(
            places.start,
            RunRef {
                tier: into,
                job: None,
                first,
                last,
                tables: Vec::new(),
            },
        );
        places = places.start + 1..places.end + 1;
        places.start - 1
    });
    let mut is_over = true;
    for run in runs.get_mut(places.clone()).unwrap_or_default() {
        let tables = core::mem::take(&mut run.tables);
        if let Some(cut) = &done.cut {
            run.tables = tables
                .into_iter()
                .filter_map(|table| behind(table, cut))
                .collect();
        }
        if run.tier != BASE {
            run.job = Some(into);
            is_over &= run.tables.is_empty();
        }
    }
    // Of a job into the base what is left of the old one is where it should be.
    let old_base = places
        .end
        .checked_sub(1)
        .filter(|_| is_over && into == BASE);
    let rest = old_base.and_then(|place| runs.get_mut(place));
    let rest = rest.map(|run| core::mem::take(&mut run.tables));
    if let Some(output) = runs.get_mut(output) {
        output.tables.extend(done.tables);
        output.tables.extend(rest.into_iter().flatten());
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::engine::manifest::Manifest;
    use crate::engine::table::TableStats;
    use crate::engine::types::ChunkRef;

    fn key(key: &str) -> Key {
        Key::from(key.as_bytes())
    }

    /// A table with keys from one to another; to the end where that is empty.
    pub(in crate::maintenance) fn table(object: u64, from: &str, to: &str, bytes: u64) -> TableRef {
        TableRef {
            object: ObjectId(object),
            bytes,
            head: ChunkRef { offset: 0, len: 1 }.into(),
            from: key(from),
            to: (!to.is_empty()).then(|| key(to)),
            stats: TableStats {
                entries: 1,
                least_timestamp: Timestamp(1),
                greatest_timestamp: Timestamp(1),
                ..TableStats::default()
            },
            dropped: Dropped::Pending,
        }
    }

    /// A run of tables of 100 bytes, whose objects are numbered from `100 · first` on.
    pub(in crate::maintenance) fn run(
        tier: u8,
        first: u64,
        last: u64,
        tables: &[(&str, &str)],
    ) -> RunRef {
        let tables = (first * 100..).zip(tables);
        RunRef {
            tier,
            job: None,
            first: Timestamp(first),
            last: Timestamp(last),
            tables: tables
                .map(|(object, (from, to))| table(object, from, to, 100))
                .collect(),
        }
    }

    const SIZES: Sizes = Sizes {
        step: 250,
        table: 100,
    };

    fn part(from: &str, to: &str) -> Part {
        Part {
            from: key(from),
            to: (!to.is_empty()).then(|| key(to)),
        }
    }

    #[test]
    fn a_step_reads_tables_to_their_ends_and_no_more_than_it_should() {
        let inputs = [
            run(0, 6, 9, &[("a", "g"), ("g", "m"), ("m", "")]),
            run(0, 1, 5, &[("a", "k"), ("k", "z")]),
        ];
        let step = |step| plan(&inputs, 1, Sizes { step, ..SIZES }).unwrap();
        assert_eq!(step(250).rewritten, Some(part("a", "k")));
        assert_eq!(step(300).rewritten, Some(part("a", "m")));
        assert_eq!(step(1).rewritten, Some(part("a", "g")), "one at least");
        assert_eq!(step(500).rewritten, Some(part("a", "")));
        assert_eq!(step(499).rewritten, Some(part("a", "z")));
        assert!(step(250).moved.is_empty());
    }

    #[test]
    fn a_step_into_the_base_ends_where_one_of_its_tables_does() {
        let base = run(BASE, 1, 5, &[("a", "f"), ("f", "p"), ("p", "z")]);
        let inputs = [run(0, 6, 9, &[("a", "k"), ("k", "o"), ("o", "q")]), base];
        let to = |step| {
            let plan = plan(&inputs, BASE, Sizes { step, ..SIZES });
            plan.unwrap().rewritten.unwrap().to
        };
        assert_eq!(to(350), Some(key("f")));
        assert_eq!(to(400), Some(key("p")));
        assert_eq!(to(550), Some(key("p")));
        assert_eq!(to(600), Some(key("z")), "all of it");
    }

    #[test]
    fn tables_that_meet_no_others_move_as_they_are() {
        let objects = |plan: &Plan| {
            plan.moved
                .iter()
                .map(|table| table.object.0)
                .collect::<Vec<_>>()
        };
        let mut inputs = [
            run(0, 6, 9, &[("g", "m"), ("q", "t")]),
            run(0, 1, 5, &[("a", "c"), ("c", "g"), ("m", "p"), ("r", "z")]),
        ];
        let planned = plan(&inputs, 1, SIZES).unwrap();
        assert_eq!(objects(&planned), [100, 101, 600, 102]);
        assert_eq!(planned.rewritten, Some(part("q", "z")));
        // A small one is put together with others.
        inputs[1].tables[1].bytes = 74;
        let planned = plan(&inputs, 1, SIZES).unwrap();
        assert_eq!(objects(&planned), [100]);
        assert_eq!(planned.rewritten.unwrap().from, key("c"));
        // Into the base only its own do.
        inputs[1].tier = BASE;
        inputs[1].tables[1].bytes = 75;
        let planned = plan(&inputs, BASE, SIZES).unwrap();
        assert_eq!(objects(&planned), [100, 101]);
        assert_eq!(planned.rewritten.unwrap().from, key("g"));
        // One without an end is alone only when there are no others.
        let inputs = [run(0, 6, 9, &[("a", "")]), run(0, 1, 5, &[("m", "")])];
        assert!(plan(&inputs, 1, SIZES).unwrap().moved.is_empty());
        let planned = plan(&inputs[..1], 1, SIZES).unwrap();
        assert_eq!((objects(&planned), planned.rewritten), ([600].into(), None));
    }

    fn shown(runs: &[RunRef]) -> alloc::string::String {
        use core::fmt::Write as _;
        let mut shown = alloc::string::String::new();
        for run in runs {
            let (tier, job) = (i16::from(run.tier), run.job.map_or(-1, i16::from));
            write!(shown, "{tier}/{job} {}-{}", run.first.0, run.last.0).unwrap();
            for table in &run.tables {
                let text = |key: &[u8]| alloc::string::String::from_utf8_lossy(key).into_owned();
                let to = table
                    .to
                    .as_ref()
                    .map_or_else(Default::default, |to| text(to));
                write!(shown, " {}:{}-{to}", table.object.0, text(&table.from)).unwrap();
            }
            shown.push('\n');
        }
        // What there is at any time can be opened.
        let manifest = Manifest {
            runs: runs.to_vec(),
            ..Manifest::default()
        };
        let mut bytes = Vec::new();
        manifest.encode(&mut bytes).unwrap();
        assert_eq!(
            Manifest::decode(&bytes).map(|manifest| manifest.runs.len()),
            Ok(runs.len())
        );
        shown
    }

    fn step(
        runs: &mut Vec<RunRef>,
        inputs: core::ops::Range<usize>,
        into: u8,
        tables: &[TableRef],
        cut: &str,
    ) -> Result<(), Disorder> {
        let before = runs[inputs.clone()].to_vec();
        // A flush has come in between.
        if runs.len() == 3 {
            let last = runs[0].last.0;
            runs.insert(0, run(0, last + 1, last + 9, &[("a", "z")]));
        }
        let done = Done {
            inputs: &before,
            work: &Work {
                inputs,
                into,
                tables: None,
            },
            tables: tables.to_vec(),
            cut: (!cut.is_empty()).then(|| key(cut)),
            handed_on: Vec::new(),
        };
        carry_out(runs, done)
    }

    #[test]
    fn a_job_of_a_tier_collects_what_it_writes_in_one_run() {
        let mut runs = alloc::vec![
            run(0, 6, 9, &[("a", "d"), ("d", "z")]),
            run(0, 3, 5, &[("b", "c")]),
            run(BASE, 1, 2, &[("a", "z")]),
        ];
        step(&mut runs, 0..2, 1, &[table(1, "a", "d", 1)], "d").unwrap();
        assert_eq!(
            shown(&runs),
            "0/-1 10-18 1000:a-z\n1/-1 3-9 1:a-d\n0/1 6-9 601:d-z\n255/-1 1-2 100:a-z\n"
        );
        // Nothing is left of some keys.
        step(&mut runs, 2..3, 1, &[], "h").unwrap();
        step(&mut runs, 2..3, 1, &[table(2, "p", "q", 1)], "").unwrap();
        assert_eq!(
            shown(&runs),
            "0/-1 10-18 1000:a-z\n1/-1 3-9 1:a-d 2:p-q\n255/-1 1-2 100:a-z\n"
        );
    }

    #[test]
    fn a_job_into_the_base_ends_with_one_base() {
        let base = run(BASE, 1, 2, &[("a", "f"), ("f", "p"), ("p", "z")]);
        let mut runs = alloc::vec![
            run(1, 6, 9, &[("a", "d"), ("d", "g")]),
            run(0, 3, 5, &[("b", "c")]),
            base,
        ];
        step(&mut runs, 0..3, BASE, &[table(1, "a", "c", 1)], "d").unwrap();
        assert_eq!(
            shown(&runs),
            "0/-1 10-18 1000:a-z\n255/-1 1-9 1:a-c\n1/255 6-9 601:d-g\n255/-1 1-2 100:d-f 101:f-p 102:p-z\n"
        );
        step(&mut runs, 2..4, BASE, &[table(2, "d", "g", 1)], "h").unwrap();
        assert_eq!(
            shown(&runs),
            "0/-1 10-18 1000:a-z\n255/-1 1-9 1:a-c 2:d-g 101:h-p 102:p-z\n"
        );
        // Without a base there is one then.
        let mut runs = alloc::vec![run(0, 6, 9, &[("a", "d")]), run(0, 3, 5, &[("b", "")])];
        step(&mut runs, 0..2, BASE, &[table(1, "a", "", 1)], "").unwrap();
        assert_eq!(shown(&runs), "255/-1 3-9 1:a-\n");
        // And none when nothing is left.
        step(&mut runs, 0..1, BASE, &[], "").unwrap();
        assert_eq!(shown(&runs), "");
    }

    #[test]
    fn tables_of_the_base_are_replaced_where_they_are() {
        let tables = [("a", "c"), ("c", "e"), ("e", "g"), ("g", "")];
        let before = alloc::vec![run(0, 5, 9, &[("a", "z")]), run(BASE, 1, 4, &tables)];
        let replaced = |tables: &[TableRef], cut: &str| {
            let mut runs = before.clone();
            let done = Done {
                inputs: &before[1..],
                work: &Work {
                    inputs: 1..2,
                    into: BASE,
                    tables: Some(1..3),
                },
                tables: tables.to_vec(),
                cut: (!cut.is_empty()).then(|| key(cut)),
                handed_on: alloc::vec![ObjectId(102)],
            };
            carry_out(&mut runs, done).unwrap();
            let swept = runs[1]
                .tables
                .iter()
                .filter(|table| table.dropped == Dropped::Swept);
            (shown(&runs[1..]), swept.count())
        };
        assert_eq!(
            replaced(&[table(1, "c", "d", 1)], "g"),
            ("255/-1 1-4 100:a-c 1:c-d 103:g-\n".into(), 0)
        );
        assert_eq!(
            replaced(&[table(1, "c", "d", 1)], "d"),
            (
                "255/-1 1-4 100:a-c 1:c-d 101:d-e 102:e-g 103:g-\n".into(),
                1
            )
        );
        assert_eq!(replaced(&[], "g").0, "255/-1 1-4 100:a-c 103:g-\n");
    }

    #[test]
    fn what_is_not_there_any_more_is_not_replaced() {
        let mut runs = alloc::vec![run(0, 6, 9, &[("a", "d")]), run(0, 3, 5, &[("b", "c")])];
        let other = [run(0, 6, 9, &[("a", "d")]), run(0, 2, 5, &[("b", "c")])];
        let work = Work {
            inputs: 0..2,
            into: 1,
            tables: None,
        };
        let done = |inputs| Done {
            inputs,
            work: &work,
            tables: Vec::new(),
            cut: None,
            handed_on: Vec::new(),
        };
        let before = runs.clone();
        assert_eq!(carry_out(&mut runs, done(&other)), Err(Disorder));
        assert_eq!(carry_out(&mut runs, done(&other[1..])), Err(Disorder));
        let longer = [&before[..], &other[1..]].concat();
        assert_eq!(carry_out(&mut runs, done(&longer)), Err(Disorder));
        assert_eq!(runs, before);
    }
}
