"""Limits connections or long polls per identity: the newest stay, and the oldest end when there are too many.

A device that loses its connection must not be kept out by the remains of the old one, so nothing is refused.
"""

from collections.abc import Callable


class Holders:
    """Connections, or long polls, by identity.

    Args:
        most: the limit of one identity.
        reached: called when one had to end.
    """

    def __init__(self, most: int, reached: Callable[[str], None]) -> None:
        self._most, self._reached = most, reached
        self._held: dict[str, dict[object, Callable[[], None]]] = {}

    def enter(self, identity: str, thing: object, end: Callable[[], None]) -> None:
        """Adds ``thing``; ``end`` ends it, and is called if it is the oldest of too many."""
        held = self._held.setdefault(identity, {})
        held.setdefault(thing, end)
        if len(held) > self._most:
            oldest = next(iter(held))
            ending = held.pop(oldest)
            self._reached(identity)
            ending()

    def leave(self, identity: str, thing: object) -> None:
        """It has ended; idempotent."""
        held = self._held.get(identity)
        if held is not None and held.pop(thing, None) is not None and not held:
            del self._held[identity]

    def __len__(self) -> int:
        return sum(len(held) for held in self._held.values())
