//! The display: a table that is redrawn on a terminal, else one line per second.
//!
//! In: scenes. Out: stdout. The cursor is never hidden and wrapping is only off within one write, so there is nothing
//! to restore, however the process ends. Next: nobody; a person looks at it.

use super::table::{Event, Frame, Row, Setting, Tone, line, opening, table};
use std::io::{self, IsTerminal, Write};

/// The output.
pub struct Screen {
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
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
        let is_terminal = io::stdout().is_terminal() && moves;
        Screen { kind: if is_terminal { Kind::Terminal { drawn: 0, colours } } else { Kind::Lines } }
    }

    /// Whether the table is drawn over again; else each scene is one more line.
    pub fn is_terminal(&self) -> bool {
        self.kind != Kind::Lines
    }

    /// Says what a line of figures has no room for; the table has it in every frame.
    pub fn open(&self, setting: &Setting) -> io::Result<()> {
        if self.is_terminal() { Ok(()) } else { write(&opening(setting)) }
    }

    /// Shows the scene; `news` are the events that were not shown before.
    pub fn show(&mut self, scene: &Frame<'_>, news: &[Event]) -> io::Result<()> {
        let text = match &mut self.kind {
            Kind::Terminal { drawn, colours } => {
                let rows = table(scene);
                let text = frame(&rows, *drawn, *colours);
                *drawn = rows.len();
                text
            }
            Kind::Lines => {
                let lines = news.iter().map(Event::line).chain([line(scene)]);
                lines.map(|line| line + "\n").collect()
            }
        };
        write(&text)
    }
}

/// Writes to stdout at once.
fn write(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// The bytes that draw `rows` over the `drawn` rows above the cursor. In one piece, so that nothing flickers.
fn frame(rows: &[Row], drawn: usize, colours: bool) -> String {
    // A terminal that is too narrow cuts the rows off: a wrapped row would break the count of them.
    let mut text = String::from("\x1b[?7l\r");
    if drawn > 0 {
        text.push_str(&format!("\x1b[{drawn}A"));
    }
    for row in rows {
        let (on, off) = match row.tone {
            _ if !colours => ("", ""),
            Tone::Plain => ("", ""),
            Tone::Heading => ("\x1b[1m", "\x1b[0m"),
            Tone::Note => ("\x1b[2m", "\x1b[0m"),
            Tone::Alarm => ("\x1b[33m", "\x1b[0m"),
        };
        text.push_str(&format!("{on}{}{off}\x1b[K\n", row.text));
    }
    text.push_str("\x1b[J\x1b[?7h");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Row> {
        let row = |text: &str, tone| Row { text: text.to_owned(), tone };
        vec![row("a", Tone::Heading), row("b", Tone::Plain)]
    }

    #[test]
    fn a_frame_goes_over_the_last_one() {
        assert_eq!(frame(&rows(), 0, true), "\x1b[?7l\r\x1b[1ma\x1b[0m\x1b[K\nb\x1b[K\n\x1b[J\x1b[?7h");
        assert_eq!(frame(&rows(), 2, false), "\x1b[?7l\r\x1b[2Aa\x1b[K\nb\x1b[K\n\x1b[J\x1b[?7h");
    }
}
