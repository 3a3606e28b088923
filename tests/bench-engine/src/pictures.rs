//! What is a curve as a picture.

use std::error::Error;
use std::path::Path;

use plotters::prelude::{
    ChartBuilder, Circle, Color, IntoDrawingArea, LineSeries, PathElement, RGBColor, SVGBackend,
    SeriesLabelPosition, WHITE,
};

use crate::engine::Name;
use crate::measured::PhaseResult;
use crate::rounds::Rounds;

const SIZE: (u32, u32) = (800, 500);

/// Of an axis.
#[derive(Clone, Copy)]
struct Axis {
    title: &'static str,
    logarithmic: bool,
}

struct Picture {
    title: &'static str,
    file: &'static str,
    x: Axis,
    y: Axis,
    lines: Vec<(Name, Vec<(f64, f64)>)>,
}

/// Draws what there are figures for into SVG files in `directory`; titles and names of the files.
pub fn draw(rounds: &Rounds, directory: &Path) -> Vec<(&'static str, &'static str)> {
    let commits_per_second = Axis {
        title: "commits per second",
        logarithmic: true,
    };
    let axis = |title, logarithmic| Axis { title, logarithmic };
    let pictures = [
        Picture {
            title: "Durable single commits",
            file: "engine-commits.svg",
            x: axis("writers at once", true),
            y: commits_per_second,
            lines: lines(rounds, |engine| rates(rounds, "commits", "put_", engine)),
        },
        Picture {
            title: "Transactions between few accounts and many, 16 clients",
            file: "engine-conflicts.svg",
            x: axis("accounts", true),
            y: commits_per_second,
            lines: lines(rounds, |engine| {
                rates(rounds, "conflicts", "accounts_", engine)
            }),
        },
        Picture {
            title: "Room on the disk while everything is overwritten at random",
            file: "engine-space.svg",
            x: axis("times overwritten", false),
            y: axis("bytes for each live byte", true),
            lines: lines(rounds, |engine| space(rounds, engine)),
        },
    ];
    let drawn = pictures.iter().filter(|picture| !picture.lines.is_empty());
    let draw = |picture: &Picture| {
        let drawn = picture.draw(&directory.join(picture.file));
        drawn.expect("a picture");
        (picture.title, picture.file)
    };
    drawn.map(draw).collect()
}

fn lines(
    rounds: &Rounds,
    points: impl Fn(Name) -> Vec<(f64, f64)>,
) -> Vec<(Name, Vec<(f64, f64)>)> {
    let lines = rounds
        .engines
        .iter()
        .map(|&engine| (engine, points(engine)));
    lines.filter(|(_, points)| !points.is_empty()).collect()
}

/// Rates of phases whose names are a word and a number.
fn rates(rounds: &Rounds, case: &str, word: &str, engine: Name) -> Vec<(f64, f64)> {
    let phases = rounds.phases(case).into_iter();
    let points = phases.filter_map(|(name, _)| {
        let number = name.strip_prefix(word)?.parse().ok()?;
        let rate = |phase: &PhaseResult| Some(phase.operations_per_second());
        Some((number, rounds.median(case, &name, engine, rate)?))
    });
    // Of none there is no logarithm.
    points.filter(|(_, rate)| *rate > 0.0).collect()
}

fn space(rounds: &Rounds, engine: Name) -> Vec<(f64, f64)> {
    let phases = rounds.phase("overwrite", "overwrite", engine);
    let samples = phases.last().map(|(_, phase)| phase.space_samples.clone());
    samples.unwrap_or_default()
}

impl Picture {
    /// Axes are drawn as logarithms where they are logarithmic, with labels that say what was meant.
    fn draw(&self, path: &Path) -> Result<(), Box<dyn Error>> {
        let area = SVGBackend::new(path, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let points = self.lines.iter().flat_map(|(_, points)| points);
        let (mut xs, mut ys) = (Vec::new(), Vec::new());
        for &(x, y) in points {
            xs.push(self.x.scale(x));
            ys.push(self.y.scale(y));
        }
        let mut chart = ChartBuilder::on(&area)
            .caption(self.title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(70)
            .build_cartesian_2d(range(&xs), range(&ys))?;
        chart
            .configure_mesh()
            .x_desc(self.x.title)
            .y_desc(self.y.title)
            .x_label_formatter(&|at| self.x.label(*at))
            .y_label_formatter(&|at| self.y.label(*at))
            .light_line_style(WHITE)
            .draw()?;
        for (name, points) in &self.lines {
            let style = color(*name).stroke_width(if *name == Name::Ours { 4 } else { 2 });
            let points = points
                .iter()
                .map(|&(x, y)| (self.x.scale(x), self.y.scale(y)));
            let points = points.collect::<Vec<_>>();
            chart
                .draw_series(LineSeries::new(points.clone(), style))?
                .label(name.text())
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], style));
            let dots = points
                .into_iter()
                .map(|at| Circle::new(at, 3, style.filled()));
            chart.draw_series(dots)?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .border_style(RGBColor(160, 160, 160))
            .background_style(WHITE.mix(0.8))
            .draw()?;
        area.present()?;
        Ok(())
    }
}

impl Axis {
    fn scale(self, value: f64) -> f64 {
        if self.logarithmic {
            value.log2()
        } else {
            value
        }
    }

    fn label(self, at: f64) -> String {
        let value = if self.logarithmic { at.exp2() } else { at };
        match value {
            0.0..10.0 => format!("{value:.1}"),
            _ => format!("{value:.0}"),
        }
    }
}

/// All of them, with a little around.
fn range(numbers: &[f64]) -> std::ops::Range<f64> {
    let least = numbers.iter().copied().fold(f64::MAX, f64::min);
    let greatest = numbers.iter().copied().fold(f64::MIN, f64::max);
    let around = ((greatest - least) / 20.0).max(0.1);
    least - around..greatest + around
}

fn color(name: Name) -> RGBColor {
    match name {
        Name::Ours => RGBColor(200, 0, 0),
        Name::Redb => RGBColor(230, 140, 0),
        Name::Fjall => RGBColor(0, 110, 200),
        Name::Sled => RGBColor(120, 120, 120),
        Name::Lmdb => RGBColor(0, 150, 70),
        Name::Sqlite => RGBColor(150, 100, 50),
        Name::SurrealKv => RGBColor(150, 0, 180),
        Name::RocksDb => RGBColor(0, 0, 0),
    }
}
