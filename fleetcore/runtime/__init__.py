"""Wiring, the only code that knows concrete classes: plugins, configuration, clock, supervision, the fleet itself."""
