"""What a counterpart does wrong on order: throttles, is slow, errs, cuts, loses answers, lets nobody in."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from attrs import mutable

from fleetcore_aws.testing.operations import ACCOUNT, REGION, Call, arn
from fleetcore_aws.testing.rules import RefusedByAws

_KEY = re.compile(r"Credential=([^/]+)/")
#: The same code is another status by service.
_THROTTLING_STATUS: Mapping[str, int] = {"iot-data": 429}


@mutable
class Faults:
    """Faults under way; all off at first.

    Attributes:
        delay_s: before each answer.
        throttled: calls still to be turned away; ``retry_after_s`` says when to come again.
        down: connections are closed without an answer.
        errors: calls still to be answered with HTTP 500.
        lost, halved: calls still to be done whose answers are not sent, or cut half-way.
        only: actions that the counted faults hit; empty for all.
        refused: the code by which everybody is turned away: ``UnrecognizedClientException``, ``ExpiredTokenException``.
        key: the one access key that is let in; empty for any.
        policy: an IAM policy that is kept to; None allows everything.
    """

    delay_s: float = 0.0
    throttled: int = 0
    retry_after_s: float = 0.0
    down: bool = False
    errors: int = 0
    lost: int = 0
    halved: int = 0
    only: Sequence[str] = ()
    refused: str = ""
    key: str = ""
    policy: Mapping[str, Any] | None = None

    def heal(self) -> None:
        """Ends them; the delay, the key and the policy stay."""
        self.throttled = self.errors = self.lost = self.halved = 0
        self.down, self.refused, self.only = False, "", ()

    def enter(self, call: Call) -> None:
        """Raises :class:`RefusedByAws` where a call is turned away."""
        if self.refused:
            raise RefusedByAws(self.refused, "The security token included in the request is not valid", 403)
        key = _KEY.search(call.request.headers.get("authorization", ""))
        if self.key and (key is None or key[1] != self.key):
            raise RefusedByAws("ExpiredTokenException", "The security token included in the request is expired", 403)
        for resource in () if self.policy is None else resources_of(call):
            if not allows(self.policy or {}, call.action, resource):
                said = f"User is not authorized to perform: {call.action} on resource: {resource}"
                raise RefusedByAws("AccessDeniedException", said, 403)
        if self._counted("throttled", call):
            status = _THROTTLING_STATUS.get(call.service, 400)
            raise RefusedByAws("ThrottlingException", "Rate exceeded", status, self.retry_after_s)
        if self._counted("errors", call):
            raise RefusedByAws("InternalFailureException", "An unexpected error has occurred", 500)

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


def allows(policy: Mapping[str, Any], action: str, resource: str) -> bool:
    """Whether a policy allows an action on a resource; conditions are not looked at."""
    return any(
        statement["Effect"] == "Allow"
        and any(_matches(each, action) for each in _listed(statement["Action"]))
        and any(_matches(each, resource) for each in _listed(statement["Resource"]))
        for statement in policy["Statement"]
    )


def _listed(value: str | Sequence[str]) -> Sequence[str]:
    return [value] if isinstance(value, str) else value


def _matches(pattern: str, text: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text) is not None


#: What the name in a path is, by a part of the operation; the first that fits counts.
_KINDS = {"ThingType": "thingtype", "ThingGroup": "thinggroup", "Job": "job", "Publish": "topic", "Thing": "thing"}


def resources_of(call: Call) -> Sequence[str]:
    """The ARNs that a call works on; the right must be had on each (service authorization reference)."""
    document = call.document
    if call.service == "sqs":
        return [f"arn:aws:sqs:{REGION}:{ACCOUNT}:{document['QueueUrl'].rpartition('/')[2]}"]
    if call.service == "kinesis":
        return [f"arn:aws:kinesis:{REGION}:{ACCOUNT}:stream/{document['StreamName']}"]
    if call.service == "firehose":
        return [f"arn:aws:firehose:{REGION}:{ACCOUNT}:deliverystream/{document['DeliveryStreamName']}"]
    if "ThingToThingGroup" in call.operation or "ThingFromThingGroup" in call.operation:
        return [arn("thing", document["thingName"]), arn("thinggroup", document["thingGroupName"])]
    if not call.name:
        return ["*"]
    if call.operation == "ListThingGroupsForThing":
        return [arn("thing", call.name)]
    if call.job:
        thing = arn("thing", call.name)
        return [thing] if call.service == "iot-jobs-data" else [arn("job", call.job), thing]
    kind = next(kind for part, kind in _KINDS.items() if part in call.operation)
    return [arn(kind, call.name), *(document.get("targets", ()) if call.operation == "CreateJob" else ())]
