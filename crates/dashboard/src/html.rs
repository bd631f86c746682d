//! The page. It is whole without a script; with one it renews itself without losing its place.

use std::fmt::Write;

use crate::chart::{Series, chart};
use crate::feed::Seat;
use crate::figures::{Table, Totals, View, bytes, short};
use crate::history::History;

/// The document.
pub(crate) fn document(seats: &[Seat], history: &History, floor: u64) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>Conjure station</title><link rel=\"stylesheet\" href=\"/page.css\">\
         <noscript><meta http-equiv=\"refresh\" content=\"5\"></noscript>\
         <script src=\"/page.js\" defer></script></head>\
         <body><header><h1>Conjure station</h1></header><main id=\"figures\">{}</main>\
         </body></html>\n",
        figures(seats, history, floor)
    )
}

/// What changes: charts and tables.
pub(crate) fn figures(seats: &[Seat], history: &History, floor: u64) -> String {
    let mut out = String::from("<section class=\"charts\" aria-label=\"Last hour\">");
    let one = |title: &str, of: fn(&Totals) -> f64| {
        chart(title, &[Series { name: title, values: history.series(of) }], short)
    };
    out.push_str(&one("Packets per second", |t| t.packets));
    out.push_str(&one("Drops per second", |t| t.drops));
    out.push_str(&one("Tags per second", |t| t.tags));
    out.push_str(&one("Valid registrations", |t| t.registrations));
    out.push_str(&one("Open tunnels", |t| t.tunnels));
    let relayed = [
        Series { name: "up", values: history.series(|t| t.up) },
        Series { name: "down", values: history.series(|t| t.down) },
    ];
    out.push_str(&chart("Relayed bytes per second", &relayed, bytes));
    out.push_str("</section>");
    for view in View::ALL {
        let tables = view.tables(seats, floor);
        for table in tables.iter().filter(|table| !table.rows.is_empty()) {
            write_table(&mut out, table);
        }
    }
    out
}

/// Writing into a String cannot fail, here and below.
fn write_table(out: &mut String, table: &Table) {
    let text_only = table.columns.len() == 2;
    let _ = write!(
        out,
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{0}\"><table{1}><caption>{0}</caption>\
         <thead><tr>",
        escape(table.title),
        if text_only { " class=\"text\"" } else { "" }
    );
    for column in table.columns {
        let _ = write!(out, "<th scope=\"col\">{}</th>", escape(column));
    }
    out.push_str("</tr></thead><tbody>");
    for row in &table.rows {
        out.push_str(if row.alarm { "<tr class=\"alarm\">" } else { "<tr>" });
        for (index, cell) in row.cells.iter().enumerate() {
            if index == 0 {
                let mark = if row.alarm { "<span class=\"mark\">look: </span>" } else { "" };
                let _ = write!(out, "<th scope=\"row\">{mark}{}</th>", escape(cell));
            } else {
                let _ = write!(out, "<td>{}</td>", escape(cell));
            }
        }
        out.push_str("</tr>");
    }
    out.push_str("</tbody></table></div>");
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::tests::seats;
    use crate::figures::totals;

    fn page(floor: u64) -> String {
        let seats = seats();
        let mut history = History::default();
        history.push(totals(&seats));
        document(&seats, &history, floor)
    }

    #[test]
    fn the_page_has_the_figures() {
        let page = page(10);
        for text in [
            "Packets per second <strong>3.0M</strong>",
            "Open tunnels <strong>5</strong>",
            "<th scope=\"row\">API Min</th><td>100</td>",
            "<th scope=\"row\">other</th>",
            "<th scope=\"row\"><span class=\"mark\">look: </span>registrar</th><td>does not answer</td>",
            "note of detector",
        ] {
            assert!(page.contains(text), "{text} in {page}");
        }
        assert!(!page.contains("DNS Min"), "below the floor");
        assert!(!page.contains("style=") && !page.contains("http://"), "{page}");
    }

    #[test]
    fn what_daemons_say_is_text() {
        let mut seats = seats();
        let seen = seats[0].now.as_mut().unwrap();
        seen.reply.notes = vec!["<script>alert('1 & \"2\"')</script>".to_owned()];
        let page = document(&seats, &History::default(), 0);
        assert!(
            page.contains("&lt;script&gt;alert(&#39;1 &amp; &quot;2&quot;&#39;)&lt;/script&gt;")
        );
        assert!(!page.contains("<script>"));
    }
}
