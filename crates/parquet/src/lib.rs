//! Parquet files in a directory as a destination, exactly once
