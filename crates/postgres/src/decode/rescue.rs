//! `_lw_rescued`: the source's own text of values that did not fit their columns, and their counts.

use arrow::array::{ArrayBuilder, StringArray, StringBuilder};
use lakeward_core::{BadValues, Error, ErrorKind, Result};

/// One JSON object per row that needs one, by column name.
#[derive(Debug, Default)]
pub(super) struct Rescue {
    rows: StringBuilder,
    /// The object of the row that is being decoded; empty while it needs none.
    open: String,
    bad_values: BadValues,
}

impl Rescue {
    /// Keeps and counts a value of the row that is being decoded.
    pub(super) fn add(&mut self, index: usize, column: &str, text: &str) {
        self.bad_values.add(index, 1);
        self.open.push(if self.open.is_empty() { '{' } else { ',' });
        push_json_string(&mut self.open, column);
        self.open.push(':');
        push_json_string(&mut self.open, text);
    }

    /// Ends row number `row` of the batch.
    #[inline]
    pub(super) fn end_row(&mut self, row: usize) -> Result<()> {
        if self.open.is_empty() { Ok(()) } else { self.close(row) }
    }

    #[cold]
    fn close(&mut self, row: usize) -> Result<()> {
        self.open.push('}');
        if i32::try_from(self.bytes() + self.open.len()).is_err() {
            return Err(Error::new(
                ErrorKind::Data,
                "values that do not fit take more than 2 GiB in one batch",
            ));
        }
        self.rows.append_nulls(row - self.rows.len());
        self.rows.append_value(&self.open);
        self.open.clear();
        Ok(())
    }

    pub(super) fn bytes(&self) -> usize {
        self.rows.values_slice().len()
    }

    /// The column of a batch of `rows` rows, and the counts by column; `None` where every value fitted.
    pub(super) fn take(&mut self, rows: usize) -> Option<(StringArray, BadValues)> {
        if self.bad_values.is_empty() {
            return None;
        }
        self.rows.append_nulls(rows - self.rows.len());
        Some((self.rows.finish(), std::mem::take(&mut self.bad_values)))
    }
}

fn push_json_string(out: &mut String, text: &str) {
    out.push('"');
    for char in text.chars() {
        match char {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            control @ '\0'..='\x1f' => out.push_str(&format!("\\u{:04x}", u32::from(control))),
            char => out.push(char),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_character_survives_json() {
        let text: String = (0..0x300).filter_map(char::from_u32).chain(['\u{2028}', '😀']).collect();
        let mut out = String::new();
        push_json_string(&mut out, &text);
        assert_eq!(serde_json::from_str::<String>(&out).unwrap(), text);
    }

    #[test]
    fn rows_without_a_rescued_value_are_null() {
        let mut rescue = Rescue::default();
        rescue.end_row(0).unwrap();
        rescue.add(0, "a", "infinity");
        rescue.add(3, "b", "x\"y");
        rescue.end_row(1).unwrap();
        rescue.end_row(2).unwrap();
        let (rows, bad_values) = rescue.take(3).unwrap();
        assert_eq!(rows.iter().collect::<Vec<_>>(), [None, Some(r#"{"a":"infinity","b":"x\"y"}"#), None]);
        assert_eq!(bad_values.iter().collect::<Vec<_>>(), [(0, 1), (3, 1)]);
        assert!(rescue.take(5).is_none());
    }
}
