//! A destination that keeps nothing, for measuring a source alone
