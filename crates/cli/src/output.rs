//! Standard output: results, and nothing else.

use std::io::{IsTerminal, Write};

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};
use lakeward_core::{Error, ErrorKind, Result};
use serde::Serialize;

/// Writes text to standard output, with a line break at its end.
///
/// A reader that has seen enough (`| head`) is no failure.
///
/// # Errors
/// `Destination` where standard output cannot be written to.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let written = out
        .write_all(text.as_bytes())
        .and_then(|()| if text.ends_with('\n') { Ok(()) } else { out.write_all(b"\n") })
        .and_then(|()| out.flush());
    match written {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::new(ErrorKind::Destination, "standard output cannot be written to").source(error))
        }
        _ => Ok(()),
    }
}

/// Writes a value as indented JSON to standard output.
pub(crate) fn print_json(value: &impl Serialize) -> Result<()> {
    print(&json(value)?)
}

/// A value as indented JSON with a line break at its end.
pub(crate) fn json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string_pretty(value)
        .map(|text| text + "\n")
        .map_err(|error| Error::bug("a result cannot be written as JSON").source(error))
}

/// Where a table is shown: borders and wrapping on a terminal, bare columns for other programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Surface {
    /// A terminal with that many columns.
    Terminal(u16),
    /// A file or a pipe: nothing is wrapped or cut.
    Plain,
}

impl Surface {
    /// What standard output is.
    pub(crate) fn stdout() -> Self {
        Self::of(std::io::stdout().is_terminal(), &console::Term::stdout())
    }

    /// What standard error is.
    pub(crate) fn stderr() -> Self {
        Self::of(std::io::stderr().is_terminal(), &console::Term::stderr())
    }

    fn of(is_terminal: bool, term: &console::Term) -> Self {
        if is_terminal { Self::Terminal(term.size().1) } else { Self::Plain }
    }
}

/// A table; a column whose header begins with `#` is aligned to the right and shown without the mark.
pub(crate) fn table(
    surface: Surface,
    headers: &[&str],
    rows: impl IntoIterator<Item = Vec<String>>,
) -> String {
    let right = |index: usize| headers.get(index).is_some_and(|header| header.starts_with('#'));
    let cell = |index: usize, text: &str| {
        let cell = Cell::new(text);
        if right(index) { cell.set_alignment(CellAlignment::Right) } else { cell }
    };
    let mut table = Table::new();
    match surface {
        Surface::Terminal(width) => {
            table
                .load_style(presets::UTF8_FULL_CONDENSED)
                .set_content_arrangement(ContentArrangement::Dynamic)
                .set_width(width);
        }
        Surface::Plain => {
            table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        }
    }
    let header = headers.iter().enumerate().map(|(index, text)| cell(index, text.trim_start_matches('#')));
    table.set_header(header.collect::<Vec<_>>());
    for row in rows {
        table.add_row(row.iter().enumerate().map(|(index, text)| cell(index, text)).collect::<Vec<_>>());
    }
    table.trim_fmt() + "\n"
}

/// Text from outside as it may stand on a terminal: control characters are shown, not obeyed.
pub(crate) fn harmless(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' => "⏎".to_owned(),
            '\t' => "→".to_owned(),
            // Besides controls, what turns the direction of text around can make a line lie.
            c if c.is_control()
                || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') =>
            {
                c.escape_unicode().to_string()
            }
            c => c.to_string(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_for_programs_is_neither_wrapped_nor_bordered() {
        let long = "x".repeat(300);
        let text = table(Surface::Plain, &["name", "#rows"], [vec![long.clone(), "7".to_owned()]]);
        assert!(text.lines().any(|line| line.contains(&long) && line.ends_with('7')), "{text}");
        assert!(!text.contains('│'));
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(harmless("a\x1b[2Jb\n"), "a\\u{1b}[2Jb⏎");
        assert_eq!(harmless("\u{202e}"), "\\u{202e}");
        assert_eq!(harmless("żółw"), "żółw");
    }
}
