"""Faults of a simulated AWS on request.

It throttles, is slow, fails, cuts requests and answers, loses answers, rejects credentials, and has another clock.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from attrs import mutable

from fleetcore.testing.hub_faults import HubFaults
from fleetcore_aws.testing.operations import ACCOUNT, REGION, Call, arn
from fleetcore_aws.testing.rules import RefusedByAws

_KEY = re.compile(r"Credential=([^/]+)/")
#: How long a signature is valid, before and after its time (IAM guide, signature version 4), and its format.
_SIGNED_FOR = timedelta(minutes=5)
_STAMP = "%Y%m%dT%H%M%SZ"
#: The same code has a different status per service.
_THROTTLING_STATUS: Mapping[str, int] = {"iot-data": 429}


@mutable
class Faults(HubFaults):
    """Active faults; all off at first.

    Attributes:
        refused: the code with which everything is refused: ``UnrecognizedClientException``, ``ExpiredTokenException``.
        key: the only accepted access key; empty for any.
        policy: an enforced IAM policy; None allows everything.
    """

    refused: str = ""
    key: str = ""
    policy: Mapping[str, Any] | None = None

    def heal(self) -> None:
        """Ends them; the delay, the key and the policy stay."""
        HubFaults.heal(self)
        self.refused = ""

    def enter(self, call: Call) -> None:
        """Raises :class:`RefusedByAws` if a call is refused."""
        self._in_time(call)
        if self.refused:
            raise RefusedByAws(self.refused, "The security token included in the request is not valid", 403)
        key = _KEY.search(call.request.headers.get("authorization", ""))
        if self.key and (key is None or key[1] != self.key):
            raise RefusedByAws("ExpiredTokenException", "The security token included in the request is expired", 403)
        for resource in () if self.policy is None else resources_of(call):
            if not allows(self.policy or {}, call.action, resource):
                said = f"User is not authorized to perform: {call.action} on resource: {resource}"
                raise RefusedByAws("AccessDeniedException", said, 403)
        if self.counted("throttled", call.action):
            status = _THROTTLING_STATUS.get(call.service, 400)
            raise RefusedByAws("ThrottlingException", "Rate exceeded", status, self.retry_after_s)
        if "nextToken" in call.request.query and self.counted("stale", call.action):
            raise RefusedByAws("InvalidRequestException", "The next token is not valid", 400)
        if self.counted("errors", call.action):
            raise RefusedByAws("InternalFailureException", "An unexpected error has occurred", 500)

    @property
    def now(self) -> datetime:
        """Its clock."""
        return datetime.now(UTC) + timedelta(seconds=self.skew_s)

    def _in_time(self, call: Call) -> None:
        signed = call.request.headers.get("x-amz-date", "")
        if not signed:
            return
        now, at = self.now, datetime.strptime(signed, _STAMP).replace(tzinfo=UTC)
        if abs(now - at) <= _SIGNED_FOR:
            return
        bound, sign = (now - _SIGNED_FOR, "-") if at < now else (now + _SIGNED_FOR, "+")
        what = "expired" if at < now else "not yet current"
        how = "now earlier" if at < now else "still later"
        said = f"Signature {what}: {signed} is {how} than {bound:{_STAMP}} ({now:{_STAMP}} {sign} 5 min.)"
        code = "SignatureDoesNotMatch" if call.service == "sqs" else "InvalidSignatureException"
        raise RefusedByAws(code, said, 403)


def allows(policy: Mapping[str, Any], action: str, resource: str) -> bool:
    """Whether a policy allows an action on a resource; ignores conditions."""
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


#: The resource type of the name in a path, by a part of the operation; the first match counts.
_KINDS = {
    "ThingType": "thingtype", "ThingGroup": "thinggroup", "Job": "job", "Publish": "topic", "Thing": "thing",
    "Certificate": "cert", "Policy": "policy",
}  # fmt: skip


def resources_of(call: Call) -> Sequence[str]:
    """The ARNs of a call's resources; each needs the permission (service authorization reference)."""
    document = call.document
    if call.service == "sqs":
        return [f"arn:aws:sqs:{REGION}:{ACCOUNT}:{document['QueueUrl'].rpartition('/')[2]}"]
    if call.service == "kinesis":
        return [f"arn:aws:kinesis:{REGION}:{ACCOUNT}:stream/{document['StreamName']}"]
    if call.service == "firehose":
        return [f"arn:aws:firehose:{REGION}:{ACCOUNT}:deliverystream/{document['DeliveryStreamName']}"]
    if "ThingToThingGroup" in call.operation or "ThingFromThingGroup" in call.operation:
        return [arn("thing", document["thingName"]), arn("thinggroup", document["thingGroupName"])]
    if call.operation in {"AttachThingPrincipal", "DetachThingPrincipal"}:
        return [arn("thing", call.name), call.principal]
    if call.operation in {"AttachPolicy", "DetachPolicy"}:
        return [arn("policy", call.name), document["target"]]
    if not call.name:
        return ["*"]
    if call.operation == "ListThingGroupsForThing":
        return [arn("thing", call.name)]
    if call.job:
        thing = arn("thing", call.name)
        return [thing] if call.service == "iot-jobs-data" else [arn("job", call.job), thing]
    kind = next(kind for part, kind in _KINDS.items() if part in call.operation)
    return [arn(kind, call.name), *(document.get("targets", ()) if call.operation == "CreateJob" else ())]
