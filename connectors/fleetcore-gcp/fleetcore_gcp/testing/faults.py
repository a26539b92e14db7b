"""Faults on order: the counterpart throttles, is slow, errs, loses answers, cuts streams, rejects credentials."""

from collections.abc import Sequence
from typing import Any, Literal

from attrs import field, mutable

#: The scope of a custom role's permissions: its resources.
Grants = dict[str, set[str]]


class RefusedByPubSub(Exception):
    """An answer with a gRPC status, by its name."""

    def __init__(self, status: str, said: str, retry_after_s: float = 0.0) -> None:
        super().__init__(said)
        self.status, self.said, self.retry_after_s = status, said, retry_after_s


@mutable
class Faults:
    """Active faults; all off at first.

    Attributes:
        delay_s: before each answer.
        throttled: calls still to be throttled; ``retry_after_s`` says when to retry.
        down: every answer is ``UNAVAILABLE``; streams are cut.
        errors: calls still to fail with ``status``.
        lost: calls still to be executed whose answers are not sent.
        acks_lost: acknowledgements still to be answered but not executed.
        redelivered: messages still to be delivered twice, acknowledged or not.
        stuck: ordering keys whose publishes fail.
        only: methods affected by the counted faults; empty for all.
        refused: the status with which everything is refused: ``UNAUTHENTICATED``, ``PERMISSION_DENIED``.
        granted: enforced permissions by resource; None allows everything.
        skew_s: by how much its clock is ahead of this machine's.
        cuts: how often streams have been cut; increasing it cuts the open ones.
    """

    delay_s: float = 0.0
    throttled: int = 0
    retry_after_s: float = 0.0
    down: bool = False
    errors: int = 0
    status: str = "INTERNAL"
    lost: int = 0
    acks_lost: int = 0
    redelivered: int = 0
    stuck: Sequence[str] = ()
    only: Sequence[str] = ()
    refused: str = ""
    granted: Grants | None = field(default=None)
    skew_s: float = 0.0
    cuts: int = 0

    def heal(self) -> None:
        """Ends them; the delay and the granted permissions stay."""
        self.throttled = self.errors = self.lost = self.acks_lost = self.redelivered = 0
        self.down, self.refused, self.only, self.stuck, self.skew_s = False, "", (), (), 0.0

    def enter(self, method: str, permission: str, resource: str) -> None:
        """Raises :class:`RefusedByPubSub` if a call is refused."""
        if self.down:
            raise RefusedByPubSub("UNAVAILABLE", "The service is currently unavailable")
        if self.refused:
            raise RefusedByPubSub(self.refused, "Request had invalid authentication credentials")
        if permission and not self.allows(permission, resource):
            raise RefusedByPubSub("PERMISSION_DENIED", f"User not authorized: {permission} on {resource}")
        if self.counted("throttled", method):
            raise RefusedByPubSub("RESOURCE_EXHAUSTED", "Quota exceeded", self.retry_after_s)
        if self.counted("errors", method):
            raise RefusedByPubSub(self.status, "An unexpected error has occurred")

    def allows(self, permission: str, resource: str) -> bool:
        """Whether a permission is granted on a resource, or on its project."""
        if self.granted is None:
            return True
        project = "/".join(resource.split("/")[:2])
        return any(permission in self.granted.get(each, ()) for each in (resource, project))

    def grant(self, policy: Any) -> None:
        """Enforces a printed policy, in its ``json`` form."""
        roles = {role["name"]: role["includedPermissions"] for role in policy["roles"]}
        granted: Grants = {}
        for binding in policy["bindings"]:
            granted.setdefault(binding["resource"], set()).update(roles[binding["role"]])
        self.granted = granted

    def counted(self, name: Literal["throttled", "errors", "lost", "acks_lost", "redelivered"], method: str) -> bool:
        """Whether a counted fault affects a call now."""
        left: int = getattr(self, name)
        if left == 0 or (self.only and method not in self.only):
            return False
        setattr(self, name, left - 1)
        return True
