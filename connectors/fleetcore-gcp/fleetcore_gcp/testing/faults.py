"""Faults on order: the counterpart throttles, is slow, errs, loses answers, cuts streams, rejects credentials."""

from collections.abc import Sequence
from typing import Any, Literal

from attrs import field, mutable

#: Where the permissions of a custom role hold: its resources.
Grants = dict[str, set[str]]


class RefusedByPubSub(Exception):
    """An answer that is a status of gRPC, by its name."""

    def __init__(self, status: str, said: str, retry_after_s: float = 0.0) -> None:
        super().__init__(said)
        self.status, self.said, self.retry_after_s = status, said, retry_after_s


@mutable
class Faults:
    """Faults under way; all off at first.

    Attributes:
        delay_s: before each answer.
        throttled: calls still to be turned away; ``retry_after_s`` says when to come again.
        down: nothing is done and nothing answered but ``UNAVAILABLE``; streams are cut.
        errors: calls still to be answered with ``status``.
        lost: calls still to be done whose answers are not sent.
        acks_lost: calls of acknowledgements still to be answered and not done.
        redelivered: messages still to be delivered twice, acknowledged or not.
        stuck: ordering keys whose publishes fail.
        only: methods that the counted faults hit; empty for all.
        refused: the status by which everybody is turned away: ``UNAUTHENTICATED``, ``PERMISSION_DENIED``.
        granted: permissions by resource that are kept to; None allows everything.
        skew_s: by how much its clock is ahead of this machine's.
        cuts: how often streams have been cut; one more cuts those that there are.
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
        """Ends them; the delay and what is granted stay."""
        self.throttled = self.errors = self.lost = self.acks_lost = self.redelivered = 0
        self.down, self.refused, self.only, self.stuck, self.skew_s = False, "", (), (), 0.0

    def enter(self, method: str, permission: str, resource: str) -> None:
        """Raises :class:`RefusedByPubSub` where a call is turned away."""
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
        """Whether a permission is granted on a resource, or on the project that it is in."""
        if self.granted is None:
            return True
        project = "/".join(resource.split("/")[:2])
        return any(permission in self.granted.get(each, ()) for each in (resource, project))

    def grant(self, policy: Any) -> None:
        """Keeps to a printed policy, as its ``json`` form has it."""
        roles = {role["name"]: role["includedPermissions"] for role in policy["roles"]}
        granted: Grants = {}
        for binding in policy["bindings"]:
            granted.setdefault(binding["resource"], set()).update(roles[binding["role"]])
        self.granted = granted

    def counted(self, name: Literal["throttled", "errors", "lost", "acks_lost", "redelivered"], method: str) -> bool:
        """Whether one of a counted fault hits a call now."""
        left: int = getattr(self, name)
        if left == 0 or (self.only and method not in self.only):
            return False
        setattr(self, name, left - 1)
        return True
