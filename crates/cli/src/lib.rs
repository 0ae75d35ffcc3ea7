//! The command line of Lakeward
