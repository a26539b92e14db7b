"""Settings of a process that only serves a fleet; a library does not change its host process."""

import gc


def settle_memory() -> None:
    """Excludes everything loaded so far from garbage collection, and makes the collector run less often.

    A burst of messages makes many small containers that die together; with CPython's default of a pass every 700
    allocations about a third of the data path's time went into scanning them (``python -m benchmarks path``).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
