"""The capabilities of a fleet: one module each, over the Storage interface."""
