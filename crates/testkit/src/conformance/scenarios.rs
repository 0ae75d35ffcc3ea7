//! The scenarios. Their numbers are part of the names of tests and are never given anew.

/// The part of the system that a scenario tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Area {
    /// The PostgreSQL source.
    Postgres,
    /// The MySQL and MariaDB source.
    MySql,
    /// The MongoDB source.
    MongoDb,
    /// Destinations and the commit protocol.
    Destination,
    /// Running it.
    Operations,
}

impl Area {
    pub(super) fn title(self) -> &'static str {
        match self {
            Area::Postgres => "PostgreSQL",
            Area::MySql => "MySQL and MariaDB",
            Area::MongoDb => "MongoDB",
            Area::Destination => "Destination",
            Area::Operations => "Operations",
        }
    }
}

/// Something that happens to real replication systems.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// The `NN` of its tests' names, `fNN_…`.
    pub number: u8,
    /// Where it belongs.
    pub area: Area,
    /// What happens, and what holds nevertheless.
    pub title: &'static str,
}

const fn postgres(number: u8, title: &'static str) -> Scenario {
    Scenario { number, area: Area::Postgres, title }
}

const fn mysql(number: u8, title: &'static str) -> Scenario {
    Scenario { number, area: Area::MySql, title }
}

const fn mongodb(number: u8, title: &'static str) -> Scenario {
    Scenario { number, area: Area::MongoDb, title }
}

const fn destination(number: u8, title: &'static str) -> Scenario {
    Scenario { number, area: Area::Destination, title }
}

const fn operations(number: u8, title: &'static str) -> Scenario {
    Scenario { number, area: Area::Operations, title }
}

/// All of them, by number.
pub const SCENARIOS: &[Scenario] = &[
    postgres(1, "Replicated tables rest while others are written to: the server's WAL does not pile up"),
    postgres(2, "A long backfill under writes: changes are committed meanwhile and the slot moves on"),
    postgres(3, "The slot is never acknowledged past what a saved state and the destination hold"),
    postgres(
        4,
        "A slot that is missing, invalidated or lost is found, and stops the run or starts a new snapshot",
    ),
    postgres(
        5,
        "Another slot, publication, table or server under the same name is refused, never skipped over",
    ),
    postgres(6, "Failover to a standby: goes on with a failover slot, else stops and names the gap"),
    postgres(7, "An update that does not send a TOASTed value leaves the old value in place"),
    postgres(8, "Every replica identity, and no key at all, with every kind of change"),
    postgres(9, "Primary keys that change, also by swapping within a transaction"),
    postgres(10, "TRUNCATE takes effect at its place among the changes"),
    postgres(11, "Columns added, dropped, renamed and added again between changes"),
    postgres(12, "A column's type changes: all files still read together, in every reader"),
    postgres(13, "Partition trees of several levels, with partitions attached and detached"),
    postgres(14, "Very large, rolled-back and prepared transactions in bounded memory"),
    postgres(15, "`numeric` without bounds, NaN and infinities: exact, or by the declared policy"),
    postgres(16, "Dates and timestamps outside the calendar of the readers: by policy, original kept"),
    postgres(17, "Every other type has the same bytes by backfill and by change"),
    postgres(18, "Generated columns are the same in both phases, or warned of"),
    postgres(19, "Awkward names, and names that differ only in case"),
    postgres(20, "Values of 100 MB in bounded memory"),
    postgres(21, "Writers that go on through backfill and hand-over: nothing lost, nothing twice"),
    postgres(22, "Killed in mid-backfill: little is read again"),
    postgres(23, "Rows moved or rewritten between chunks, also across a crash"),
    postgres(24, "Reading from a hot standby that cancels queries"),
    mysql(25, "Zero dates and year 0000: by the declared policy, NULL stays NULL"),
    mysql(26, "Unsigned, bit, wide decimal, float and year values are exact"),
    mysql(27, "Enums, sets, character sets and padded binaries are the same in both phases"),
    mysql(28, "A purged binlog or another server: resumes by GTID, or names what is missing"),
    mysql(29, "MariaDB's own: domain GTIDs, compressed events, JSON as text"),
    mysql(30, "Text keys under a case-blind collation split without overlap or gap"),
    mysql(31, "Composite keys, and tables without any"),
    mysql(32, "Every binlog format is decoded, or stops the run before anything is acknowledged"),
    mysql(33, "Schema changes in the binlog never put a value into the wrong column"),
    mysql(34, "TIMESTAMP is an instant and DATETIME is not, in every time zone"),
    mongodb(35, "A resume token that the oplog has lost; a day without events"),
    mongodb(36, "A collection dropped, renamed or created again"),
    mongodb(37, "Ids of many BSON types in one collection"),
    mongodb(38, "Change events above 16 MB"),
    mongodb(39, "A field whose type changes from document to document"),
    mongodb(40, "Deletes and updates whose document is gone"),
    mongodb(41, "Sharded clusters with orphaned documents"),
    destination(42, "Killed between any two durable steps: every row once"),
    destination(43, "The answer to a commit is lost: it happens once"),
    destination(44, "Errors, a full disk or a kill while writing: nothing half-written is visible"),
    destination(45, "A day of small commits leaves a bounded number of files"),
    destination(46, "A sink that stalls makes the process wait, not grow"),
    operations(47, "A torn, missing or foreign state file is never taken for a first run"),
    operations(48, "Two runs on one state, or on one destination: one of them stops"),
    operations(49, "No password and no value of a row in logs, errors or metrics"),
    operations(50, "A connection that is half open or ends early is an error, never success"),
    operations(51, "Signals and database restarts at any second"),
    operations(52, "Incremental cursors with ties, NULLs and late commits: each row version once"),
    operations(53, "Power loss: nothing acknowledged is lost"),
    operations(54, "The role's own settings and row-level security change no row and no value"),
    operations(55, "The server's time-outs do not end the stream"),
];
