"""One day in milliseconds, the unit of all times."""

DAY_MS = 24 * 3600 * 1000
