//! How far something is that takes long: on the standard error, if that is a terminal. Nothing is drawn anywhere else.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar of bytes, of which there are `total` if that is known.
pub(crate) fn byte_bar(total: Option<u64>) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
    show_bytes(&bar);
    bar
}

/// Something that moves, bytes, and whatever message there is: for what has an end that nobody knows.
pub(crate) fn byte_spinner() -> ProgressBar {
    let spinner = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    set_style(&spinner, "{spinner} {bytes} {binary_bytes_per_sec} {msg}");
    spinner
}

/// Makes a bar of it, once its end is known.
pub(crate) fn show_bytes(bar: &ProgressBar) {
    let template = "{wide_bar} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}";
    set_style(bar, template);
}

fn set_style(bar: &ProgressBar, template: &str) {
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
}
