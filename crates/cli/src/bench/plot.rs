//! What runs came to over chunk size as SVG, a panel for each figure, readable on light and on dark ground.

use std::fmt::Write as _;

use crate::bench::figures::{Measured, ReadAgain, Recommendation, Spread};
use crate::quantity::{exact_bytes, human_count};

const WIDTH: f64 = 760.0;
/// The planes that figures lie in.
const LEFT: f64 = 90.0;
const RIGHT: f64 = 730.0;
const TOP: f64 = 80.0;
/// The first plane is higher than the others, because it decides.
const FIRST: f64 = 220.0;
const OTHER: f64 = 100.0;
/// Between two planes.
const GAP: f64 = 40.0;
/// Below the last one.
const FOOT: f64 = 60.0;
/// How many lines across, from nothing to the greatest figure.
const LINES: u32 = 4;
const MIB: f64 = (1 << 20) as f64;

/// No ground of its own, and colours that stand out from both.
const STYLE: &str = "text{font:13px system-ui,sans-serif;fill:#57606a}.title{font-weight:600}\
    .grid{stroke:#8c959f;stroke-opacity:.3}.line,.spread{stroke:#8c959f;stroke-width:1.5;fill:none}\
    .point{fill:#8c959f}.own{fill:#1f6feb}.ownline{stroke:#1f6feb;stroke-dasharray:4 3}\
    .own.label{fill:#1f6feb;font-weight:600}\
    @media(prefers-color-scheme:dark){text{fill:#adbac7}.own,.own.label{fill:#539bf5}.ownline{stroke:#539bf5}}";

/// One figure of every size, and how it is drawn.
struct Panel {
    title: String,
    /// `None` where a size has none.
    figures: Vec<Option<Spread>>,
    scale: Scale,
}

#[derive(Clone, Copy)]
enum Scale {
    /// From nothing.
    Linear,
    /// By powers of ten: what halves where chunks double would else lie on the ground.
    Logarithmic,
}

/// Where figures lie on the way from the lower end of a plane (0) to its upper end (1).
struct Axis {
    scale: Scale,
    least: f64,
    greatest: f64,
}

/// Medians as lines, least and greatest as bars, the recommended size marked.
pub(crate) fn svg(stream: &str, sizes: &[Measured], recommendation: &Recommendation) -> String {
    let panels = panels(sizes);
    let bottom = TOP + FIRST + (panels.len().saturating_sub(1)) as f64 * (GAP + OTHER);
    let height = bottom + FOOT;
    let title = escape(&format!("{stream}: what chunk sizes cost"));
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{title}\">\n<style>{STYLE}</style>\n\
         <text class=\"title\" x=\"10\" y=\"24\">{title}</text>\n"
    );
    let logarithms: Vec<f64> = sizes.iter().map(|size| (size.chunk_bytes as f64).log2()).collect();
    let (first, last) =
        (logarithms.first().copied().unwrap_or(0.0), logarithms.last().copied().unwrap_or(1.0));
    let x =
        |logarithm: f64| LEFT + 20.0 + (logarithm - first) / (last - first).max(1e-9) * (RIGHT - LEFT - 40.0);
    let places: Vec<f64> = logarithms.into_iter().map(x).collect();

    let chosen = sizes.iter().zip(&places).find(|(size, _)| size.chunk_bytes == recommendation.chunk_size);
    if let Some((size, at)) = chosen {
        line_of(&mut svg, "ownline", &format!("M{at:.1} {TOP}V{bottom}"));
        let text = format!("take {}", exact_bytes(size.chunk_bytes));
        // Near an end of the plane the words would leave it.
        let middle = at.clamp(LEFT + 45.0, RIGHT - 45.0);
        label(&mut svg, "own label", middle, TOP - 34.0, "middle", &text);
    }
    let mut upper = TOP;
    for (index, panel) in panels.iter().enumerate() {
        let lower = upper + if index == 0 { FIRST } else { OTHER };
        draw(&mut svg, panel, sizes, &places, recommendation, upper..lower);
        upper = lower + GAP;
    }
    for (size, at) in sizes.iter().zip(&places) {
        label(&mut svg, "", *at, bottom + 20.0, "middle", &exact_bytes(size.chunk_bytes));
    }
    let note = "chunk size, logarithmic; medians, and the least and greatest of all runs";
    label(&mut svg, "", (LEFT + RIGHT) / 2.0, bottom + 45.0, "middle", note);
    svg + "</svg>\n"
}

/// The figures that there are.
fn panels(sizes: &[Measured]) -> Vec<Panel> {
    let panel = |title: String, scale, figure: &dyn Fn(&Measured) -> Option<Spread>| Panel {
        title,
        scale,
        figures: sizes.iter().map(figure).collect(),
    };
    // Of one stream the two are the same curve.
    let mib_per_row =
        sizes.first().map_or(0.0, |size| size.mib_per_second.median / size.rows_per_second.median);
    [
        panel(format!("rows/s; a million are {} MiB", number(mib_per_row * 1e6)), Scale::Linear, &|size| {
            Some(size.rows_per_second)
        }),
        panel("CPU seconds for a million rows".to_owned(), Scale::Linear, &|size| {
            Some(size.cpu_seconds_per_million_rows)
        }),
        panel("peak memory, MiB".to_owned(), Scale::Linear, &|size| {
            size.peak_rss_bytes.map(|peak| peak.divided_by(MIB))
        }),
        panel("files".to_owned(), Scale::Logarithmic, &|size| {
            (size.files.median > 0.0).then_some(size.files)
        }),
        panel("MiB of a file, on average".to_owned(), Scale::Logarithmic, &|size| {
            let files = size.files.median;
            (files > 0.0 && size.file_bytes.median > 0.0).then(|| size.file_bytes.divided_by(files * MIB))
        }),
        panel("rows read again after a kill".to_owned(), Scale::Logarithmic, &|size| match size.read_again {
            ReadAgain::Measured(rows) | ReadAgain::AtMost(rows) => Some(Spread::one(rows as f64)),
            ReadAgain::TooFast => None,
        }),
    ]
    .into_iter()
    .filter(|panel| panel.figures.iter().any(Option::is_some))
    .collect()
}

/// Draws a panel between two heights.
fn draw(
    svg: &mut String,
    panel: &Panel,
    sizes: &[Measured],
    places: &[f64],
    recommendation: &Recommendation,
    heights: std::ops::Range<f64>,
) {
    let axis = Axis::of(panel);
    let y = |figure: f64| heights.end - axis.share(figure) * (heights.end - heights.start);
    label(svg, "title", LEFT, heights.start - 12.0, "start", &panel.title);
    for figure in axis.lines() {
        let at = y(figure);
        line_of(svg, "grid", &format!("M{LEFT} {at:.1}H{RIGHT}"));
        label(svg, "", LEFT - 8.0, at + 4.0, "end", &number(figure));
    }
    let known = || {
        let all = sizes.iter().zip(places).zip(&panel.figures);
        all.filter_map(|((size, at), figure)| Some((size, *at, (*figure)?)))
    };
    let mut path = String::new();
    for (_, at, figure) in known() {
        let _ = write!(path, "{}{at:.1} {:.1}", if path.is_empty() { 'M' } else { 'L' }, y(figure.median));
        line_of(svg, "spread", &format!("M{at:.1} {:.1}V{:.1}", y(figure.least), y(figure.greatest)));
    }
    line_of(svg, "line", &path);
    for (size, at, figure) in known() {
        let own = size.chunk_bytes == recommendation.chunk_size;
        let (class, radius) = if own { ("own", 6) } else { ("point", 4) };
        let _ = writeln!(
            svg,
            "<circle class=\"{class}\" cx=\"{at:.1}\" cy=\"{:.1}\" r=\"{radius}\"><title>{}: {} ({}–{})</title></circle>",
            y(figure.median),
            exact_bytes(size.chunk_bytes),
            number(figure.median),
            number(figure.least),
            number(figure.greatest),
        );
    }
}

impl Axis {
    fn of(panel: &Panel) -> Self {
        let known = || panel.figures.iter().flatten();
        let greatest = known().map(|figure| figure.greatest).fold(f64::MIN_POSITIVE, f64::max);
        let (least, greatest) = match panel.scale {
            Scale::Linear => (0.0, round_up(greatest)),
            Scale::Logarithmic => {
                let least = known().map(|figure| figure.least).filter(|least| *least > 0.0);
                // What is nothing lies on the ground.
                let least = least.fold(greatest, f64::min).log10().floor();
                (10f64.powf(least), 10f64.powf(greatest.log10().ceil().max(least + 1.0)))
            }
        };
        Self { scale: panel.scale, least, greatest }
    }

    fn share(&self, figure: f64) -> f64 {
        match self.scale {
            Scale::Linear => figure / self.greatest,
            Scale::Logarithmic => {
                (figure.max(self.least) / self.least).log10() / (self.greatest / self.least).log10()
            }
        }
    }

    /// The figures that have a line across.
    fn lines(&self) -> Vec<f64> {
        match self.scale {
            Scale::Linear => {
                (0..=LINES).map(|line| self.greatest * f64::from(line) / f64::from(LINES)).collect()
            }
            Scale::Logarithmic => {
                let powers = (self.greatest / self.least).log10().round() as u32;
                // No more than can be read one above the other.
                let step = powers.div_ceil(LINES + 1).max(1);
                (0..=powers)
                    .step_by(step as usize)
                    .map(|power| self.least * 10f64.powf(f64::from(power)))
                    .collect()
            }
        }
    }
}

/// A figure in few digits.
fn number(figure: f64) -> String {
    match figure {
        _ if figure >= 100.0 => human_count(figure.round() as u64),
        _ => {
            // Two digits that say something, and no zeros behind them.
            let decimals = (1.0 - figure.max(1e-6).log10().floor()).clamp(0.0, 6.0) as usize;
            let text = format!("{figure:.decimals$}");
            match text.contains('.') {
                true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
                false => text,
            }
        }
    }
}

fn line_of(svg: &mut String, class: &str, path: &str) {
    let _ = writeln!(svg, "<path class=\"{class}\" d=\"{path}\"/>");
}

fn label(svg: &mut String, class: &str, x: f64, y: f64, anchor: &str, text: &str) {
    let class = if class.is_empty() { String::new() } else { format!(" class=\"{class}\"") };
    let text = escape(text);
    let _ = writeln!(svg, "<text{class} x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>");
}

/// The next number whose quarters are easy to read.
fn round_up(greatest: f64) -> f64 {
    let power = 10f64.powf(greatest.log10().floor());
    [1.0, 1.2, 1.6, 2.0, 2.4, 3.2, 4.0, 6.0, 8.0, 10.0]
        .into_iter()
        .map(|factor| factor * power)
        .find(|candidate| *candidate >= greatest)
        .unwrap_or(greatest)
}

/// Text as XML holds it; what XML cannot hold at all is left out.
fn escape(text: &str) -> String {
    text.chars()
        .filter(|c| !c.is_control() && !matches!(c, '\u{fffe}' | '\u{ffff}'))
        .map(|c| match c {
            '&' => "&amp;".to_owned(),
            '<' => "&lt;".to_owned(),
            '>' => "&gt;".to_owned(),
            '"' => "&quot;".to_owned(),
            c => c.to_string(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::figures::{recommend, tests::measured};

    #[test]
    fn every_size_is_a_point_within_the_plane_and_one_is_marked() {
        let sizes = [measured(1 << 20, &[2.0, 3.0]), measured(64 << 20, &[1.0]), measured(2 << 30, &[1.0])];
        let svg = svg("a<b>&\"c\"\u{1b}", &sizes, &recommend(&sizes).unwrap());
        assert!(svg.contains("a&lt;b&gt;&amp;&quot;c&quot;:"), "{svg}");
        // Each of six figures has a point of every size.
        assert_eq!((svg.matches("<circle").count(), svg.matches("class=\"own\"").count()), (18, 6));
        assert!(svg.contains(">take 64MiB<") && svg.contains(">2GiB<"), "{svg}");
        let numbers = |name: &str| -> Vec<f64> {
            let name = format!(" {name}=\"");
            let parts = svg.split(&name).skip(1);
            parts.map(|rest| rest.split('"').next().unwrap().parse().unwrap()).collect()
        };
        assert!(numbers("cx").iter().all(|x| (LEFT..=RIGHT).contains(x)));
        let bottom = numbers("height")[0] - FOOT;
        assert!(numbers("cy").iter().all(|y| (TOP..=bottom).contains(y)));
    }

    #[test]
    fn what_was_not_measured_has_no_panel() {
        let mut sizes = [measured(1 << 20, &[2.0]), measured(64 << 20, &[1.0])];
        let titles =
            |sizes: &[Measured]| panels(sizes).into_iter().map(|panel| panel.title).collect::<Vec<_>>();
        assert_eq!(titles(&sizes).len(), 6);
        for size in &mut sizes {
            (size.files, size.peak_rss_bytes) = (Spread::one(0.0), None);
            size.read_again = ReadAgain::TooFast;
        }
        assert_eq!(titles(&sizes), ["rows/s; a million are 100 MiB", "CPU seconds for a million rows"]);
    }

    #[test]
    fn powers_of_ten_are_as_far_from_each_other_and_nothing_lies_on_the_ground() {
        let figures = [3_000.0, 40.0, 0.0].map(|figure| Some(Spread::one(figure)));
        let axis =
            Axis::of(&Panel { title: String::new(), figures: figures.into(), scale: Scale::Logarithmic });
        assert_eq!(axis.lines(), [10.0, 100.0, 1_000.0, 10_000.0]);
        assert_eq!([0.0, 10.0, 10_000.0].map(|figure| axis.share(figure)), [0.0, 0.0, 1.0]);
        assert!((axis.share(100.0) - 1.0 / 3.0).abs() < 1e-9);
    }

    #[test]
    fn figures_have_few_digits() {
        for (figure, text) in [
            (0.0, "0"),
            (0.5, "0.5"),
            (0.0123, "0.012"),
            (7.0, "7"),
            (23.4, "23"),
            (1_234_567.8, "1,234,568"),
        ] {
            assert_eq!(number(figure), text);
        }
    }

    #[test]
    fn the_scale_ends_above_the_greatest_figure() {
        for (greatest, end) in [(1.0, 1.0), (830_000.0, 1_000_000.0), (1_150_000.0, 1_200_000.0)] {
            assert!((round_up(greatest) - end).abs() < 1e-6, "{greatest}");
        }
    }
}
