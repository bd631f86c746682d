//! Draws the live view.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Row as TableRow, Table as TableWidget};

use crate::feed::Seat;
use crate::figures::{Table, View, bytes, short, totals};

/// What is shown.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Screen {
    pub(crate) view: View,
    pub(crate) paused: bool,
    /// Rows of the view that are above the screen.
    pub(crate) scrolled: u16,
}

const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
const DIM: Style = Style::new().add_modifier(Modifier::DIM);
const ALARM: Style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);
const CHOSEN: Style = Style::new().add_modifier(Modifier::REVERSED);

/// Draws one frame.
pub(crate) fn draw(frame: &mut Frame<'_>, seats: &[Seat], screen: &Screen) {
    let rows = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Min(0),
        Constraint::Length(1),
    ]);
    let [tabs, figures, _, body, help] = rows.areas(frame.area());
    frame.render_widget(tab_line(screen), tabs);
    frame.render_widget(figure_line(seats), figures);
    draw_tables(frame, body, &screen.view.tables(seats, 0), screen.scrolled);
    let text = "1-5 or Tab: view   j/k or arrows: scroll   p: pause   q: leave";
    frame.render_widget(Line::styled(text, DIM), help);
}

fn tab_line(screen: &Screen) -> Paragraph<'static> {
    let mut spans = Vec::new();
    for (index, view) in View::ALL.into_iter().enumerate() {
        let style = if view == screen.view { CHOSEN } else { Style::new() };
        spans.push(Span::styled(format!(" {} {} ", index + 1, view.name()), style));
        spans.push(Span::raw(" "));
    }
    if screen.paused {
        spans.push(Span::styled("paused", ALARM));
    }
    Paragraph::new(Line::from(spans))
}

fn figure_line(seats: &[Seat]) -> Paragraph<'static> {
    let now = totals(seats);
    let mut spans = vec![
        Span::styled(format!("{} packets/s", short(now.packets)), BOLD),
        Span::raw(" · "),
        Span::styled(
            format!("{} drops/s", short(now.drops)),
            if now.drops > 0.0 { ALARM } else { Style::new() },
        ),
    ];
    spans.push(Span::raw(format!(
        " · {} tags/s · {} sessions · {} registrations · {} tunnels · {}/s up · {}/s down",
        short(now.tags),
        now.sessions,
        now.registrations,
        now.tunnels,
        bytes(now.up),
        bytes(now.down),
    )));
    Paragraph::new(Line::from(spans))
}

/// Tables below one another, moved up by `scrolled` rows; what does not fit is left out.
fn draw_tables(frame: &mut Frame<'_>, mut area: Rect, tables: &[Table], scrolled: u16) {
    let mut hidden = usize::from(scrolled);
    for table in tables.iter().filter(|table| !table.rows.is_empty()) {
        let skipped = hidden.min(table.rows.len());
        hidden -= skipped;
        let rows = &table.rows[skipped..];
        // Title, head, rows and an empty line.
        let wanted = u16::try_from(rows.len() + 3).unwrap_or(u16::MAX);
        let height = wanted.min(area.height);
        if height < 3 {
            return;
        }
        let [title, content] =
            Layout::vertical([Constraint::Length(1), Constraint::Length(height - 1)])
                .areas(Rect { height, ..area });
        frame.render_widget(Line::styled(table.title, BOLD), title);
        draw_table(frame, content, table, skipped);
        area.y += height;
        area.height -= height;
    }
}

fn draw_table(frame: &mut Frame<'_>, area: Rect, table: &Table, skipped: usize) {
    let width = |column: usize| {
        let cells = table.rows.iter().filter_map(|row| row.cells.get(column));
        let longest = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
        u16::try_from(longest.max(table.columns[column].len())).unwrap_or(u16::MAX)
    };
    let mut widths: Vec<Constraint> =
        (0..table.columns.len()).map(|column| Constraint::Length(width(column))).collect();
    // A last column of text takes what is left.
    let text_only = table.columns.len() == 2;
    if text_only && let Some(last) = widths.last_mut() {
        *last = Constraint::Min(10);
    }
    let aligned = |cells: Vec<&str>| -> Vec<Line<'static>> {
        let line = |(column, cell): (usize, &str)| {
            let line = Line::raw(cell.to_owned());
            if column == 0 || text_only { line } else { line.right_aligned() }
        };
        cells.into_iter().enumerate().map(line).collect()
    };
    let head = TableRow::new(aligned(table.columns.to_vec())).style(DIM);
    let rows = table.rows[skipped..].iter().map(|row| {
        let cells = row.cells.iter().map(String::as_str).collect();
        TableRow::new(aligned(cells)).style(if row.alarm { ALARM } else { Style::new() })
    });
    let widget = TableWidget::new(rows, widths).header(head).column_spacing(2);
    frame.render_widget(widget, area);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::tests::seats;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn screen(view: View, scrolled: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(140, 24)).unwrap();
        let screen = Screen { view, paused: false, scrolled };
        terminal.draw(|frame| draw(frame, &seats(), &screen)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn every_view_shows_its_figures() {
        let shown = screen(View::Daemons, 0);
        for text in ["3.0M packets/s", "17 drops/s", "2 tags/s", "9 sessions", "12 registrations"] {
            assert!(shown.contains(text), "{text} in\n{shown}");
        }
        assert!(shown.contains("registrar    does not answer"), "{shown}");
        let shown = screen(View::Cores, 0);
        assert!(shown.contains("1 (cpu 0)") && shown.contains("1.5M"), "{shown}");
        let shown = screen(View::Funnel, 0);
        assert!(shown.contains("DNS Min") && shown.contains("3.0 GiB"), "{shown}");
        assert!(screen(View::Notes, 0).contains("note of application"));
    }

    #[test]
    fn rows_move_up() {
        let moved = screen(View::Funnel, 1);
        assert!(!moved.contains("API Min") && moved.contains("DNS Min"), "{moved}");
    }

    #[test]
    fn small_terminals_do_no_harm() {
        for (width, height) in [(1, 1), (20, 4), (10, 30)] {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
            for view in View::ALL {
                let screen = Screen { view, paused: true, scrolled: 99 };
                terminal.draw(|frame| draw(frame, &seats(), &screen)).unwrap();
            }
        }
    }
}
