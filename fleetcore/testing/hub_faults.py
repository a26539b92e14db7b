"""Faults of simulated hubs on request, for any service: a number of calls fails, then no more.

The class of a simulated hub adds the faults of its service: error codes, policies, quotas.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

from attrs import mutable

from fleetcore.testing.http1 import Read


@mutable
class HubFaults:
    """Active faults; all off at first.

    Attributes:
        delay_s: before each answer.
        throttled: calls still to be throttled; ``retry_after_s`` says when to retry.
        down: connections are closed without an answer.
        errors: calls still to fail with an error of the service.
        lost, halved: calls still to be executed whose answers are not sent, or truncated.
        cut_heads, cut_bodies: calls still to be cut when half of their head, or of their body, was read: they are not
            executed.
        skew_s: by how much its clock is ahead of this machine's.
        stale: page tokens still to be refused as expired.
        only: classes of calls that the counted faults hit; empty for all.
    """

    COUNTED: ClassVar[Sequence[str]] = (
        "throttled", "errors", "lost", "halved", "cut_heads", "cut_bodies", "stale",
    )  # fmt: skip

    delay_s: float = 0.0
    throttled: int = 0
    retry_after_s: float = 0.0
    down: bool = False
    errors: int = 0
    lost: int = 0
    halved: int = 0
    cut_heads: int = 0
    cut_bodies: int = 0
    skew_s: float = 0.0
    stale: int = 0
    only: Sequence[str] = ()

    def heal(self) -> None:
        """Ends them; the delay stays."""
        for name in self.COUNTED:
            setattr(self, name, 0)
        self.down, self.only, self.skew_s = False, (), 0.0

    def counted(self, name: str, action: str) -> bool:
        """Whether a fault affects a call of this class; counts it."""
        left: int = getattr(self, name)
        if left == 0 or (self.only and action not in self.only):
            return False
        setattr(self, name, left - 1)
        return True

    def read_of(self, action: str, length: int) -> Read:
        """How much of a call is read, of whose body this length is still missing."""
        if self.counted("cut_heads", action):
            return "head"
        return "body" if length > 0 and self.counted("cut_bodies", action) else "whole"

    def fate_of(self, action: str) -> Literal["whole", "half", "none"]:
        """How the answer of an executed call is sent."""
        if self.counted("lost", action):
            return "none"
        return "half" if self.counted("halved", action) else "whole"
