//! Plots as SVG: one bar for each work, a line across it from its least to its greatest value.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::report::round;
use super::stats::Summary;

const WIDTH: u32 = 760;
const ROW: u32 = 34;
const TITLE: u32 = 44;
const FOOT: u32 = 12;
/// Columns left of the bars, for names, and right of them, for values.
const NAMES: i32 = 150;
const VALUES: i32 = 150;
const BAR: i32 = 16;
/// Floors and other systems are grey, what is measured beside them is blue.
const FLOOR: RGBColor = RGBColor(150, 155, 165);
const OURS: RGBColor = RGBColor(45, 105, 175);
const INK: RGBColor = RGBColor(40, 40, 45);

/// A bar.
pub(super) struct Bar<'a> {
    pub(super) name: &'a str,
    pub(super) summary: Summary,
}

/// An SVG picture of the bars, or `None` if there is nothing to see.
pub(super) fn bars(title: &str, bars: &[Bar<'_>]) -> Option<String> {
    let greatest = bars.iter().map(|bar| bar.summary.max).fold(0.0, f64::max);
    if bars.is_empty() || greatest <= 0.0 {
        return None;
    }
    let rows = u32::try_from(bars.len()).unwrap_or(u32::MAX / ROW);
    let mut svg = String::new();
    let drawn = draw(&mut svg, title, bars, greatest, TITLE + rows * ROW + FOOT);
    drawn.is_ok().then_some(svg)
}

type Drawn = Result<(), DrawingAreaErrorKind<<SVGBackend<'static> as DrawingBackend>::ErrorType>>;

fn draw(svg: &mut String, title: &str, bars: &[Bar<'_>], greatest: f64, height: u32) -> Drawn {
    let area = SVGBackend::with_string(svg, (WIDTH, height)).into_drawing_area();
    area.fill(&WHITE)?;
    let style = |size: i32, color: &RGBColor, side: HPos| {
        ("sans-serif", size).into_font().color(color).pos(Pos::new(side, VPos::Center))
    };
    area.draw(&Text::new(title.to_owned(), (12, 22), style(17, &INK, HPos::Left)))?;
    let length = f64::from(WIDTH) - f64::from(NAMES + VALUES);
    let at = |value: f64| NAMES + (value.max(0.0) / greatest * length).round() as i32;
    for (row, bar) in bars.iter().enumerate() {
        let middle = TITLE as i32 + row as i32 * ROW as i32 + ROW as i32 / 2;
        let Summary { median, min, max, .. } = bar.summary;
        let ours = !bar.name.starts_with("floor") && !bar.name.starts_with("garage");
        let color = if ours { OURS } else { FLOOR };
        area.draw(&Text::new(bar.name.to_owned(), (NAMES - 8, middle), style(13, &INK, HPos::Right)))?;
        let corners = [(NAMES, middle - BAR / 2), (at(median).max(NAMES + 1), middle + BAR / 2)];
        area.draw(&Rectangle::new(corners, color.filled()))?;
        for line in [
            [(at(min), middle), (at(max), middle)],
            [(at(min), middle - 5), (at(min), middle + 5)],
            [(at(max), middle - 5), (at(max), middle + 5)],
        ] {
            area.draw(&PathElement::new(line, INK))?;
        }
        let value = format!("{} ({} to {})", round(median), round(min), round(max));
        area.draw(&Text::new(value, (at(max) + 8, middle), style(12, &INK, HPos::Left)))?;
    }
    area.present()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn a_bar_is_as_long_as_its_share() {
        let of = |values: &[f64]| Summary::of(values).unwrap();
        let shown = [
            Bar { name: "floor_chain", summary: of(&[100.0]) },
            Bar { name: "put_large", summary: of(&[40.0, 50.0, 60.0]) },
        ];
        let svg = bars("MB/s & more", &shown).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{svg}");
        assert!(svg.contains("MB/s &amp; more") && svg.contains("50.0 (40.0 to 60.0)"), "{svg}");
        let width = f64::from(WIDTH) - f64::from(NAMES + VALUES);
        for part in [width, width / 2.0] {
            assert!(svg.contains(&format!("width=\"{part:.0}\"")), "{part}: {svg}");
        }
    }

    #[test]
    fn nothing_is_not_drawn() {
        assert!(bars("x", &[]).is_none());
        let summary = Summary::of(&[0.0]).unwrap();
        assert!(bars("x", &[Bar { name: "a", summary }]).is_none());
    }
}
