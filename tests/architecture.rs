//! Who may know whom: the edges between the workspace's crates, read from `cargo metadata`.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, MetadataCommand};

/// What each crate may depend on within the workspace. Connectors see `core` alone; the engine sees no connector;
/// only `cli` joins them.
fn allowed() -> BTreeMap<&'static str, BTreeSet<&'static str>> {
    BTreeMap::from([
        ("lakeward-core", BTreeSet::from([])),
        ("lakeward-state", BTreeSet::from(["lakeward-core"])),
        ("lakeward-engine", BTreeSet::from(["lakeward-core", "lakeward-state"])),
        ("lakeward-postgres", BTreeSet::from(["lakeward-core"])),
        ("lakeward-parquet", BTreeSet::from(["lakeward-core"])),
        ("lakeward-null", BTreeSet::from(["lakeward-core"])),
        ("lakeward-allocator", BTreeSet::from([])),
        (
            "lakeward-cli",
            BTreeSet::from([
                "lakeward-allocator",
                "lakeward-core",
                "lakeward-state",
                "lakeward-engine",
                "lakeward-postgres",
                "lakeward-parquet",
                "lakeward-null",
            ]),
        ),
        // Nothing that users run depends on the benches.
        (
            "lakeward-bench",
            BTreeSet::from(["lakeward-core", "lakeward-state", "lakeward-postgres", "lakeward-parquet"]),
        ),
        // Tests look at the product from outside: through its command line and its files.
        ("lakeward-testkit", BTreeSet::from([])),
        ("lakeward", BTreeSet::from(["lakeward-core", "lakeward-state", "lakeward-engine", "lakeward-cli"])),
    ])
}

#[test]
fn crates_depend_on_each_other_as_the_architecture_says() {
    let metadata = MetadataCommand::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .no_deps()
        .exec()
        .expect("cargo metadata");
    let names: BTreeSet<&str> = metadata.packages.iter().map(|package| package.name.as_str()).collect();
    let allowed = allowed();
    assert_eq!(names, allowed.keys().copied().collect(), "a crate is missing from the list above");
    let mut checked = 0;
    for package in &metadata.packages {
        for dependency in &package.dependencies {
            let within = names.contains(dependency.name.as_str());
            if !within || dependency.kind == DependencyKind::Development {
                continue;
            }
            checked += 1;
            assert!(
                allowed[package.name.as_str()].contains(dependency.name.as_str()),
                "{} must not depend on {}",
                package.name,
                dependency.name
            );
        }
    }
    assert!(checked >= 10, "the edges were not found at all");
}
