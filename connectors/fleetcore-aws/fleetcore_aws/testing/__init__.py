"""Counterparts of AWS for tests and for trying by hand: one on moto, one of our own, both as strict as the service."""
