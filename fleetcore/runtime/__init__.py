"""Wiring, the only code that uses concrete classes: plugins, configuration, clock, supervision, the fleet itself."""
