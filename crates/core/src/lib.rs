//! Vocabulary and contracts of Lakeward: no I/O
