"""Frozen records and closed enums: the things of a fleet. No I/O, no clock, no plugins."""
