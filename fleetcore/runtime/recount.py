"""Compares counters with the records that they count, and corrects them.

A counter follows from the records, so correcting it loses nothing. A wrong counter is a fault of fleetcore or of the
disk, and is reported.
"""

import logging
from collections.abc import Sequence
from typing import Any

from fleetcore.fleet.repository import Repository
from fleetcore.interfaces.storage import Storage
from fleetcore.model.store import Commit, Counter

_log = logging.getLogger(__name__)


async def differences(storage: Storage, counted: Sequence[Repository[Any]]) -> dict[Counter, int]:
    """How much counters differ from the records; adding the difference corrects them."""
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
    """Corrects counters; returns one sentence for each wrong one.

    Records change during the read, so only a difference found twice counts.
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
