"""A day, in the milliseconds in which times are kept."""

DAY_MS = 24 * 3600 * 1000
