//! Throughput over chunk size as SVG, readable on light and on dark ground.

use std::fmt::Write as _;

use crate::bench::figures::{Measured, Recommendation};
use crate::quantity::{exact_bytes, human_count};

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 360.0;
/// The plane that figures lie in.
const LEFT: f64 = 90.0;
const RIGHT: f64 = 730.0;
const TOP: f64 = 60.0;
const BOTTOM: f64 = 300.0;
/// How many lines across, from nothing to the greatest figure.
const LINES: u32 = 4;

/// No ground of its own, and colours that stand out from both.
const STYLE: &str = "text{font:13px system-ui,sans-serif;fill:#57606a}.title{font-weight:600}\
    .grid{stroke:#8c959f;stroke-opacity:.3}.line,.spread{stroke:#8c959f;stroke-width:1.5;fill:none}\
    .point{fill:#8c959f}.own{fill:#1f6feb}.ownline{stroke:#1f6feb;stroke-dasharray:4 3}\
    .own.label{fill:#1f6feb;font-weight:600}\
    @media(prefers-color-scheme:dark){text{fill:#adbac7}.own,.own.label{fill:#539bf5}.ownline{stroke:#539bf5}}";

/// Medians as a line, least and greatest as bars, the recommended size marked.
pub(crate) fn svg(stream: &str, sizes: &[Measured], recommendation: &Recommendation) -> String {
    let title = escape(&format!("{stream}: rows/s by chunk size"));
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" \
         viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\">\n<style>{STYLE}</style>\n\
         <text class=\"title\" x=\"10\" y=\"24\">{title}</text>\n"
    );
    let logarithms: Vec<f64> = sizes.iter().map(|size| (size.chunk_bytes as f64).log2()).collect();
    let (first, last) =
        (logarithms.first().copied().unwrap_or(0.0), logarithms.last().copied().unwrap_or(1.0));
    let x =
        |logarithm: f64| LEFT + 20.0 + (logarithm - first) / (last - first).max(1e-9) * (RIGHT - LEFT - 40.0);
    let top = round_up(sizes.iter().map(|size| size.rows_per_second.greatest).fold(1.0, f64::max));
    let y = |rate: f64| BOTTOM - rate / top * (BOTTOM - TOP);

    for line in 0..=LINES {
        let rate = top * f64::from(line) / f64::from(LINES);
        let at = y(rate);
        line_of(&mut svg, "grid", &format!("M{LEFT} {at:.1}H{RIGHT}"));
        label(&mut svg, "", LEFT - 8.0, at + 4.0, "end", &human_count(rate as u64));
    }
    let chosen =
        sizes.iter().zip(&logarithms).find(|(size, _)| size.chunk_bytes == recommendation.chunk_size);
    if let Some((size, logarithm)) = chosen {
        let at = x(*logarithm);
        line_of(&mut svg, "ownline", &format!("M{at:.1} {TOP}V{BOTTOM}"));
        let text = format!("take {}", exact_bytes(size.chunk_bytes));
        // Near an end of the plane the words would leave it.
        let middle = at.clamp(LEFT + 45.0, RIGHT - 45.0);
        label(&mut svg, "own label", middle, TOP - 8.0, "middle", &text);
    }
    let mut path = String::new();
    for (size, logarithm) in sizes.iter().zip(&logarithms) {
        let rate = &size.rows_per_second;
        let at = x(*logarithm);
        let _ = write!(path, "{}{at:.1} {:.1}", if path.is_empty() { 'M' } else { 'L' }, y(rate.median));
        line_of(&mut svg, "spread", &format!("M{at:.1} {:.1}V{:.1}", y(rate.least), y(rate.greatest)));
        label(&mut svg, "", at, BOTTOM + 20.0, "middle", &exact_bytes(size.chunk_bytes));
    }
    line_of(&mut svg, "line", &path);
    for (size, logarithm) in sizes.iter().zip(&logarithms) {
        let own = size.chunk_bytes == recommendation.chunk_size;
        let (class, radius) = if own { ("own", 6) } else { ("point", 4) };
        let (at, rate) = (x(*logarithm), &size.rows_per_second);
        let _ = writeln!(
            svg,
            "<circle class=\"{class}\" cx=\"{at:.1}\" cy=\"{:.1}\" r=\"{radius}\"><title>{}: {} rows/s ({}–{})</title></circle>",
            y(rate.median),
            exact_bytes(size.chunk_bytes),
            human_count(rate.median as u64),
            human_count(rate.least as u64),
            human_count(rate.greatest as u64),
        );
    }
    let note = "chunk size, logarithmic; medians, and the least and greatest of all runs";
    label(&mut svg, "", (LEFT + RIGHT) / 2.0, BOTTOM + 45.0, "middle", note);
    svg + "</svg>\n"
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
        assert_eq!((svg.matches("<circle").count(), svg.matches("class=\"own\"").count()), (3, 1));
        assert!(svg.contains(">take 64MiB<") && svg.contains(">2GiB<"), "{svg}");
        let numbers = |name: &str| -> Vec<f64> {
            let name = format!(" {name}=\"");
            let parts = svg.split(&name).skip(1);
            parts.map(|rest| rest.split('"').next().unwrap().parse().unwrap()).collect()
        };
        assert!(numbers("cx").iter().all(|x| (LEFT..=RIGHT).contains(x)));
        assert!(numbers("cy").iter().all(|y| (TOP..=BOTTOM).contains(y)));
    }

    #[test]
    fn the_scale_ends_above_the_greatest_figure() {
        for (greatest, end) in [(1.0, 1.0), (830_000.0, 1_000_000.0), (1_150_000.0, 1_200_000.0)] {
            assert!((round_up(greatest) - end).abs() < 1e-6, "{greatest}");
        }
    }
}
