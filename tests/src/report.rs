//! What a benchmark found out: tables to read, lines for programs, and the figures that are to be reached.

use std::fmt;

use crate::figures::Figures;

/// Everything that was found out in a run.
#[derive(Default)]
pub struct Report {
    /// For programs.
    pub figures: Figures,
    goals: Vec<Goal>,
    markdown: String,
}

struct Goal {
    what: String,
    reach: String,
    measured: String,
    reached: bool,
}

impl Report {
    /// Notes a figure that is to be at most `most`.
    pub fn at_most(&mut self, what: &str, measured: f64, most: f64, unit: &str) {
        self.goal(
            what,
            &format!("≤ {most} {unit}"),
            measured,
            measured <= most,
        );
    }

    /// Notes a figure that is to be at least `least`.
    pub fn at_least(&mut self, what: &str, measured: f64, least: f64, unit: &str) {
        self.goal(
            what,
            &format!("≥ {least} {unit}"),
            measured,
            measured >= least,
        );
    }

    fn goal(&mut self, what: &str, reach: &str, measured: f64, reached: bool) {
        self.goals.push(Goal {
            what: what.to_owned(),
            reach: reach.to_owned(),
            measured: if measured.is_finite() {
                figure(measured)
            } else {
                "given up".to_owned()
            },
            reached,
        });
    }

    /// Prints a table.
    pub fn show(&mut self, table: &Table) {
        print!("{table}");
        self.markdown.push_str(&table.to_markdown());
    }

    /// Prints the figures to reach, and whether they are.
    pub fn show_goals(&mut self) {
        let mut table = Table::new(
            "Figures to reach",
            &["what", "reach", "measured", "reached"],
        );
        for goal in &self.goals {
            let reached = if goal.reached { "yes" } else { "NO" };
            table.row([&goal.what, &goal.reach, &goal.measured, reached]);
        }
        if !self.goals.is_empty() {
            self.show(&table);
        }
    }

    /// All tables that were shown, as sections of a document.
    pub fn markdown(&self) -> &str {
        &self.markdown
    }
}

/// Three digits that mean something.
pub fn figure(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 || value == 0.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

/// One theme. The first column is text, the others are figures.
pub struct Table {
    title: String,
    rows: Vec<Vec<String>>,
    notes: Vec<String>,
}

impl Table {
    /// An empty one.
    pub fn new<T: ToString>(title: &str, columns: &[T]) -> Self {
        Self {
            title: title.to_owned(),
            rows: vec![columns.iter().map(ToString::to_string).collect()],
            notes: Vec::new(),
        }
    }

    /// A row: a name, and its figures.
    pub fn row<T: ToString>(&mut self, cells: impl IntoIterator<Item = T>) {
        let cells = cells.into_iter().map(|cell| cell.to_string()).collect();
        self.rows.push(cells);
    }

    /// A line below the table.
    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    fn to_markdown(&self) -> String {
        let mut lines = vec![format!("\n## {}\n", self.title)];
        for (index, row) in self.rows.iter().enumerate() {
            lines.push(format!("| {} |", row.join(" | ")));
            if index == 0 {
                lines.push(format!("|---|{}", "--:|".repeat(row.len() - 1)));
            }
        }
        lines.extend(self.notes.iter().map(|note| format!("\n{note}")));
        lines.push(String::new());
        lines.join("\n")
    }

    fn widths(&self) -> Vec<usize> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let cells = |column: usize| self.rows.iter().filter_map(move |row| row.get(column));
        let width = |column| cells(column).map(|cell| cell.chars().count()).max();
        (0..columns)
            .map(|column| width(column).unwrap_or(0))
            .collect()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "\n== {}", self.title)?;
        let widths = self.widths();
        for row in &self.rows {
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                match column {
                    0 => write!(out, "{cell:<width$}")?,
                    _ => write!(out, "  {cell:>width$}")?,
                }
            }
            writeln!(out)?;
        }
        self.notes
            .iter()
            .try_for_each(|note| writeln!(out, "   {note}"))
    }
}
