"""Faults of the simulated hub on request.

It throttles, is slow, fails, cuts requests and answers, loses answers, rejects credentials, and has another clock.
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
    """Active faults; all off at first.

    Attributes:
        dropped: reports of devices still to be answered by closing their connection; they are not executed.
        partly: devices of bulk operations that fail, each with an error of the hub.
        refused: whether everything is refused.
        role: the definition of the role of Entra ID tokens; None allows everything.
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
        """Raises :class:`RefusedByAzure` if a call is refused."""
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
