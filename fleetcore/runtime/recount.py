"""Counters against the records that they count: compared, and set right.

A counter follows from the records, so setting it right loses nothing. What is counted wrong is a fault of fleetcore or
of the disk, and is said.
"""

import logging
from collections.abc import Sequence
from typing import Any

from fleetcore.fleet.repository import Repository
from fleetcore.interfaces.storage import Storage
from fleetcore.model.store import Commit, Counter

_log = logging.getLogger(__name__)


async def differences(storage: Storage, counted: Sequence[Repository[Any]]) -> dict[Counter, int]:
    """By how much counters differ from what the records say; what repairs them where it is added."""
    found: dict[Counter, int] = {}
    for repository in counted:
        wanted = await repository.recount()
        spaces = {space for space, _ in wanted}
        for space in spaces:
            kept = await storage.counters(space)
            names = {name for its, name in wanted if its == space} | set(kept)
            for name in names:
                delta = wanted.get((space, name), 0) - kept.get(name, 0)
                if delta:
                    found[space, name] = delta
    return found


async def recount(storage: Storage, counted: Sequence[Repository[Any]]) -> list[str]:
    """Sets counters right; gives one sentence for each that was wrong.

    Records change while they are read, so only a difference that is the same twice counts.
    """
    first = await differences(storage, counted)
    again = await differences(storage, counted) if first else {}
    wrong = {counter: delta for counter, delta in first.items() if again.get(counter) == delta}
    found = []
    for (space, name), delta in wrong.items():
        kept = (await storage.counters(space)).get(name, 0)
        found.append(f"The counter {space} {name} was {kept} and is now {kept + delta}")
        _log.warning("%s", found[-1])
    await storage.commit(Commit(add=wrong))
    return found
