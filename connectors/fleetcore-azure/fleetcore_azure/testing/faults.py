"""What the counterpart does wrong on order.

It throttles, is slow, errs, cuts requests and answers, loses answers, lets nobody in, and has another time than ours.
"""

import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from attrs import mutable

from fleetcore.testing.http1 import Read
from fleetcore_azure.testing.operations import Call
from fleetcore_azure.testing.rules import RefusedByAzure


@mutable
class Faults:
    """Faults under way; all off at first.

    Attributes:
        delay_s: before each answer.
        throttled: calls still to be turned away; ``retry_after_s`` says when to come again.
        down: connections are closed without an answer.
        errors: calls still to be answered with HTTP 500.
        lost, halved: calls still to be done whose answers are not sent, or cut half-way.
        cut_heads, cut_bodies: calls still to be cut off when half of their head, or of their body, was read: nothing
            of them is done.
        skew_s: by how much its clock is ahead of this machine's.
        stale: continuations of queries still to be refused, as those are that expired.
        partly: devices of bulk operations that fail, each with an error of the hub.
        only: classes of calls that the counted faults hit; empty for all.
        refused: whether everybody is turned away.
        role: the definition of a role that bearers of a token have; None allows everything.
    """

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
    partly: int = 0
    only: Sequence[str] = ()
    refused: bool = False
    role: Mapping[str, Any] | None = None

    def heal(self) -> None:
        """Ends them; the delay and the role stay."""
        self.throttled = self.errors = self.lost = self.halved = self.stale = self.partly = 0
        self.cut_heads = self.cut_bodies = 0
        self.down = self.refused = False
        self.skew_s = 0.0
        self.only = ()

    def enter(self, call: Call, *, bearer: bool) -> None:
        """Raises :class:`RefusedByAzure` where a call is turned away."""
        if self.refused:
            raise RefusedByAzure("IotHubUnauthorizedAccess", "Unauthorized", 401)
        if bearer and self.role is not None:
            for right in call.rights:
                if not any(fnmatch.fnmatchcase(right, each) for each in self.role["DataActions"]):
                    raise RefusedByAzure("AuthorizationFailed", f"the data action {right} is not allowed", 403)
        if self._counted("throttled", call):
            raise RefusedByAzure("ThrottlingException", "Too many requests", 429, self.retry_after_s)
        if call.request.headers.get("x-ms-continuation") and self._counted("stale", call):
            raise RefusedByAzure("ArgumentInvalid", "The continuation token is not valid", 400)
        if self._counted("errors", call):
            raise RefusedByAzure("ServerError", "An internal error occurred", 500)

    def arriving(self, call: Call) -> Read:
        """How much of a call is read; its body is not there yet."""
        if self._counted("cut_heads", call):
            return "head"
        has_body = int(call.request.headers.get("content-length", "0")) > 0
        return "body" if has_body and self._counted("cut_bodies", call) else "whole"

    def failing(self, call: Call) -> bool:
        """Whether a device of a bulk operation fails."""
        return call.operation == "UpdateRegistry" and self._counted("partly", call)

    def fate(self, call: Call) -> Literal["whole", "half", "none"]:
        """How the answer of a call that was done is sent."""
        if self._counted("lost", call):
            return "none"
        return "half" if self._counted("halved", call) else "whole"

    def _counted(self, name: str, call: Call) -> bool:
        left: int = getattr(self, name)
        if left == 0 or (self.only and call.action not in self.only):
            return False
        setattr(self, name, left - 1)
        return True
