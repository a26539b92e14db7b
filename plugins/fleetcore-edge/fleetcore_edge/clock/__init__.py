"""The time of a gateway whose machine may not know it: a clock, the core's time, and messages that wait for it."""
