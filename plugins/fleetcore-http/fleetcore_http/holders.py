"""What one identity holds open: the newest stand, and the oldest end where there are too many.

A device that loses its connection and comes again must not be kept out by what it left behind, so nothing is refused.
"""

from collections.abc import Callable


class Holders:
    """Connections, or long polls, by identity.

    Args:
        most: of one identity.
        reached: called when one had to end.
    """

    def __init__(self, most: int, reached: Callable[[str], None]) -> None:
        self._most, self._reached = most, reached
        self._held: dict[str, dict[object, Callable[[], None]]] = {}

    def enter(self, identity: str, thing: object, end: Callable[[], None]) -> None:
        """``thing`` is held from now on; ``end`` ends it, and is called where it is the oldest of too many."""
        held = self._held.setdefault(identity, {})
        held.setdefault(thing, end)
        if len(held) > self._most:
            oldest = next(iter(held))
            ending = held.pop(oldest)
            self._reached(identity)
            ending()

    def leave(self, identity: str, thing: object) -> None:
        """It is over; idempotent."""
        held = self._held.get(identity)
        if held is not None and held.pop(thing, None) is not None and not held:
            del self._held[identity]

    def __len__(self) -> int:
        return sum(len(held) for held in self._held.values())
