//! The colours of the pictures.

/// The colour of titles and numbers.
pub const INK: &str = "#262b33";
/// The colour of what explains.
pub const GREY: &str = "#636b76";
/// The colour of the lines at the marks.
pub const FAINT: &str = "#e5e8ec";
/// The colour of the loss of a step where a mean is drawn over it.
pub const PALE: &str = "#9ec5e8";
/// The colour of the loss.
pub const BLUE: &str = "#175ca4";
/// The colour of the accuracy.
pub const GREEN: &str = "#0f7c58";
/// The colour of the test loss.
pub const ORANGE: &str = "#d1640f";
/// The colour of the learning rate.
pub const PURPLE: &str = "#7a3e9d";
/// The colour of what went wrong.
pub const RED: &str = "#c0271d";

/// The colours of curves that are compared, as far apart as can be.
const SERIES: [&str; 8] =
    ["#175ca4", "#d1640f", "#0f7c58", "#b3247a", "#7a3e9d", "#8a6d00", "#c0271d", "#0e8fa3"];
/// The dashes of curves, where the colours begin again.
const DASHES: [Option<&str>; 4] = [None, Some("9 4"), Some("3 3"), Some("12 3 3 3")];

/// Returns the colour and the dashes of a curve.
pub fn series(index: usize) -> (&'static str, Option<&'static str>) {
    (SERIES[index % SERIES.len()], DASHES[index / SERIES.len() % DASHES.len()])
}

/// Time, from the first step to the last.
const TIME: [[f64; 3]; 4] =
    [[58.0, 12.0, 110.0], [168.0, 30.0, 110.0], [229.0, 92.0, 48.0], [250.0, 190.0, 40.0]];
/// Values of a function, from the lowest to the highest.
const HEIGHTS: [[f64; 3]; 3] = [[250.0, 252.0, 254.0], [190.0, 208.0, 226.0], [112.0, 142.0, 178.0]];

/// Returns the colour of a share of the steps.
pub fn time(share: f64) -> String {
    between(&TIME, share)
}

/// Returns the colour of a share of the levels.
pub fn height(share: f64) -> String {
    between(&HEIGHTS, share)
}

/// Returns the colour of the line along a level.
pub fn level(share: f64) -> String {
    let [red, green, blue] = mixed(&HEIGHTS, share);
    hex([red * 0.82, green * 0.85, blue * 0.88])
}

fn between(colours: &[[f64; 3]], share: f64) -> String {
    hex(mixed(colours, share))
}

fn mixed(colours: &[[f64; 3]], share: f64) -> [f64; 3] {
    let place = share.clamp(0.0, 1.0) * (colours.len() - 1) as f64;
    let first = (place as usize).min(colours.len() - 2);
    let rest = place - first as f64;
    [0, 1, 2].map(|part| colours[first][part] + (colours[first + 1][part] - colours[first][part]) * rest)
}

fn hex(colour: [f64; 3]) -> String {
    let [red, green, blue] = colour.map(|part| part.round() as u8);
    format!("#{red:02x}{green:02x}{blue:02x}")
}
