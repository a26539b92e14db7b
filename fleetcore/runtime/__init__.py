"""Wiring: the only code that knows concrete classes. Plugins, configuration, the clock, supervision, the fleet itself."""
