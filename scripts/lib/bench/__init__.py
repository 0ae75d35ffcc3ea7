"""The benchmarks: one module each, on a common test bed."""
