//! The display: a table that is redrawn on a terminal, else one line per second.
//!
//! In: frames. Out: stdout. The cursor is never hidden and wrapping is only off within one write, so there is nothing
//! to restore, however the process ends. Next: nobody; a person looks at it.

use super::table::{Event, Frame, Row, Setting, Tone, line, opening, table};
use std::io::{self, IsTerminal, Write};

/// The output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Screen {
    /// Rows drawn before, and whether there are colours.
    Terminal { drawn: usize, colours: bool },
    /// Pipes, files, and terminals that cannot move their cursor.
    Lines,
}

impl Screen {
    /// For this process's stdout.
    pub fn of_stdout() -> Screen {
        let moves = std::env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb");
        let colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        if io::stdout().is_terminal() && moves {
            Screen::Terminal { drawn: 0, colours }
        } else {
            Screen::Lines
        }
    }

    /// Says what a line of figures has no room for; the table has it in every frame.
    pub fn open(&self, setting: &Setting) -> io::Result<()> {
        if *self == Screen::Lines { write(&opening(setting)) } else { Ok(()) }
    }

    /// Shows the frame; `news` are the events that were not shown before.
    pub fn show(&mut self, frame: &Frame<'_>, news: &[Event]) -> io::Result<()> {
        match self {
            Screen::Terminal { drawn, colours } => {
                let rows = table(frame);
                let above = std::mem::replace(drawn, rows.len());
                write(&draw(&rows, above, *colours))
            }
            Screen::Lines => {
                let lines = news.iter().map(Event::line).chain([line(frame)]);
                write(&lines.map(|line| line + "\n").collect::<String>())
            }
        }
    }
}

/// Writes to stdout at once.
fn write(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// The bytes that draw `rows` over the `drawn` rows above the cursor. In one piece, so that nothing flickers.
fn draw(rows: &[Row], drawn: usize, colours: bool) -> String {
    // A terminal that is too narrow cuts the rows off: a wrapped row would break the count of them.
    let mut text = String::from("\x1b[?7l\r");
    if drawn > 0 {
        text.push_str(&format!("\x1b[{drawn}A"));
    }
    for (tone, row) in rows {
        let (on, off) = match tone {
            Tone::Heading if colours => ("\x1b[1m", "\x1b[0m"),
            Tone::Note if colours => ("\x1b[2m", "\x1b[0m"),
            Tone::Alarm if colours => ("\x1b[33m", "\x1b[0m"),
            _ => ("", ""),
        };
        text.push_str(&format!("{on}{row}{off}\x1b[K\n"));
    }
    text + "\x1b[J\x1b[?7h"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_goes_over_the_last_one() {
        let rows = [(Tone::Heading, "a".to_owned()), (Tone::Plain, "b".to_owned())];
        assert_eq!(draw(&rows, 0, true), "\x1b[?7l\r\x1b[1ma\x1b[0m\x1b[K\nb\x1b[K\n\x1b[J\x1b[?7h");
        assert_eq!(draw(&rows, 2, false), "\x1b[?7l\r\x1b[2Aa\x1b[K\nb\x1b[K\n\x1b[J\x1b[?7h");
    }
}
