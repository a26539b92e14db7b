"""An hour and a day in milliseconds, the unit of all times."""

HOUR_MS = 3600 * 1000
DAY_MS = 24 * HOUR_MS
