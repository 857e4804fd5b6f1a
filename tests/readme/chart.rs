//! README's chart, drawn from the figures of a page in docs/benchmarks.

/// The page that has the figures.
pub const PAGE: &str = "docs/benchmarks/zen4.md";
/// The chart.
pub const FILE: &str = "docs/benchmarks/zen4.svg";
/// Where the page's table begins.
const TABLE: &str = "## Other libraries, their time over fallline's";
const TITLE: &str = "Step time of other libraries over fallline's";
const UNDER: &str =
    "CPU, two cores of a shared Zen 4 server, interleaved medians; ranges are of several runs";

/// The rows that are drawn: optimizer and library as the page has them, and what the chart calls them.
const ROWS: [(&str, &str, &str); 8] = [
    ("AdamW", "candle", "AdamW · candle"),
    ("AdamW", "torch default", "AdamW · torch, default"),
    ("AdamW", "DeepSpeedCPUAdam", "AdamW · DeepSpeedCPUAdam"),
    ("AdamW, 64M elements, four runs", "torch `fused`", "AdamW · torch, fused"),
    ("AdamW, 10,000 small tensors", "torch `fused`", "AdamW, 10,000 small tensors · torch, fused"),
    ("Lion", "lion-pytorch", "Lion · lion-pytorch"),
    ("DAdaptAdam, 2²⁴, seven runs", "dadaptation", "DAdaptAdam · dadaptation"),
    ("Muon in `f32`, 4 × 1024²", "torch, which multiplies in `bf16`", "Muon in f32 · torch, in bf16"),
];

const WIDTH: f64 = 760.0;
const LEFT: f64 = 290.0;
const TOP: f64 = 64.0;
const ROW: f64 = 26.0;
const BAR: f64 = 16.0;
/// The ratios at the left and right end, on a logarithmic axis.
const ENDS: [f64; 2] = [0.5, 64.0];

/// Returns the least and the largest number of a cell: `1.01, 1.02`, `9.1 to 11.6`, `57`.
fn range(cell: &str) -> Option<[f64; 2]> {
    let numbers = cell.split([',', ' ']).filter_map(|word| word.parse::<f64>().ok());
    numbers.fold(None, |range, x| {
        Some(range.map_or([x, x], |[least, most]: [f64; 2]| [least.min(x), most.max(x)]))
    })
}

/// Returns the ratios of a row of the page.
fn ratios(page: &str, optimizer: &str, library: &str) -> [f64; 2] {
    let (_, table) = page.split_once(TABLE).unwrap_or_else(|| panic!("{PAGE} has no {TABLE:?}"));
    let row = table.lines().find_map(|line| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        (cells.get(1..3) == Some(&[optimizer, library])).then(|| cells[3])
    });
    let row = row.unwrap_or_else(|| panic!("{PAGE} has no row {optimizer:?} of {library:?}"));
    range(row).unwrap_or_else(|| panic!("{PAGE}: {row:?} has no number"))
}

/// Returns the place of a ratio on the axis.
fn at(ratio: f64) -> f64 {
    let [first, last] = ENDS.map(f64::ln);
    LEFT + (ratio.ln() - first) / (last - first) * (WIDTH - LEFT - 20.0)
}

/// Returns the chart of a page as SVG.
pub fn drawn(page: &str) -> String {
    let bottom = TOP + ROW * ROWS.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{}\" font-family=\"sans-serif\" \
         font-size=\"12\" fill=\"#222222\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"12\" y=\"22\" font-size=\"15\" font-weight=\"bold\">{TITLE}</text>\n\
         <text x=\"12\" y=\"42\" fill=\"#666666\">{UNDER}</text>\n",
        bottom + 28.0
    );
    for tick in [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0] {
        let (x, colour) = (at(tick), if tick == 1.0 { "#222222" } else { "#dddddd" });
        svg += &format!(
            "<path d=\"M{x:.1} {TOP}V{bottom}\" stroke=\"{colour}\"/>\n\
             <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\" fill=\"#666666\">{tick}×</text>\n",
            bottom + 18.0
        );
    }
    for (place, (optimizer, library, label)) in ROWS.into_iter().enumerate() {
        let [least, most] = ratios(page, optimizer, library);
        let top = TOP + ROW * place as f64 + (ROW - BAR) / 2.0;
        let text = top + BAR - 4.0;
        let mut bar = |from: f64, to: f64, colour: &str| {
            let [left, right] = [at(from.min(to)), at(from.max(to))];
            svg += &format!(
                "<rect x=\"{left:.1}\" y=\"{top}\" width=\"{:.1}\" height=\"{BAR}\" fill=\"{colour}\"/>\n",
                right - left
            );
        };
        // Up to the least ratio that was measured; a range above it is paler.
        bar(1.0, least, if least < 1.0 { "#b2182b" } else { "#2166ac" });
        bar(least, most, "#92c5de");
        let number = if least == most { format!("{least}×") } else { format!("{least} to {most}×") };
        svg += &format!(
            "<text x=\"{:.1}\" y=\"{text}\">{number}</text>\n\
             <text x=\"{:.1}\" y=\"{text}\" text-anchor=\"end\">{label}</text>\n",
            at(most.max(1.0)) + 5.0,
            LEFT - 8.0
        );
    }
    svg + "</svg>\n"
}

#[test]
fn ranges_are_read() {
    assert_eq!(range("1.22, 1.01, 1.15"), Some([1.01, 1.22]));
    assert_eq!(range("9.1 to 11.6"), Some([9.1, 11.6]));
    assert_eq!(range("57"), Some([57.0, 57.0]));
    assert_eq!(range("none"), None);
}
