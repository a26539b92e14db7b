"""Connections of peers that may enrol but are not devices yet: how many, how long, and what each may ask.

Every device of a batch carries the same claim certificate, and an enrolment token may serve many devices. So several
peers may be connected under one name, and none takes over from another. Both credentials can be stolen, so the number
of connections is limited.
"""

from collections import Counter

#: A device enrols in two round trips; a plugin that decides about it has five seconds for each.
CONNECTED_S = 120.0
#: Requests per connection: two steps, and their repetitions.
MESSAGES = 64
#: Connections under one name, and in all: enough for a production line, not for a fleet.
CONNECTIONS, CONNECTIONS_IN_ALL = 256, 1024


class Applicants:
    """The enrolling connections of one listener, counted by name."""

    def __init__(self) -> None:
        self._by_name: Counter[str] = Counter()

    def full(self, name: str) -> bool:
        """Whether a further connection under this name must wait."""
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
