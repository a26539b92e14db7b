"""Benchmarks: ratios measured in one run, on the same work, against named alternatives and the machine's own limit."""
