"""What counterparts of hubs do wrong on order, whichever service they stand for: so many calls are hit, then no more.

A counterpart's own class adds what its service has beside: codes of refusals, policies, quotas.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

from attrs import mutable

from fleetcore.testing.http1 import Read


@mutable
class HubFaults:
    """Faults under way; all off at first.

    Attributes:
        delay_s: before each answer.
        throttled: calls still to be turned away; ``retry_after_s`` says when to come again.
        down: connections are closed without an answer.
        errors: calls still to be answered with an error of the service.
        lost, halved: calls still to be done whose answers are not sent, or cut half-way.
        cut_heads, cut_bodies: calls still to be cut off when half of their head, or of their body, was read: nothing
            of them is done.
        skew_s: by how much its clock is ahead of this machine's.
        stale: tokens of pages still to be refused, as those are that expired.
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
        """Whether a fault hits a call of this class, which is counted then."""
        left: int = getattr(self, name)
        if left == 0 or (self.only and action not in self.only):
            return False
        setattr(self, name, left - 1)
        return True

    def read_of(self, action: str, length: int) -> Read:
        """How much of a call is read, whose body of this length is not there yet."""
        if self.counted("cut_heads", action):
            return "head"
        return "body" if length > 0 and self.counted("cut_bodies", action) else "whole"

    def fate_of(self, action: str) -> Literal["whole", "half", "none"]:
        """How the answer of a call that was done is sent."""
        if self.counted("lost", action):
            return "none"
        return "half" if self.counted("halved", action) else "whole"
