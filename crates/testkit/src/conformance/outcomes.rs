//! What `cargo test` printed, as outcomes by test.

use std::collections::BTreeMap;

/// How one test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// `ok`.
    Passed,
    /// `FAILED`, or begun and never ended.
    Failed,
    /// `ignored`: it did not run.
    Ignored,
}

impl Outcome {
    fn at_end_of(line: &str) -> Option<Self> {
        let line = line.trim_end();
        // Only the word itself: a test may print a line that happens to end in "ok".
        match line.rsplit(' ').next()? {
            "ok" => Some(Outcome::Passed),
            "FAILED" => Some(Outcome::Failed),
            _ => None,
        }
    }
}

/// The outcome of each test in the output of any number of test binaries. A test that stands in it
/// more than once (run on two servers, say) has passed only if it always did.
pub fn outcomes(output: &str) -> BTreeMap<String, Outcome> {
    let mut found = BTreeMap::new();
    // With --nocapture a test's own output stands between its name and its outcome.
    let mut begun: Option<String> = None;
    for line in output.lines() {
        let line = line.trim();
        let announced = line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... "));
        let announced =
            announced.or_else(|| line.strip_prefix("test ")?.strip_suffix(" ...").map(|name| (name, "")));
        if let Some((name, rest)) = announced {
            settle(&mut found, begun.take(), Outcome::Failed);
            // `name - should panic`, as libtest prints such a test.
            let name = name.split(" - ").next().unwrap_or(name).to_owned();
            match Outcome::at_end_of(rest) {
                Some(outcome) => settle(&mut found, Some(name), outcome),
                None if rest.starts_with("ignored") => settle(&mut found, Some(name), Outcome::Ignored),
                None => begun = Some(name),
            }
        } else if line.starts_with("test result:") {
            settle(&mut found, begun.take(), Outcome::Failed);
        } else if line == "ok" || line == "FAILED" {
            let outcome = if line == "ok" { Outcome::Passed } else { Outcome::Failed };
            settle(&mut found, begun.take(), outcome);
        }
    }
    settle(&mut found, begun, Outcome::Failed);
    found
}

fn settle(found: &mut BTreeMap<String, Outcome>, name: Option<String>, outcome: Outcome) {
    let Some(name) = name else { return };
    let worse = match (found.get(&name), outcome) {
        (Some(Outcome::Failed), _) | (_, Outcome::Failed) => Outcome::Failed,
        (Some(Outcome::Passed), _) | (_, Outcome::Passed) => Outcome::Passed,
        _ => Outcome::Ignored,
    };
    found.insert(name, worse);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_in_which_cargo_test_says_it() {
        let found = outcomes(
            "running 6 tests\ntest a ... ok\ntest b::c ... FAILED\ntest d - should panic ... ok\n\
             test e ... ignored, needs time\ntest f ... LAKEWARD_TEST_SEED=7\nmore\nok\n\
             test g ... bench: ok\ntest result: FAILED. 4 passed\ntest a ... FAILED\ntest h ... half a run",
        );
        let failed: Vec<&str> = found
            .iter()
            .filter(|(_, outcome)| **outcome == Outcome::Failed)
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(failed, ["a", "b::c", "h"]);
        assert_eq!(found["d"], Outcome::Passed);
        assert_eq!(found["e"], Outcome::Ignored);
        assert_eq!(found["f"], Outcome::Passed);
    }
}
