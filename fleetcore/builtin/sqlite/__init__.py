"""The embedded store: one SQLite file, one writer thread, readings in compressed columns.

A commit becomes one row of the ``log`` table (:mod:`~fleetcore.builtin.sqlite.log`) in the same transaction as its
records, marks and cursors; readings also stay in memory (:mod:`~fleetcore.builtin.sqlite.tail`) until they are sealed
into per-series chunks (:mod:`~fleetcore.builtin.sqlite.seal`). Reads merge chunks and tail.
"""
