"""What one process knows of a fleet and no store tells it: who is connected, what was written last, whose turn it is.

All of it rests on one rule: this process alone changes the store, which the lease on the data folder sees to. The store
stays the truth, and a restart loses nothing but speed, save for presence between two flushes. Several nodes over one
store need another answer for each module here, and for the sessions in :mod:`fleetcore.runtime.plane.sessions`.
"""
