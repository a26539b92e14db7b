"""Refusals: each is counted by protocol and code, and permanently refused messages are kept as dead letters.

The steps of the data path, the device plane and the adapters report theirs here, so that all are counted.
"""

from collections import Counter
from collections.abc import Callable

from fleetcore.model.message import Inbound, Rejected
from fleetcore.pipeline.session import DeviceSession


class Refusals:
    """Collects refused messages.

    Args:
        keep: stores a dead letter: the sender, the message, and the reason.

    Attributes:
        counts: messages refused since the start, by protocol and code.
    """

    def __init__(self, keep: Callable[[str, Inbound, Rejected], None]) -> None:
        self._keep = keep
        self.counts: Counter[tuple[str, str]] = Counter()

    def add(self, session: DeviceSession, message: Inbound, rejected: Rejected) -> None:
        """Counts a refusal; a temporary one keeps no dead letter, because the device sends the message again."""
        self.count(session.protocol, rejected.code)
        if not rejected.temporary:
            self._keep(session.identity, message, rejected)

    def count(self, protocol: str, code: str) -> None:
        """Counts a refusal without a dead letter: of a peer that is not a device, or of a request to enrol."""
        self.counts[protocol, code] += 1

    @property
    def by_code(self) -> dict[str, int]:
        """Messages refused since the start, by code."""
        found: Counter[str] = Counter()
        for (_, code), count in self.counts.items():
            found[code] += count
        return dict(found)
