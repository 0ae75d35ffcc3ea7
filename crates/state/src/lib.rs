//! The JSON state file of a pipeline: versioned, locked, saved atomically
