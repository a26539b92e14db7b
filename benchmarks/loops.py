"""Which event loop a process of the benchmarks runs on: uvloop where it is installed, as ``fleetcore serve`` does."""

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any


def run_on(loop: str, work: Coroutine[Any, Any, None]) -> None:
    """Runs ``work`` on ``asyncio``'s own loop or on ``uvloop``."""
    factory = None
    if loop == "uvloop":
        with contextlib.suppress(ImportError):
            import uvloop

            factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(work)
