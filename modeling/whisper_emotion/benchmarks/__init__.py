"""Benchmarks of this package against the usual implementations, in the same run."""
