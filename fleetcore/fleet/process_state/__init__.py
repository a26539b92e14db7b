"""The state of a fleet that only this process has: connections, recent writes, queues of changes.

All of it relies on one rule: only this process changes the store, which the lease on the data folder ensures. The store
is authoritative, and a restart loses only speed, except for presence between two flushes. Several nodes over one store
would need another solution for each module here, and for the sessions in :mod:`fleetcore.runtime.plane.sessions`.
"""
