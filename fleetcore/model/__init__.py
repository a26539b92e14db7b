"""Frozen records and closed enums: what a fleet consists of. No I/O, no clock, no plugin knowledge."""
