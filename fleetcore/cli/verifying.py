"""Reads everything that a fleet stores, with a progress bar: for ``doctor --deep`` and ``restore``."""

import contextlib
from typing import Any

from fleetcore.cli.connect import Caller
from fleetcore.cli.progress import bytes_progress
from fleetcore.model.parts import parts

#: Every ``doctor`` reads a store up to this size completely: it takes a second or two.
SMALL_BYTES = 64 * 1024**2
#: Problems beyond this are only counted.
_NAMED = 100


async def verified_store(caller: Caller, *, deep: bool = True) -> tuple[list[str], int]:
    """The faults of the stored data, and how many bytes were not read: those of a large store if not ``deep``.

    An interrupt stops it at once; it changes nothing.
    """

    async def ask(after: str | None) -> dict[str, Any]:
        part: dict[str, Any] = await caller.run("verify_storage", {} if after is None else {"after": after})
        return part

    async with contextlib.aclosing(parts(ask, lambda part: part["next"])) as found:
        first = await anext(found)
        problems, done = list[str](first["problems"]), first["done"]
        if not deep and first["total"] > SMALL_BYTES:
            return problems, first["total"] - done
        with bytes_progress("Checking the store", first["total"]) as advance:
            advance(done)
            async for part in found:
                advance(part["done"] - done)
                done = part["done"]
                problems += part["problems"]
    if len(problems) > _NAMED:
        problems = [*problems[:_NAMED], f"{len(problems) - _NAMED} more."]
    return problems, 0
