"""A simulated Pub/Sub on this machine, for tests of this connector and for tests of others."""
