//! AbstractDriver: discover, backfill, incremental sync and change streams over any source and destination
