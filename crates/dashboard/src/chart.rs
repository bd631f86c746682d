//! Line charts as SVG, without style of their own: classes and `page.css` decide how they look.

use std::fmt::Write;

use crate::history::{LENGTH, STEP};

/// Size of the drawing in its own units.
const SIZE: (f64, f64) = (600.0, 120.0);
/// Samples that a chart is wide at least: five minutes.
const LEAST: usize = 60;

/// One line of a chart.
#[derive(Debug)]
pub(crate) struct Series<'a> {
    pub(crate) name: &'a str,
    /// Oldest first.
    pub(crate) values: Vec<f64>,
}

/// A chart of lines that share one scale from 0 upwards; `text` writes a figure.
pub(crate) fn chart(title: &str, series: &[Series<'_>], text: impl Fn(f64) -> String) -> String {
    let longest = series.iter().map(|s| s.values.len()).max().unwrap_or(0).clamp(LEAST, LENGTH);
    let highest = series.iter().flat_map(|s| &s.values).copied().fold(0.0, f64::max);
    let top = nice(highest);
    let now: Vec<String> = series
        .iter()
        .map(|s| {
            let value = text(s.values.last().copied().unwrap_or(0.0));
            if series.len() == 1 { value } else { format!("{} {value}", s.name) }
        })
        .collect();
    let now = now.join(", ");
    let minutes = longest as u64 * STEP.as_secs() / 60;
    let mut svg = format!(
        "<figure><figcaption>{title} <strong>{now}</strong></figcaption>\
         <svg viewBox=\"0 0 {0} {1}\" role=\"img\" aria-label=\"{title} of the last {minutes} minutes; now \
         {now}, at most {2}\">",
        SIZE.0,
        SIZE.1 + 16.0,
        text(highest)
    );
    for part in 0..=2 {
        let y = SIZE.1 * f64::from(part) / 2.0;
        let _ =
            write!(svg, "<line class=\"grid\" x1=\"0\" y1=\"{y}\" x2=\"{}\" y2=\"{y}\"/>", SIZE.0);
    }
    for (index, s) in series.iter().enumerate() {
        let mut points = String::new();
        let first = longest - s.values.len().min(longest);
        for (at, value) in s.values.iter().enumerate() {
            let x = (first + at) as f64 * SIZE.0 / (longest - 1) as f64;
            let y = SIZE.1 * (1.0 - value / top);
            let _ = write!(points, "{x:.1},{y:.1} ");
        }
        let _ =
            write!(svg, "<polyline class=\"line line-{index}\" points=\"{}\"/>", points.trim_end());
    }
    let _ = write!(
        svg,
        "<text x=\"2\" y=\"10\">{}</text><text x=\"0\" y=\"{y}\">−{minutes} min</text>\
         <text class=\"end\" x=\"{}\" y=\"{y}\">now</text></svg>",
        text(top),
        SIZE.0,
        y = SIZE.1 + 13.0
    );
    if series.len() > 1 {
        svg.push_str("<p class=\"legend\">");
        for (index, s) in series.iter().enumerate() {
            let _ = write!(svg, "<span class=\"key key-{index}\">{}</span> ", s.name);
        }
        svg.push_str("</p>");
    }
    svg.push_str("</figure>");
    svg
}

/// The next of 1, 2, 5, 10, 20 … from `value` on; 1 for nothing.
fn nice(value: f64) -> f64 {
    if value <= 1.0 {
        return 1.0;
    }
    let decade = 10f64.powf(value.log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|n| n * decade).into_iter().find(|n| *n >= value).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_is_round() {
        for (value, top) in
            [(0.0, 1.0), (1.2, 2.0), (37.0, 50.0), (100.0, 100.0), (5001.0, 10_000.0)]
        {
            assert_eq!(nice(value), top);
        }
    }

    #[test]
    fn the_newest_value_is_at_the_right_end() {
        let series = [Series { name: "up", values: vec![0.0, 50.0] }];
        let svg = chart("Traffic", &series, |v| v.to_string());
        assert!(svg.contains("points=\"589.8,120.0 600.0,0.0\""), "{svg}");
        assert!(
            svg.contains("aria-label=\"Traffic of the last 5 minutes; now 50, at most 50\""),
            "{svg}"
        );
        assert!(!chart("Empty", &[], |v| v.to_string()).contains("points"));
    }
}
