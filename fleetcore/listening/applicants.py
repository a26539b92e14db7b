"""Lasting connections of peers that may enrol but are not devices yet: how many, how long, and what each may ask.

A claim certificate is in every device of its batch and an enrolment token may be for many, so any number may be
connected by one and none takes over from another; and both may be stolen, so their connections are bounded.
"""

from collections import Counter

#: A device enrols in two round trips; a plugin that is asked about it has five seconds for each.
CONNECTED_S = 120.0
#: What one connection may ask or try before it has to come again: two steps, and their repetitions.
MESSAGES = 64
#: Connections by one name, and in all: a factory's line, not a fleet.
CONNECTIONS, CONNECTIONS_IN_ALL = 256, 1024


class Applicants:
    """Those of one listener, by what they are counted under."""

    def __init__(self) -> None:
        self._by_name: Counter[str] = Counter()

    def full(self, name: str) -> bool:
        """Whether another one by this name has to come later."""
        return self._by_name[name] >= CONNECTIONS or self._by_name.total() >= CONNECTIONS_IN_ALL

    def enter(self, name: str) -> None:
        """Counts a connection in."""
        self._by_name[name] += 1

    def leave(self, name: str) -> None:
        """Counts it out."""
        self._by_name[name] -= 1
        if self._by_name[name] <= 0:
            del self._by_name[name]

    def __len__(self) -> int:
        return self._by_name.total()
