"""The actions that this connector may call: rate, resource and purpose, in one table.

Rate limits (an action is a class of calls), the printed policy and findings use it.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from attrs import frozen

from fleetcore.interfaces.cloud import CloudUse
from fleetcore.model.mirror import Facet
from fleetcore_aws.config import AwsConfig

Resource = Literal[
    "*", "thing", "type", "group", "cert", "policy", "job", "topic", "stream", "delivery", "queue", "commands"
]

#: Sources of the rates. They are defaults per region and account; some regions have lower ones, and most can be raised:
#: then set ``[clouds.NAME.rates]``. Calls for shadows share 400 in the smallest regions. The rates of certificates and
#: policies are written from memory of that page, those of principals were looked up.
SOURCES: Mapping[str, str] = {
    "iot": "https://docs.aws.amazon.com/general/latest/gr/iot-core.html",
    "jobs": "https://docs.aws.amazon.com/general/latest/gr/iot_device_management.html",
    "kinesis": "https://docs.aws.amazon.com/streams/latest/dev/service-sizes-and-limits.html",
    "firehose": "https://docs.aws.amazon.com/firehose/latest/dev/limits.html",
    "sqs": "https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html",
}


@frozen
class Action:
    """One action.

    Attributes:
        rate: calls a second; 0 if AWS has no relevant limit.
        on: its resource in a policy.
        why: its purpose.
    """

    rate: float
    on: tuple[Resource, ...]
    why: str


ACTIONS: Mapping[str, Action] = {
    "iot:CreateThing": Action(100, ("thing",), "creates the thing of a device"),
    "iot:DescribeThing": Action(350, ("thing",), "reads a thing, its version and its mark"),
    "iot:UpdateThing": Action(100, ("thing",), "writes a thing's attributes"),
    "iot:DeleteThing": Action(100, ("thing",), "removes the thing of a deleted device"),
    "iot:ListThings": Action(10, ("*",), "finds the things of this fleet"),
    "iot:CreateThingType": Action(15, ("type",), "creates a thing type for its first device"),
    "iot:GetThingShadow": Action(180, ("thing",), "reads a twin, and registration data that does not fit attributes"),
    "iot:UpdateThingShadow": Action(
        160, ("thing",), "writes a twin, and registration data that does not fit attributes"
    ),
    "iot:DeleteThingShadow": Action(
        40, ("thing",), "removes a twin, and registration data that does not fit attributes"
    ),
    "iot:ListNamedShadowsForThing": Action(20, ("thing",), "finds the twins of this fleet"),
    "iot:CreateThingGroup": Action(25, ("group",), "makes a group"),
    "iot:DescribeThingGroup": Action(100, ("group",), "reads a group, its version and its mark"),
    "iot:UpdateThingGroup": Action(15, ("group",), "writes a group"),
    "iot:DeleteThingGroup": Action(15, ("group",), "removes a deleted group"),
    "iot:ListThingGroups": Action(10, ("*",), "finds the groups of this fleet"),
    "iot:AddThingToThingGroup": Action(100, ("thing", "group"), "puts a device into its groups"),
    "iot:RemoveThingFromThingGroup": Action(100, ("thing", "group"), "takes a device out of groups"),
    "iot:ListThingsInThingGroup": Action(100, ("group",), "reads the members of an imported group"),
    "iot:ListThingGroupsForThing": Action(100, ("thing",), "reads the groups of a device"),
    "iot:RegisterCertificateWithoutCA": Action(10, ("*",), "registers a device's certificate"),
    "iot:DescribeCertificate": Action(10, ("cert",), "reads whether a certificate is active"),
    "iot:UpdateCertificate": Action(10, ("cert",), "activates and deactivates a certificate"),
    "iot:DeleteCertificate": Action(10, ("cert",), "removes a deactivated certificate"),
    "iot:AttachThingPrincipal": Action(100, ("thing", "cert"), "attaches a certificate to its device's thing"),
    "iot:DetachThingPrincipal": Action(100, ("thing", "cert"), "detaches a deactivated certificate"),
    "iot:ListThingPrincipals": Action(10, ("thing",), "reads which certificates are attached to a thing"),
    "iot:AttachPolicy": Action(15, ("policy", "cert"), "attaches the policy to a certificate"),
    "iot:DetachPolicy": Action(15, ("policy", "cert"), "detaches the policy from a certificate before its removal"),
    "iot:CreateJob": Action(10, ("job", "thing"), "creates the job of a device's part of a campaign"),
    "iot:DescribeJob": Action(10, ("job",), "reads a job's state"),
    "iot:GetJobDocument": Action(10, ("job",), "reads a job's document and mark"),
    "iot:UpdateJob": Action(10, ("job",), "writes a job's state"),
    "iot:CancelJob": Action(10, ("job",), "ends the job of a deleted part"),
    "iot:DeleteJob": Action(10, ("job",), "removes the job of a deleted part"),
    "iot:DescribeJobExecution": Action(10, ("job", "thing"), "reads the execution of a job"),
    "iot:CancelJobExecution": Action(10, ("job", "thing"), "ends the execution of a cancelled part"),
    "iotjobsdata:UpdateJobExecution": Action(200, ("thing",), "moves the execution of a job with its part"),
    "iot:ListJobs": Action(10, ("*",), "finds the jobs of this fleet"),
    "iot:Publish": Action(2000, ("topic",), "sends readings"),
    "iot:DescribeEndpoint": Action(10, ("*",), "reads the endpoints of shadows, messages and job executions"),
    "kinesis:PutRecords": Action(0, ("stream",), "sends readings"),
    "firehose:PutRecordBatch": Action(1000, ("delivery",), "sends readings"),
    "sqs:SendMessage": Action(300, ("queue",), "sends readings"),
    "sqs:ReceiveMessage": Action(0, ("commands",), "takes commands and changes from the queue"),
    "sqs:DeleteMessage": Action(0, ("commands",), "deletes messages from the queue that the fleet has stored"),
    "sqs:ChangeMessageVisibility": Action(0, ("commands",), "returns messages that the fleet has not stored"),
    "sqs:GetQueueAttributes": Action(0, ("commands",), "checks whether the queue exists"),
}

RATES: Mapping[str, float] = {name: action.rate for name, action in ACTIONS.items() if action.rate}

#: The actions for sending readings, by ``telemetry.via``.
SENDING: Mapping[str, str] = {
    "iot-data": "iot:Publish",
    "kinesis": "kinesis:PutRecords",
    "firehose": "firehose:PutRecordBatch",
    "sqs": "sqs:SendMessage",
}

_MARKED = ("iot:DescribeThing", "iot:ListThings")
#: facet → the actions to read it, the further ones to write it, and the further ones to remove it.
_FACETS: Mapping[Facet, tuple[Sequence[str], Sequence[str], Sequence[str]]] = {
    "registry": (
        (*_MARKED, "iot:GetThingShadow"),
        ("iot:CreateThing", "iot:UpdateThing", "iot:CreateThingType", "iot:UpdateThingShadow", "iot:DeleteThingShadow"),
        ("iot:DeleteThing",),
    ),
    "certificate": (
        (*_MARKED, "iot:GetThingShadow", "iot:ListThingPrincipals", "iot:DescribeCertificate"),
        (
            "iot:UpdateThingShadow",
            "iot:DeleteThingShadow",
            "iot:RegisterCertificateWithoutCA",
            "iot:UpdateCertificate",
            "iot:AttachThingPrincipal",
            "iot:DetachThingPrincipal",
            "iot:AttachPolicy",
        ),
        ("iot:DetachPolicy", "iot:DeleteCertificate"),
    ),
    "twin": (
        ("iot:ListThings", "iot:GetThingShadow", "iot:ListNamedShadowsForThing"),
        ("iot:UpdateThingShadow",),
        ("iot:DeleteThingShadow",),
    ),
    "group": (
        ("iot:DescribeThingGroup", "iot:ListThingGroups"),
        ("iot:CreateThingGroup", "iot:UpdateThingGroup"),
        ("iot:DeleteThingGroup",),
    ),
    "job": (
        ("iot:DescribeThing", "iot:DescribeJob", "iot:GetJobDocument", "iot:DescribeJobExecution", "iot:ListJobs"),
        ("iot:CreateJob", "iot:UpdateJob", "iot:CancelJobExecution", "iotjobsdata:UpdateJobExecution"),
        ("iot:CancelJob", "iot:DeleteJob"),
    ),
}
_WITH_POLICY = frozenset({"iot:AttachPolicy", "iot:DetachPolicy"})
_MEMBERSHIP = ("iot:AddThingToThingGroup", "iot:RemoveThingFromThingGroup", "iot:ListThingGroupsForThing")
_COMMANDS = (
    "sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility", "sqs:GetQueueAttributes",
)  # fmt: skip


def needed(use: CloudUse, config: AwsConfig) -> Sequence[str]:
    """The actions that a mirror with this use and configuration calls, in the table's order."""
    found: set[str] = set()
    for facet in use.sends | use.reads:
        read, written, removed = _FACETS[facet]
        found.update(read)
        if facet in use.sends:
            found.update(written)
            if use.deletes:
                found.update(removed)
    if config.certificate_policy is None:
        found -= _WITH_POLICY
    if {"registry", "group"} <= use.sends:
        found.update(_MEMBERSHIP)
    if use.imports and "group" in use.sends:
        found.add("iot:ListThingsInThingGroup")
    if use.readings:
        found.add(SENDING[config.telemetry.via])
    if config.commands_queue is not None and (use.commands or use.reads):
        found.update(_COMMANDS)
    by_data = config.data_endpoint is None and any(_by_data(name) for name in found)
    by_jobs = config.jobs_endpoint is None and "iotjobsdata:UpdateJobExecution" in found
    if config.endpoint is None and (by_data or by_jobs):
        found.add("iot:DescribeEndpoint")
    return [name for name in ACTIONS if name in found]


def _by_data(action: str) -> bool:
    return action == "iot:Publish" or "Shadow" in action
