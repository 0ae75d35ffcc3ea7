//! Sizes, durations and checkpoint intervals as people write them on a command line, and as they are told them.
//!
//! Guaranteed: a unit is never guessed. `256M` could be either of two sizes and is refused.

use std::time::Duration;

use lakeward_core::CheckpointInterval;

const SIZE_UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];
const DURATION_UNITS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Reads `256MiB`, `1GB`, or plain bytes. Units are read in any case; zero is refused.
///
/// # Errors
/// What is wrong and what to write instead, for clap to show beside the flag's name.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text)?;
    let factor = match unit {
        "" => 1,
        _ => SIZE_UNITS
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(unit))
            .map(|(_, factor)| *factor)
            .ok_or_else(|| {
            format!("\"{unit}\" is no unit of size: write MiB (1024 × 1024), MB (1000 × 1000) or the like")
        })?,
    };
    match number.checked_mul(factor) {
        Some(0) => Err("a size must be above zero".to_owned()),
        Some(bytes) => Ok(bytes),
        None => Err("the size is too large".to_owned()),
    }
}

/// Reads `500ms`, `1s`, `10m`, `2h`, `1d`. The unit is required; zero is refused.
///
/// # Errors
/// As [`parse_bytes`].
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text)?;
    let factor = DURATION_UNITS
        .iter()
        .find(|(name, _)| *name == unit)
        .map(|(_, factor)| *factor)
        .ok_or_else(|| {
            format!("\"{text}\" is no duration: write a number and ms, s, m, h or d, such as 500ms or 10m")
        })?;
    match number.checked_mul(factor) {
        Some(0) => Err("a duration must be above zero".to_owned()),
        Some(milliseconds) => Ok(Duration::from_millis(milliseconds)),
        None => Err("the duration is too long".to_owned()),
    }
}

/// Reads `1s`, `64MiB` or both (`5s,256MiB`); a limit that is not named keeps its default.
///
/// # Errors
/// As [`parse_bytes`].
pub(crate) fn parse_checkpoint_interval(text: &str) -> Result<CheckpointInterval, String> {
    let mut interval = CheckpointInterval::default();
    for part in text.split(',').map(str::trim) {
        let (_, unit) = split(part)?;
        if DURATION_UNITS.iter().any(|(name, _)| *name == unit) {
            interval.time = parse_duration(part)?;
        } else if unit.is_empty() {
            return Err(format!(
                "\"{part}\" has no unit: write a time (1s), a size (64MiB) or both (1s,64MiB)"
            ));
        } else {
            interval.bytes = parse_bytes(part)?;
        }
    }
    Ok(interval)
}

fn split(text: &str) -> Result<(u64, &str), String> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    if digits.is_empty() {
        return Err(format!("\"{text}\" does not begin with a whole number"));
    }
    if unit.starts_with(['.', ',']) {
        return Err(format!("\"{text}\" is no whole number: take the next smaller unit, such as 1536MiB"));
    }
    let number = digits.parse().map_err(|_| format!("\"{digits}\" is too large"))?;
    Ok((number, unit.trim()))
}

/// Bytes for people: `1.2 GiB`.
pub(crate) fn human_bytes(bytes: u64) -> String {
    const NAMES: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut index = 0;
    while value >= 1024.0 && index + 1 < NAMES.len() {
        value /= 1024.0;
        index += 1;
    }
    if index == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", NAMES[index]) }
}

/// Bytes exactly, as [`parse_bytes`] reads them: `256MiB`.
pub(crate) fn exact_bytes(bytes: u64) -> String {
    // The greatest unit that leaves no rest.
    let unit = SIZE_UNITS.iter().filter(|(_, factor)| bytes.is_multiple_of(*factor) && bytes >= *factor);
    let (name, factor) = unit.max_by_key(|(_, factor)| *factor).copied().unwrap_or(SIZE_UNITS[0]);
    format!("{}{name}", bytes / factor)
}

/// A count for people: `1,200,000`.
pub(crate) fn human_count(count: u64) -> String {
    let digits = count.to_string();
    let mut result = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            result.push(',');
        }
        result.push(digit);
    }
    result
}

/// A count and what is counted: `1 stream`, `2 streams`.
pub(crate) fn counted(count: usize, what: &str) -> String {
    format!("{} {what}{}", human_count(count as u64), if count == 1 { "" } else { "s" })
}

/// How far a log is not committed yet: `1.2 MiB and 0.8 s behind, 16.0 MiB kept at the source`.
pub(crate) fn human_lag(
    behind_bytes: u64,
    behind_seconds: Option<f64>,
    retained_bytes: Option<u64>,
) -> String {
    let behind = match (behind_bytes, behind_seconds) {
        (0, _) => "nothing behind".to_owned(),
        (bytes, None) => format!("{} behind", human_bytes(bytes)),
        (bytes, Some(seconds)) => format!("{} and {seconds:.1} s behind", human_bytes(bytes)),
    };
    let kept = retained_bytes.map(|bytes| format!(", {} kept at the source", human_bytes(bytes)));
    behind + &kept.unwrap_or_default()
}

/// More names than this are counted, not listed.
const MOST_NAMES: usize = 10;

/// Names in a sentence.
pub(crate) fn listed(names: &[impl AsRef<str>]) -> String {
    let shown: Vec<&str> = names.iter().take(MOST_NAMES).map(AsRef::as_ref).collect();
    match names.len() - shown.len() {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lag_says_what_is_known_of_it() {
        assert_eq!(human_lag(0, None, None), "nothing behind");
        assert_eq!(human_lag(1 << 20, None, Some(4096)), "1.0 MiB behind, 4.0 KiB kept at the source");
        assert_eq!(human_lag(10, Some(0.84), None), "10 B and 0.8 s behind");
    }

    #[test]
    fn sizes_take_binary_and_decimal_units_and_never_guess() {
        assert_eq!(parse_bytes("256MiB"), Ok(256 << 20));
        assert_eq!(parse_bytes("1GiB"), Ok(1 << 30));
        assert_eq!(parse_bytes("1GB"), Ok(1_000_000_000));
        assert_eq!(parse_bytes("64 kib"), Ok(64 << 10));
        assert_eq!(parse_bytes("4096"), Ok(4096));
        for refused in ["", "MiB", "1.5GiB", "256M", "0", "-1", "99999999999999999999", "99999999TiB"] {
            assert!(parse_bytes(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("10m"), Ok(Duration::from_secs(600)));
        for refused in ["10", "1w", "0s", "s"] {
            assert!(parse_duration(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn a_checkpoint_interval_is_a_time_a_size_or_both() {
        let default = CheckpointInterval::default();
        let time = Duration::from_secs(5);
        assert_eq!(parse_checkpoint_interval("5s"), Ok(CheckpointInterval { time, ..default }));
        assert_eq!(parse_checkpoint_interval("1MiB"), Ok(CheckpointInterval { bytes: 1 << 20, ..default }));
        assert_eq!(parse_checkpoint_interval("5s, 1MiB"), Ok(CheckpointInterval { time, bytes: 1 << 20 }));
        assert!(parse_checkpoint_interval("64").unwrap_err().contains("no unit"));
        assert!(parse_checkpoint_interval("5s,").is_err());
    }

    #[test]
    fn numbers_are_shown_for_people() {
        assert_eq!((counted(1, "stream"), counted(0, "stream")), ("1 stream".into(), "0 streams".into()));
        assert_eq!(human_count(0), "0");
        assert_eq!(human_count(999), "999");
        assert_eq!(human_count(1_200_000), "1,200,000");
        assert_eq!(human_bytes(512), "512 B");
        assert_eq!(human_bytes(1 << 30), "1.0 GiB");
        for bytes in [1, 1000, 1 << 20, 1536 << 20, 3_000_000, 4097] {
            assert_eq!(parse_bytes(&exact_bytes(bytes)), Ok(bytes));
        }
        assert_eq!((exact_bytes(256 << 20), exact_bytes(4097)), ("256MiB".into(), "4097B".into()));
    }
}
