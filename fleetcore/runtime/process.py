"""Settings of a process that does nothing but serve a fleet; a library leaves its host's alone."""

import gc


def settle_memory() -> None:
    """Takes what was loaded so far out of the garbage collector's way, and lets it run less often.

    A burst of messages makes many small containers that die together; with CPython's default of a pass every 700
    allocations about a third of the data path's time went into looking at them (``python -m benchmarks path``).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
