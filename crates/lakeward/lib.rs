//! Lakeward replicates databases into open files: every row, then every change, exactly once.
