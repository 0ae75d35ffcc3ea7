//! Cursor values between the source's own text and the state file.
//!
//! In state.json a timestamp reads as RFC 3339 says, because people and other tools read that file; everything
//! else stands there as the source printed it. Going there and back changes nothing.

use lakeward_core::ColumnType;

/// The state's form of a cursor value that the source printed.
pub fn format_cursor_value(value: &str, column_type: &ColumnType) -> String {
    let reshaped = match column_type {
        ColumnType::Timestamp => value.replacen(' ', "T", 1),
        ColumnType::TimestampTz => match value.strip_suffix("+00") {
            Some(utc) => format!("{}Z", utc.replacen(' ', "T", 1)),
            None => return value.to_owned(),
        },
        _ => return value.to_owned(),
    };
    // Years beyond four digits and BC have no RFC 3339 form.
    if reformat_cursor_value(&reshaped, column_type) == value && is_plain(value) {
        reshaped
    } else {
        value.to_owned()
    }
}

/// The source's form of a cursor value that the state holds.
pub fn reformat_cursor_value(value: &str, column_type: &ColumnType) -> String {
    match column_type {
        ColumnType::Timestamp => value.replacen('T', " ", 1),
        ColumnType::TimestampTz => match value.strip_suffix('Z') {
            Some(utc) => format!("{}+00", utc.replacen('T', " ", 1)),
            None => value.to_owned(),
        },
        _ => value.to_owned(),
    }
}

fn is_plain(value: &str) -> bool {
    !value.contains("BC") && value.find('-') == Some(4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back_changes_nothing() {
        for (value, column_type, state) in [
            ("2026-11-21 08:00:00.000001+00", ColumnType::TimestampTz, "2026-11-21T08:00:00.000001Z"),
            ("2026-11-21 08:00:00", ColumnType::Timestamp, "2026-11-21T08:00:00"),
            ("0044-03-15 08:00:00+00 BC", ColumnType::TimestampTz, "0044-03-15 08:00:00+00 BC"),
            ("12026-11-21 08:00:00", ColumnType::Timestamp, "12026-11-21 08:00:00"),
            ("A T", ColumnType::Text, "A T"),
            ("-12", ColumnType::Int64, "-12"),
        ] {
            assert_eq!(format_cursor_value(value, &column_type), state);
            assert_eq!(reformat_cursor_value(state, &column_type), value);
        }
    }
}
