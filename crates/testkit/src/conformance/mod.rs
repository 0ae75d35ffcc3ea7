//! The matrix of what never breaks, made from the output of the tests and never typed by hand.
//!
//! A test belongs to a scenario by its name: `f07_unchanged_toast` to number 7. A scenario passes
//! iff it has tests and all of them passed; one without a test that ran is not built.

mod outcomes;
mod scenarios;

use std::collections::BTreeMap;
use std::fmt::Write;

pub use outcomes::{Outcome, outcomes};
pub use scenarios::{Area, SCENARIOS, Scenario};

/// A test's name and how it ended.
type Test<'a> = (&'a str, Outcome);

/// What a scenario's tests say of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// All tests of it passed.
    Passes,
    /// A test of it failed, or did not come to an end.
    Fails,
    /// No test of it ran.
    NotBuilt,
}

impl Verdict {
    fn of(tests: &[Test<'_>]) -> Self {
        if tests.iter().any(|(_, outcome)| *outcome == Outcome::Failed) {
            Verdict::Fails
        } else if tests.iter().any(|(_, outcome)| *outcome == Outcome::Passed) {
            Verdict::Passes
        } else {
            Verdict::NotBuilt
        }
    }

    fn word(self) -> &'static str {
        match self {
            Verdict::Passes => "*passes*",
            Verdict::Fails => "**fails**",
            Verdict::NotBuilt => "*not built*",
        }
    }
}

/// The number of the scenario that a test belongs to: `f07_…`, in whatever module.
pub fn scenario_of(test: &str) -> Option<u8> {
    test.split("::").find_map(|part| {
        let (number, rest) = part.strip_prefix('f')?.split_at_checked(2)?;
        (rest.is_empty() || rest.starts_with('_')).then(|| number.parse().ok())?
    })
}

/// The verdict on each scenario, by its number, with the tests that it rests on.
fn verdicts<'a>(outcomes: &'a BTreeMap<String, Outcome>) -> BTreeMap<u8, (Verdict, Vec<Test<'a>>)> {
    let mut tests: BTreeMap<u8, Vec<Test<'a>>> = SCENARIOS.iter().map(|s| (s.number, vec![])).collect();
    for (name, outcome) in outcomes {
        if let Some(of_scenario) = scenario_of(name).and_then(|number| tests.get_mut(&number)) {
            of_scenario.push((name, *outcome));
        }
    }
    tests.into_iter().map(|(number, tests)| (number, (Verdict::of(&tests), tests))).collect()
}

/// The whole matrix as Markdown.
pub fn markdown(outcomes: &BTreeMap<String, Outcome>) -> String {
    let verdicts = verdicts(outcomes);
    let count = |wanted| verdicts.values().filter(|(verdict, _)| *verdict == wanted).count();
    let mut page =
        "# Conformance\n\nGenerated from the output of the tests by `crates/testkit`; do not edit.\n"
            .to_owned();
    let _ = writeln!(
        page,
        "Each row is a scenario that has broken replication systems in production. {} pass, {} fail, {} are not built.",
        count(Verdict::Passes),
        count(Verdict::Fails),
        count(Verdict::NotBuilt)
    );
    let mut area = None;
    for scenario in SCENARIOS {
        if area != Some(scenario.area) {
            area = Some(scenario.area);
            let _ = write!(
                page,
                "\n## {}\n\n| # | Scenario | Result | Tests |\n|--:|---|---|---|\n",
                scenario.area.title()
            );
        }
        let Some((verdict, tests)) = verdicts.get(&scenario.number) else { continue };
        let tests: Vec<String> = tests.iter().map(|(name, outcome)| cell(name, *outcome)).collect();
        let (number, title, word) = (scenario.number, scenario.title, verdict.word());
        let _ = writeln!(page, "| {number} | {title} | {word} | {} |", tests.join("<br>"));
    }
    page
}

fn cell(test: &str, outcome: Outcome) -> String {
    match outcome {
        Outcome::Passed => format!("`{test}`"),
        Outcome::Failed => format!("`{test}` (failed)"),
        Outcome::Ignored => format!("`{test}` (left out)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_belongs_to_the_scenario_that_its_name_begins_with() {
        assert_eq!(scenario_of("f07_unchanged_toast"), Some(7));
        assert_eq!(scenario_of("postgres::cdc::f55_killed_by_time_outs::pg15"), Some(55));
        assert_eq!(scenario_of("f07"), Some(7));
        assert_eq!(scenario_of("f123_no_such_number"), None);
        assert_eq!(scenario_of("first_things"), None);
        assert_eq!(scenario_of("fé"), None);
    }

    #[test]
    fn every_scenario_is_listed_once_in_order() {
        let numbers: Vec<u8> = SCENARIOS.iter().map(|scenario| scenario.number).collect();
        assert_eq!(numbers, (1..=55).collect::<Vec<u8>>());
    }

    #[test]
    fn a_scenario_passes_only_if_all_of_its_tests_do() {
        let text = "
            test f01_idle ... ok
            test pg::f02_wal_during_backfill ... ok
            test pg::f02_wal_released ... FAILED
            test f03_acknowledged ... ignored, needs another server
            test f99_unknown ... ok";
        let page = markdown(&outcomes(text));
        assert!(page.contains("1 pass, 1 fail, 53 are not built"), "{page}");
        assert!(page.contains("| *passes* | `f01_idle` |"));
        assert!(
            page.contains("| **fails** | `pg::f02_wal_during_backfill`<br>`pg::f02_wal_released` (failed) |")
        );
        assert!(page.contains("| *not built* | `f03_acknowledged` (left out) |"));
    }
}
