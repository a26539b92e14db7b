"""Operators' rights: the cost of a token's rights, cached and looked up in the store.

Both are the same call on the same fleet in a data folder; for the second one the cache is cleared before each call. The
principal has three grants, one of them within a scope.
"""

import asyncio
import tempfile
import time

from benchmarks.measure import Row, at_most, median_ratio
from fleetcore.runtime.app import Fleet
from fleetcore.runtime.config import Config, FleetSection

_GOAL_US = 10.0


def run(*, quick: bool = False) -> list[Row]:
    """The rows of this benchmark."""
    return asyncio.run(_run(500 if quick else 2000, 5))


async def _run(count: int, rounds: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        fleet = await Fleet.open(Config(fleet=FleetSection(name="bench", data=folder)))
        try:
            for role, scope in (("viewer", ""), ("auditor", ""), ("operator", "tags has 'lab'")):
                await fleet.operators.grant("ana", role, scope=scope)
            token = (await fleet.operators.create_token("ana")).token
            await fleet.operators.authenticate(token)
            seen: list[float] = []
            looked_up: list[float] = []
            for _ in range(rounds):
                seen.append(await _each_us(fleet, token, count, forget=False))
                looked_up.append(await _each_us(fleet, token, count // 10, forget=True))
        finally:
            await fleet.close()
    row = at_most("rights of a token, once seen", seen, "looked up in the store each time", looked_up, "µs", 0.1)
    value = sorted(seen)[len(seen) // 2]
    return [
        row,
        Row(
            name="the same, by itself",
            value=value,
            unit="µs",
            ratio=median_ratio(seen, [_GOAL_US] * len(seen)),
            goal=f"< {_GOAL_US:g} µs",
            met=value < _GOAL_US,
        ),
    ]


async def _each_us(fleet: Fleet, token: str, count: int, *, forget: bool) -> float:
    operators = fleet.operators
    begun = time.perf_counter()
    for _ in range(count):
        if forget:
            operators._known.clear()
        await operators.authenticate(token)
    return (time.perf_counter() - begun) / count * 1e6
