"""What the counterpart does wrong on order.

It throttles, is slow, errs, cuts requests and answers, loses answers, rejects credentials, and has another clock.
"""

import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from attrs import mutable

from fleetcore.testing.hub_faults import HubFaults
from fleetcore_azure.testing.operations import Call
from fleetcore_azure.testing.rules import RefusedByAzure


@mutable
class Faults(HubFaults):
    """Faults under way; all off at first.

    Attributes:
        dropped: reports of devices still to be answered by the end of their connection; nothing of them is done.
        partly: devices of bulk operations that fail, each with an error of the hub.
        refused: whether everybody is turned away.
        role: the definition of a role that bearers of a token have; None allows everything.
    """

    COUNTED: ClassVar[Sequence[str]] = (*HubFaults.COUNTED, "partly", "dropped")

    dropped: int = 0
    partly: int = 0
    refused: bool = False
    role: Mapping[str, Any] | None = None

    def heal(self) -> None:
        """Ends them; the delay and the role stay."""
        HubFaults.heal(self)
        self.refused = False

    def enter(self, call: Call, *, bearer: bool) -> None:
        """Raises :class:`RefusedByAzure` where a call is turned away."""
        if self.refused:
            raise RefusedByAzure("IotHubUnauthorizedAccess", "Unauthorized", 401)
        if bearer and self.role is not None:
            for right in call.rights:
                if not any(fnmatch.fnmatchcase(right, each) for each in self.role["DataActions"]):
                    raise RefusedByAzure("AuthorizationFailed", f"the data action {right} is not allowed", 403)
        if self.counted("throttled", call.action):
            raise RefusedByAzure("ThrottlingException", "Too many requests", 429, self.retry_after_s)
        if call.request.headers.get("x-ms-continuation") and self.counted("stale", call.action):
            raise RefusedByAzure("ArgumentInvalid", "The continuation token is not valid", 400)
        if self.counted("errors", call.action):
            raise RefusedByAzure("ServerError", "An internal error occurred", 500)

    def failing(self, call: Call) -> bool:
        """Whether a device of a bulk operation fails."""
        return call.operation == "UpdateRegistry" and self.counted("partly", call.action)
