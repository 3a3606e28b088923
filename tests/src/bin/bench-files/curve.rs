//! The write cost of the cleaner as a picture.

use std::error::Error;
use std::path::Path;

use plotters::prelude::{
    BLUE, ChartBuilder, Circle, Color, EmptyElement, IntoDrawingArea, LineSeries, PathElement, RED,
    RGBColor, SVGBackend, SeriesLabelPosition, ShapeStyle, Text, WHITE,
};
use plotters::series::PointSeries;

use crate::cleaning::{Load, Point};
use tests::report::figure;

const SIZE: (u32, u32) = (800, 500);
const PERCENTS: std::ops::RangeInclusive<u64> = 45..=92;
const COST_MAX: f64 = 6.0;

/// Draws measured points and analytic curves into an SVG file.
pub fn draw(points: &[Point], disk_mib: u64, path: &Path) -> Result<(), Box<dyn Error>> {
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let caption = format!("Device bytes per new byte, random overwrites of 4 KiB, {disk_mib} MiB");
    let mut chart = ChartBuilder::on(&area)
        .caption(caption, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(50)
        .build_cartesian_2d(
            *PERCENTS.start() as f64..*PERCENTS.end() as f64,
            1.0..COST_MAX,
        )?;
    chart
        .configure_mesh()
        .x_desc("part of the capacity in use, percent")
        .y_desc("bytes written per new byte")
        .x_label_formatter(&|percent| format!("{percent:.0}"))
        .y_label_formatter(&|cost| format!("{cost:.1}"))
        .light_line_style(WHITE)
        .draw()?;
    for load in Load::ALL {
        // Labels of the upper line above it, of the lower one below.
        let (color, reference, label_y) = match load {
            Load::Uniform => (BLUE, "segments cleaned by age", -18),
            Load::Skewed => (RED, "hot and cold apart", 8),
        };
        let faint = color.mix(0.35);
        let analytic = PERCENTS.map(|percent| (percent as f64, load.analytic(percent)));
        chart
            .draw_series(LineSeries::new(analytic, faint))?
            .label(format!(
                "{}, analytic: {reference}, no metadata",
                load.name()
            ))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], faint));
        let own = points.iter().filter(|point| point.load == load);
        let measured =
            own.filter_map(|point| Some((point.percent as f64, point.bytes_per_byte()?)));
        let measured = measured.collect::<Vec<_>>();
        chart
            .draw_series(LineSeries::new(measured.clone(), color.stroke_width(2)))?
            .label(format!("{}, measured", load.name()))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], color.stroke_width(2)));
        let mark = |at: (f64, f64), size, style: ShapeStyle| {
            let label = Text::new(figure(at.1), (-14, label_y), ("sans-serif", 13));
            EmptyElement::at(at) + Circle::new((0, 0), size, style.filled()) + label
        };
        chart.draw_series(PointSeries::of_element(measured, 3, color, &mark))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .border_style(RGBColor(160, 160, 160))
        .draw()?;
    area.present()?;
    Ok(())
}
