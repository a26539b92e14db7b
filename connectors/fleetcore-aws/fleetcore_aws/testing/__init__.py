"""Simulated AWS for tests and for manual use: one on moto, one of our own, both as strict as the service."""
