"""Reading all that a fleet stores, with a progress bar: for ``doctor --deep`` and ``restore``."""

from collections.abc import AsyncIterator
from typing import Any

from fleetcore.cli.connect import Caller
from fleetcore.cli.progress import bytes_progress

#: A store up to this size is read whole by every ``doctor``: it takes a second or two.
SMALL_BYTES = 64 * 1024**2
#: Problems beyond this are counted, not kept.
_NAMED = 100


async def verified_store(caller: Caller, *, deep: bool = True) -> tuple[list[str], int]:
    """What is wrong with the stored data, and how many bytes were left unread: those of a large store if not ``deep``.

    An interrupt stops it at once; it changes nothing.
    """
    problems: list[str] = []
    first = await caller.run("verify_storage", {})
    if not deep and first["total"] > SMALL_BYTES:
        return first["problems"], first["total"] - first["done"]
    with bytes_progress("Checking the store", first["total"]) as advance:
        done = 0
        async for part in _parts(caller, first):
            advance(part["done"] - done)
            done = part["done"]
            problems += part["problems"]
    if len(problems) > _NAMED:
        problems = [*problems[:_NAMED], f"{len(problems) - _NAMED} more."]
    return problems, 0


async def _parts(caller: Caller, part: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    yield part
    while part["next"] is not None:
        part = await caller.run("verify_storage", {"after": part["next"]})
        yield part
