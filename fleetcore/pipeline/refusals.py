"""Refusals: each is counted by protocol and code, and what is refused for good is kept as a dead letter.

The steps of the data path, the device plane and the adapters note theirs here, so none goes unseen.
"""

from collections import Counter
from collections.abc import Callable

from fleetcore.model.message import Inbound, Rejected
from fleetcore.pipeline.session import DeviceSession


class Refusals:
    """Takes refused messages in.

    Args:
        keep: keeps a dead letter: the sender, the message, and why it was refused.

    Attributes:
        counts: messages refused since the start, by protocol and code.
    """

    def __init__(self, keep: Callable[[str, Inbound, Rejected], None]) -> None:
        self._keep = keep
        self.counts: Counter[tuple[str, str]] = Counter()

    def add(self, session: DeviceSession, message: Inbound, rejected: Rejected) -> None:
        """Notes a refusal; one for now is only counted, since the device sends the message again."""
        self.count(session.protocol, rejected.code)
        if not rejected.temporary:
            self._keep(session.identity, message, rejected)

    def count(self, protocol: str, code: str) -> None:
        """Counts a refusal of which nothing is kept: of a peer that is not a device, or of a request to enrol."""
        self.counts[protocol, code] += 1

    @property
    def by_code(self) -> dict[str, int]:
        """Messages refused since the start, by code."""
        found: Counter[str] = Counter()
        for (_, code), count in self.counts.items():
            found[code] += count
        return dict(found)
