"""Google Cloud Pub/Sub as a mirror of a fleet: topics of registry, state, jobs and readings, and incoming commands.

Pub/Sub has neither a registry nor twins, so nothing can be read back: the fleet stays the registry, and its messages
contain everything that a receiver needs to build the same states. The engine decides what is sent; this package
translates between the model's bodies and messages. Every call of the SDK goes through :mod:`fleetcore_gcp.clients`;
:mod:`fleetcore_gcp.testing` simulates Pub/Sub.
"""

__version__ = "0.1.0"
