"""Benchmarks: ratios measured in one run, for the same work, against named alternatives and the machine's own limit."""
