"""The AWS operation of a request, and its IAM action."""

import json
import re
from collections.abc import Mapping
from typing import Any

from attrs import frozen

from fleetcore.testing.http1 import Request, unquoted

ACCOUNT, REGION = "123456789012", "us-east-1"

#: Method and path → operation; parts in braces are names. From the service models of the SDK.
_ROUTES: Mapping[tuple[str, str], str] = {
    ("GET", "/things"): "ListThings",
    ("POST", "/things/{name}"): "CreateThing",
    ("GET", "/things/{name}"): "DescribeThing",
    ("PATCH", "/things/{name}"): "UpdateThing",
    ("DELETE", "/things/{name}"): "DeleteThing",
    ("GET", "/things/{name}/thing-groups"): "ListThingGroupsForThing",
    ("GET", "/things/{name}/principals"): "ListThingPrincipals",
    ("PUT", "/things/{name}/principals"): "AttachThingPrincipal",
    ("DELETE", "/things/{name}/principals"): "DetachThingPrincipal",
    ("POST", "/certificate/register-no-ca"): "RegisterCertificateWithoutCA",
    ("GET", "/certificates/{name}"): "DescribeCertificate",
    ("PUT", "/certificates/{name}"): "UpdateCertificate",
    ("DELETE", "/certificates/{name}"): "DeleteCertificate",
    ("POST", "/policies/{name}"): "CreatePolicy",
    ("PUT", "/target-policies/{name}"): "AttachPolicy",
    ("POST", "/target-policies/{name}"): "DetachPolicy",
    ("POST", "/thing-types/{name}"): "CreateThingType",
    ("GET", "/thing-groups"): "ListThingGroups",
    ("PUT", "/thing-groups/addThingToThingGroup"): "AddThingToThingGroup",
    ("PUT", "/thing-groups/removeThingFromThingGroup"): "RemoveThingFromThingGroup",
    ("POST", "/thing-groups/{name}"): "CreateThingGroup",
    ("GET", "/thing-groups/{name}"): "DescribeThingGroup",
    ("PATCH", "/thing-groups/{name}"): "UpdateThingGroup",
    ("DELETE", "/thing-groups/{name}"): "DeleteThingGroup",
    ("GET", "/thing-groups/{name}/things"): "ListThingsInThingGroup",
    ("GET", "/jobs"): "ListJobs",
    ("PUT", "/jobs/{name}"): "CreateJob",
    ("GET", "/jobs/{name}"): "DescribeJob",
    ("PATCH", "/jobs/{name}"): "UpdateJob",
    ("DELETE", "/jobs/{name}"): "DeleteJob",
    ("PUT", "/jobs/{name}/cancel"): "CancelJob",
    ("GET", "/jobs/{name}/job-document"): "GetJobDocument",
    ("GET", "/things/{name}/jobs/{job}"): "DescribeJobExecution",
    ("POST", "/things/{name}/jobs/{job}"): "UpdateJobExecution",
    ("PUT", "/things/{name}/jobs/{job}/cancel"): "CancelJobExecution",
    ("GET", "/endpoint"): "DescribeEndpoint",
    ("GET", "/things/{name}/shadow"): "GetThingShadow",
    ("POST", "/things/{name}/shadow"): "UpdateThingShadow",
    ("DELETE", "/things/{name}/shadow"): "DeleteThingShadow",
    ("GET", "/api/things/shadow/ListNamedShadowsForThing/{name}"): "ListNamedShadowsForThing",
    ("POST", "/topics/{name}"): "Publish",
}
_PLAIN = {route: operation for route, operation in _ROUTES.items() if "{" not in route[1]}
_NAMED = [
    (method, re.compile(re.sub(r"\\{(name|job)\\}", "(?P<\\1>[^/]+)", re.escape(path))), operation)
    for (method, path), operation in _ROUTES.items()
    if "{" in path
]
_DATA = {"GetThingShadow", "UpdateThingShadow", "DeleteThingShadow", "ListNamedShadowsForThing", "Publish"}
#: Prefix of the IAM action of services, if it is not the service.
_PREFIXES = {"iot-data": "iot", "iot-jobs-data": "iotjobsdata"}
_TARGETS = {"AmazonSQS": "sqs", "Kinesis_20131202": "kinesis", "Firehose_20150804": "firehose"}
_SINGLE = {"SendMessageBatch": "SendMessage", "DeleteMessageBatch": "DeleteMessage"}
_SINGLE |= {"ChangeMessageVisibilityBatch": "ChangeMessageVisibility"}


def arn(kind: str, name: str) -> str:
    """The ARN of an AWS IoT resource."""
    return f"arn:aws:iot:{REGION}:{ACCOUNT}:{kind}/{name}"


@frozen(kw_only=True)
class Call:
    """A requested operation.

    Attributes:
        service: ``iot``, ``iot-data``, ``iot-jobs-data``, ``sqs``, ``kinesis`` or ``firehose``.
        name: the thing, group, certificate, policy, job or topic in its path.
        job: the job behind a thing in its path, whose execution is addressed.
        document: the body as JSON; empty if it is missing or unreadable.
    """

    service: str
    operation: str
    name: str
    document: Mapping[str, Any]
    request: Request
    job: str = ""

    @property
    def principal(self) -> str:
        """The ARN that a thing is attached to."""
        return self.request.headers.get("x-amzn-principal", "")

    @property
    def action(self) -> str:
        """The IAM action that it needs."""
        return f"{_PREFIXES.get(self.service, self.service)}:{_SINGLE.get(self.operation, self.operation)}"


def call_of(request: Request) -> Call | None:
    """The operation of a request; None for an unknown one."""
    target = request.headers.get("x-amz-target", "")
    if target:
        service, _, operation = target.partition(".")
        if service not in _TARGETS:
            return None
        return _call(_TARGETS[service], operation, "", request)
    operation_ = _PLAIN.get((request.method, request.path))
    if operation_ is not None:
        return _call("iot", operation_, "", request)
    for method, pattern, named in _NAMED:
        if method == request.method and (found := pattern.fullmatch(request.path)):
            names = {group: unquoted(part) for group, part in found.groupdict().items()}
            service = "iot-data" if named in _DATA else "iot-jobs-data" if named == "UpdateJobExecution" else "iot"
            return _call(service, named, names["name"], request, names.get("job", ""))
    return None


def _call(service: str, operation: str, name: str, request: Request, job: str = "") -> Call:
    try:
        document = json.loads(request.body) if request.body else {}
    except ValueError:
        document = {}
    return Call(
        service=service,
        operation=operation,
        name=name,
        document=document if isinstance(document, dict) else {},
        request=request,
        job=job,
    )
