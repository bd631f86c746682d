//! The live view: keys, frames, and the terminal as it was when it ends.

use std::io;
use std::time::{Duration, Instant};

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use crate::draw::{Screen, draw};
use crate::feed::{Feed, Seat};
use crate::figures::View;

/// Longest time between two frames.
const FRAME: Duration = Duration::from_millis(250);

/// Shows what `feed` hears until the operator leaves.
///
/// # Errors
/// When there is no terminal, or it goes away.
pub fn show(feed: &Feed) -> io::Result<()> {
    let mut terminal = ratatui::try_init()?;
    let shown = run(&mut terminal, feed);
    let restored = ratatui::try_restore();
    shown.and(restored)
}

fn run(terminal: &mut DefaultTerminal, feed: &Feed) -> io::Result<()> {
    let mut screen = Screen { view: View::Daemons, paused: false, scrolled: 0 };
    let mut seats: Vec<Seat> = feed.seats();
    loop {
        if !screen.paused {
            seats = feed.seats();
        }
        terminal.draw(|frame| draw(frame, &seats, &screen))?;
        let end = Instant::now() + FRAME;
        while event::poll(end.saturating_duration_since(Instant::now()))? {
            match event::read()? {
                Event::Key(key) if key.kind != KeyEventKind::Release => {
                    if press(&mut screen, key) {
                        return Ok(());
                    }
                    break;
                }
                Event::Resize(..) => break,
                _ => {}
            }
        }
    }
}

/// Does what a key says; true to leave.
fn press(screen: &mut Screen, key: KeyEvent) -> bool {
    let at = View::ALL.iter().position(|view| *view == screen.view).unwrap_or(0);
    let mut choose = |index: usize| {
        screen.view = View::ALL[index % View::ALL.len()];
        screen.scrolled = 0;
    };
    match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return true,
        KeyCode::Char('q') | KeyCode::Esc => return true,
        KeyCode::Char(c @ '1'..='5') => choose(c as usize - '1' as usize),
        KeyCode::Tab | KeyCode::Right => choose(at + 1),
        KeyCode::BackTab | KeyCode::Left => choose(at + View::ALL.len() - 1),
        KeyCode::Char('p') => screen.paused = !screen.paused,
        KeyCode::Char('j') | KeyCode::Down => screen.scrolled = screen.scrolled.saturating_add(1),
        KeyCode::Char('k') | KeyCode::Up => screen.scrolled = screen.scrolled.saturating_sub(1),
        KeyCode::Home => screen.scrolled = 0,
        _ => {}
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_switch_views_and_leave() {
        let mut screen = Screen { view: View::Daemons, paused: false, scrolled: 3 };
        let mut hit = |code| press(&mut screen, KeyEvent::new(code, KeyModifiers::NONE));
        assert!(!hit(KeyCode::BackTab));
        assert!(!hit(KeyCode::Char('j')) && !hit(KeyCode::Char('p')));
        assert!(hit(KeyCode::Char('q')) && hit(KeyCode::Esc));
        assert_eq!((screen.view, screen.paused, screen.scrolled), (View::Notes, true, 1));
        press(&mut screen, KeyEvent::new(KeyCode::Tab, KeyModifiers::NONE));
        assert_eq!((screen.view, screen.scrolled), (View::Daemons, 0));
        assert!(press(&mut screen, KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)));
    }
}
