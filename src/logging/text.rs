//! An event as text: its message only, on one line.
//!
//! In: an event's fields. Out: text. Next: `logging.rs`.

use std::fmt::{self, Debug, Display, Formatter, Write};
use tracing::field::Field;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{Writer, debug_fn};

/// Writes the message, with control characters escaped: a line is one event, and looks like no other.
pub fn message_only() -> impl for<'w> FormatFields<'w> + Send + Sync + 'static {
    debug_fn(|writer: &mut Writer<'_>, field: &Field, value: &dyn Debug| match field.name() {
        "message" => write!(writer, "{}", OneLine(value)),
        _ => Ok(()),
    })
}

struct OneLine<'v>(&'v dyn Debug);

impl Display for OneLine<'_> {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        write!(Escaping(formatter), "{:?}", self.0)
    }
}

struct Escaping<'f, 'g>(&'f mut Formatter<'g>);

impl Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for piece in text.split_inclusive(char::is_control) {
            match piece.char_indices().next_back() {
                Some((at, last)) if last.is_control() => {
                    write!(self.0, "{}{}", &piece[..at], last.escape_default())?;
                }
                _ => self.0.write_str(piece)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line_whatever_it_holds() {
        let message = format_args!("reload: \"é\"\nrefused\u{1b}[2J\r\n").to_string();
        assert_eq!(
            OneLine(&format_args!("{message}")).to_string(),
            "reload: \"é\"\\nrefused\\u{1b}[2J\\r\\n"
        );
    }
}
