"""A detector for fleetcore."""
