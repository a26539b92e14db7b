"""AWS IoT in memory, with its queues and streams: operations on a state, each all or nothing.

Fast enough to simulate AWS at scale: an operation is a few lookups. Versions behave as in the services: a shadow's
continues after its removal, and creating an existing, equal thing changes nothing.
"""

import itertools
import json
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attrs import field, mutable

from fleetcore_aws.testing.executions import Executions
from fleetcore_aws.testing.operations import Call, arn
from fleetcore_aws.testing.rules import (
    RefusedByAws,
    certificate_id,
    check,
    invalid,
    large,
    missing,
    without_nulls,
)

Body = Mapping[str, Any] | bytes


@mutable(kw_only=True)
class Thing:
    """A thing."""

    type: str | None
    attributes: dict[str, str]
    version: int = 1


@mutable(kw_only=True)
class Group:
    """A thing group."""

    properties: dict[str, Any]
    version: int = 1
    things: set[str] = field(factory=set)


@mutable(kw_only=True)
class Shadow:
    """A named shadow; ``state`` is None after its removal, and its version continues."""

    state: dict[str, Any] | None
    version: int


@mutable(kw_only=True)
class Certificate:
    """A registered certificate, its things, and its policies."""

    pem: str
    status: str
    things: set[str] = field(factory=set)
    policies: set[str] = field(factory=set)


@mutable(kw_only=True)
class Message:
    """A message of a queue; hidden until a time while a consumer has it."""

    id: str
    body: str
    sent_ms: int = 0
    hidden_s: float = 0.0
    receipt: str = ""


def _merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(old)
    for key, value in new.items():
        before = result.get(key)
        result[key] = _merged(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return result


class Hub:
    """See the module.

    Attributes:
        shadows: by thing, then by name.
        detaching: how often a detached principal is still listed: AWS takes its time.
        queues: messages by the URL's last part; created at first use.
    """

    def __init__(self) -> None:
        self.things: dict[str, Thing] = {}
        self.types: set[str] = set()
        self.groups: dict[str, Group] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.executions = Executions()
        self.shadows: dict[str, dict[str, Shadow]] = {}
        self.certificates: dict[str, Certificate] = {}
        self.policies: set[str] = set()
        self.detaching = 0
        self._detached: dict[str, set[str]] = {}
        self.queues: dict[str, deque[Message]] = {}
        self._number = itertools.count(1)
        self._operations: Mapping[str, Callable[[Call], Body]] = {
            name.removeprefix("do_"): getattr(self, name) for name in dir(self) if name.startswith("do_")
        }

    def do(self, call: Call) -> Body:
        """Executes an operation. Raises :class:`RefusedByAws`."""
        check(call)
        operation = self._operations.get(call.operation)
        if operation is None:
            raise RefusedByAws("UnknownOperationException", call.operation, 404)
        return operation(call)

    # -- things -----------------------------------------------------------------------------------------------------

    def _thing(self, name: str) -> Thing:
        if name not in self.things:
            raise missing(f"Thing {name} not found")
        return self.things[name]

    def do_CreateThing(self, call: Call) -> Body:  # noqa: N802 - the operation's name
        document = call.document
        thing_type = document.get("thingTypeName")
        attributes = {k: v for k, v in document.get("attributePayload", {}).get("attributes", {}).items() if v}
        if thing_type is not None and thing_type not in self.types:
            raise missing(f"ThingType {thing_type} not found")
        there = self.things.get(call.name)
        if there is None:
            self.things[call.name] = Thing(type=thing_type, attributes=attributes)
        elif (there.type, there.attributes) != (thing_type, attributes):
            raise RefusedByAws("ResourceAlreadyExistsException", f"Thing {call.name} already exists", 409)
        return {"thingName": call.name, "thingArn": arn("thing", call.name), "thingId": call.name}

    def do_DescribeThing(self, call: Call) -> Body:  # noqa: N802
        thing = self._thing(call.name)
        answer = {
            "thingName": call.name,
            "thingArn": arn("thing", call.name),
            "attributes": thing.attributes,
            "version": thing.version,
        }
        return answer if thing.type is None else {**answer, "thingTypeName": thing.type}

    def do_UpdateThing(self, call: Call) -> Body:  # noqa: N802
        thing, document = self._thing(call.name), call.document
        _expected(document.get("expectedVersion"), thing.version)
        payload = document.get("attributePayload")
        attributes = thing.attributes
        if payload is not None:
            old = attributes if payload.get("merge") else {}
            attributes = {k: v for k, v in {**old, **payload.get("attributes", {})}.items() if v}
        thing_type = None if document.get("removeThingType") else document.get("thingTypeName", thing.type)
        if thing_type is not None and thing_type not in self.types:
            raise missing(f"ThingType {thing_type} not found")
        if len(attributes) > (3 if thing_type is None else 50):
            raise invalid(f"{len(attributes)} attributes are too many")
        thing.attributes, thing.type = attributes, thing_type
        thing.version += 1
        return {}

    def do_DeleteThing(self, call: Call) -> Body:  # noqa: N802
        there = self.things.get(call.name)
        if there is not None:
            _expected(_int(call.request.query.get("expectedVersion")), there.version)
            if any(call.name in each.things for each in self.certificates.values()):
                raise invalid(f"Cannot delete. Thing {call.name} is still attached to one or more principals")
            del self.things[call.name]
            for group in self.groups.values():
                group.things.discard(call.name)
            self.executions.thing_gone(call.name)
        return {}

    def do_ListThings(self, call: Call) -> Body:  # noqa: N802
        query = call.request.query
        name, value = query.get("attributeName"), query.get("attributeValue")
        found = [each for each, thing in self.things.items() if name is None or thing.attributes.get(name) == value]
        page, after = _page(found, query.get("nextToken"), int(query.get("maxResults", "25")))
        listed = [self._listed(each) for each in page]
        return {"things": listed, **after}

    def _listed(self, name: str) -> Mapping[str, Any]:
        thing = self.things[name]
        of_type = {} if thing.type is None else {"thingTypeName": thing.type}
        return {"thingName": name, "attributes": thing.attributes, "version": thing.version, **of_type}

    def do_ListThingsInThingGroup(self, call: Call) -> Body:  # noqa: N802
        query = call.request.query
        found = sorted(self._group(call.name).things)
        page, after = _page(found, query.get("nextToken"), int(query.get("maxResults", "25")))
        return {"things": page, **after}

    def do_CreateThingType(self, call: Call) -> Body:  # noqa: N802
        self.types.add(call.name)
        return {"thingTypeName": call.name, "thingTypeArn": arn("thingtype", call.name)}

    def do_DescribeEndpoint(self, call: Call) -> Body:  # noqa: N802
        del call
        return {"endpointAddress": "counterpart.invalid"}

    # -- certificates -----------------------------------------------------------------------------------------------

    def _certificate(self, name: str) -> Certificate:
        """By its id or ARN."""
        name = name.rpartition("/")[2]
        if name not in self.certificates:
            raise missing(f"Certificate {name} not found")
        return self.certificates[name]

    def do_RegisterCertificateWithoutCA(self, call: Call) -> Body:  # noqa: N802
        pem = call.document["certificatePem"]
        name = certificate_id(pem)
        if name in self.certificates:
            raise RefusedByAws("ResourceAlreadyExistsException", "The certificate is already registered", 409)
        self.certificates[name] = Certificate(pem=pem, status=call.document.get("status", "INACTIVE"))
        return {"certificateId": name, "certificateArn": arn("cert", name)}

    def do_DescribeCertificate(self, call: Call) -> Body:  # noqa: N802
        there = self._certificate(call.name)
        described = {"certificateId": call.name, "certificateArn": arn("cert", call.name), "status": there.status}
        return {"certificateDescription": {**described, "certificatePem": there.pem}}

    def do_UpdateCertificate(self, call: Call) -> Body:  # noqa: N802
        self._certificate(call.name).status = call.request.query["newStatus"]
        return {}

    def do_DeleteCertificate(self, call: Call) -> Body:  # noqa: N802
        there = self._certificate(call.name)
        if there.status == "ACTIVE":
            raise RefusedByAws("CertificateStateException", "Certificate must be deactivated before deletion", 406)
        if there.things:
            raise RefusedByAws("DeleteConflictException", "Things must be detached before deletion", 409)
        if there.policies and call.request.query.get("forceDelete") != "true":
            raise RefusedByAws("DeleteConflictException", "Certificate policies must be detached before deletion", 409)
        del self.certificates[call.name]
        return {}

    def do_AttachThingPrincipal(self, call: Call) -> Body:  # noqa: N802
        self._thing(call.name)
        self._certificate(call.principal).things.add(call.name)
        return {}

    def do_DetachThingPrincipal(self, call: Call) -> Body:  # noqa: N802
        self._thing(call.name)
        there = self._certificate(call.principal)
        if call.name not in there.things:
            raise missing(f"{call.principal} is not attached to {call.name}")
        there.things.discard(call.name)
        self._detached.setdefault(call.name, set()).add(call.principal)
        return {}

    def do_ListThingPrincipals(self, call: Call) -> Body:  # noqa: N802
        self._thing(call.name)
        found = [arn("cert", name) for name, each in self.certificates.items() if call.name in each.things]
        if self.detaching:
            self.detaching -= 1
            found += self._detached.get(call.name, ())
        page, after = _page(found, call.request.query.get("nextToken"), int(call.request.query.get("maxResults", "25")))
        return {"principals": page, **after}

    def do_CreatePolicy(self, call: Call) -> Body:  # noqa: N802
        self.policies.add(call.name)
        return {"policyName": call.name, "policyArn": arn("policy", call.name)}

    def do_AttachPolicy(self, call: Call) -> Body:  # noqa: N802
        if call.name not in self.policies:
            raise missing(f"Policy {call.name} not found")
        self._certificate(call.document["target"]).policies.add(call.name)
        return {}

    def do_DetachPolicy(self, call: Call) -> Body:  # noqa: N802
        self._certificate(call.document["target"]).policies.discard(call.name)
        return {}

    # -- groups -----------------------------------------------------------------------------------------------------

    def _group(self, name: str) -> Group:
        if name not in self.groups:
            raise missing(f"Thing group {name} not found")
        return self.groups[name]

    def do_CreateThingGroup(self, call: Call) -> Body:  # noqa: N802
        properties = dict(call.document.get("thingGroupProperties", {}))
        there = self.groups.get(call.name)
        if there is None:
            self.groups[call.name] = Group(properties=properties)
        elif there.properties != properties:
            raise RefusedByAws("ResourceAlreadyExistsException", f"Thing group {call.name} already exists", 409)
        return {"thingGroupName": call.name, "thingGroupArn": arn("thinggroup", call.name), "thingGroupId": call.name}

    def do_DescribeThingGroup(self, call: Call) -> Body:  # noqa: N802
        group = self._group(call.name)
        return {"thingGroupName": call.name, "version": group.version, "thingGroupProperties": group.properties}

    def do_UpdateThingGroup(self, call: Call) -> Body:  # noqa: N802
        group = self._group(call.name)
        _expected(call.document.get("expectedVersion"), group.version)
        group.properties = {**group.properties, **call.document.get("thingGroupProperties", {})}
        group.version += 1
        return {"version": group.version}

    def do_DeleteThingGroup(self, call: Call) -> Body:  # noqa: N802
        there = self.groups.get(call.name)
        if there is not None:
            _expected(_int(call.request.query.get("expectedVersion")), there.version)
            del self.groups[call.name]
        return {}

    def do_ListThingGroups(self, call: Call) -> Body:  # noqa: N802
        query = call.request.query
        found = [name for name in self.groups if name.startswith(query.get("namePrefixFilter", ""))]
        page, after = _page(found, query.get("nextToken"), int(query.get("maxResults", "25")))
        return {"thingGroups": [{"groupName": each, "groupArn": arn("thinggroup", each)} for each in page], **after}

    def do_AddThingToThingGroup(self, call: Call) -> Body:  # noqa: N802
        name, group = call.document["thingName"], self._group(call.document["thingGroupName"])
        self._thing(name)
        if name not in group.things and sum(name in each.things for each in self.groups.values()) >= 10:
            raise invalid(f"Thing {name} is in 10 groups")
        group.things.add(name)
        return {}

    def do_RemoveThingFromThingGroup(self, call: Call) -> Body:  # noqa: N802
        self._group(call.document["thingGroupName"]).things.discard(call.document["thingName"])
        return {}

    def do_ListThingGroupsForThing(self, call: Call) -> Body:  # noqa: N802
        self._thing(call.name)
        found = [name for name, group in self.groups.items() if call.name in group.things]
        return {"thingGroups": [{"groupName": each, "groupArn": arn("thinggroup", each)} for each in found]}

    # -- shadows ----------------------------------------------------------------------------------------------------

    def do_GetThingShadow(self, call: Call) -> Body:  # noqa: N802
        shadow = self.shadows.get(call.name, {}).get(call.request.query.get("name", ""))
        if shadow is None or shadow.state is None:
            raise missing(f"No shadow exists with name: {call.name}")
        return json.dumps({"state": shadow.state, "version": shadow.version, "timestamp": 0}).encode()

    def do_UpdateThingShadow(self, call: Call) -> Body:  # noqa: N802
        self._thing(call.name)
        named = self.shadows.setdefault(call.name, {})
        name, document = call.request.query.get("name", ""), call.document
        there = named.get(name)
        if "version" in document and (there is None or there.version != document["version"]):
            raise RefusedByAws("ConflictException", "Version conflict", 409)
        state = without_nulls(_merged((there.state if there else None) or {}, document["state"]))
        large(state)
        version = 1 if there is None else there.version + 1
        named[name] = Shadow(state=state, version=version)
        return json.dumps({"state": document["state"], "version": version, "timestamp": 0}).encode()

    def do_DeleteThingShadow(self, call: Call) -> Body:  # noqa: N802
        there = self.shadows.get(call.name, {}).get(call.request.query.get("name", ""))
        if there is None or there.state is None:
            raise missing(f"No shadow exists with name: {call.name}")
        there.state, there.version = None, there.version + 1
        return json.dumps({"version": there.version, "timestamp": 0}).encode()

    def do_ListNamedShadowsForThing(self, call: Call) -> Body:  # noqa: N802
        named = self.shadows.get(call.name, {})
        return {"results": [name for name, each in named.items() if name and each.state is not None], "timestamp": 0}

    def do_Publish(self, call: Call) -> Body:  # noqa: N802
        del call
        return {}

    # -- jobs -------------------------------------------------------------------------------------------------------

    def _job(self, name: str) -> dict[str, Any]:
        if name not in self.jobs:
            raise missing(f"Job {name} not found")
        job = self.jobs[name]
        if job["status"] == "IN_PROGRESS" and self.executions.all_over(name):
            job["status"] = "COMPLETED"
        return job

    def do_CreateJob(self, call: Call) -> Body:  # noqa: N802
        if call.name in self.jobs:
            raise RefusedByAws("ResourceAlreadyExistsException", f"Job {call.name} already exists", 409)
        for target in call.document["targets"]:
            self._thing(target.rpartition("/")[2])
        self.jobs[call.name] = {**call.document, "status": "IN_PROGRESS"}
        self.executions.make(call.name, call.document["targets"])
        return {"jobId": call.name, "jobArn": arn("job", call.name)}

    def do_DescribeJob(self, call: Call) -> Body:  # noqa: N802
        job = self._job(call.name)
        shown = {name: job[name] for name in ("description", "targets", "status", "targetSelection") if name in job}
        return {"job": {"jobId": call.name, "jobArn": arn("job", call.name), **shown}}

    def do_GetJobDocument(self, call: Call) -> Body:  # noqa: N802
        return {"document": self._job(call.name)["document"]}

    def do_UpdateJob(self, call: Call) -> Body:  # noqa: N802
        self._job(call.name).update(call.document)
        return {}

    def do_CancelJob(self, call: Call) -> Body:  # noqa: N802
        job = self._job(call.name)
        if job["status"] != "IN_PROGRESS":
            raise invalid(f"Job {call.name} is {job['status']}")
        job["status"] = "CANCELED"
        self.executions.cancel_all(call.name, force=call.request.query.get("force") == "true")
        return {"jobId": call.name, "jobArn": arn("job", call.name)}

    def do_DeleteJob(self, call: Call) -> Body:  # noqa: N802
        if self._job(call.name)["status"] == "IN_PROGRESS" and call.request.query.get("force") != "true":
            raise RefusedByAws("InvalidStateTransitionException", "The job is in progress", 409)
        del self.jobs[call.name]
        self.executions.forget(call.name)
        return {}

    def do_ListJobs(self, call: Call) -> Body:  # noqa: N802
        query = call.request.query
        page, after = _page(list(self.jobs), query.get("nextToken"), int(query.get("maxResults", "25")))
        return {"jobs": [{"jobId": each, "status": self._job(each)["status"]} for each in page], **after}

    def do_DescribeJobExecution(self, call: Call) -> Body:  # noqa: N802
        return self.executions.do(call)

    do_UpdateJobExecution = do_CancelJobExecution = do_DescribeJobExecution  # noqa: N815

    # -- queues and streams -----------------------------------------------------------------------------------------

    def _queue(self, call: Call) -> deque[Message]:
        return self.queues.setdefault(call.document["QueueUrl"].rpartition("/")[2], deque())

    def visible(self, queue: str) -> bool:
        """Whether a queue has a visible message."""
        now_s = time.monotonic()
        return any(message.hidden_s <= now_s for message in self.queues.get(queue, ()))

    def do_SendMessage(self, call: Call) -> Body:  # noqa: N802
        message = Message(
            id=str(uuid.UUID(int=next(self._number))),
            body=call.document["MessageBody"],
            sent_ms=int(time.time() * 1000),
        )
        self._queue(call).append(message)
        return {"MessageId": message.id, "MD5OfMessageBody": ""}

    def do_SendMessageBatch(self, call: Call) -> Body:  # noqa: N802
        entries = call.document["Entries"]
        if len(entries) > 10:
            raise RefusedByAws("AWS.SimpleQueueService.TooManyEntriesInBatchRequest", "more than 10 entries")
        queue, sent = self._queue(call), []
        for entry in entries:
            message = Message(
                id=str(uuid.UUID(int=next(self._number))), body=entry["MessageBody"], sent_ms=int(time.time() * 1000)
            )
            queue.append(message)
            sent.append({"Id": entry["Id"], "MessageId": message.id, "MD5OfMessageBody": ""})
        return {"Successful": sent, "Failed": []}

    def do_ReceiveMessage(self, call: Call) -> Body:  # noqa: N802
        now_s = time.monotonic()
        found: list[dict[str, object]] = []
        for message in self._queue(call):
            if message.hidden_s <= now_s and len(found) < call.document.get("MaxNumberOfMessages", 1):
                message.hidden_s = now_s + call.document.get("VisibilityTimeout", 30)
                message.receipt = f"{message.id}-{next(self._number)}"
                attributes = {"SentTimestamp": str(message.sent_ms)}
                wanted = {name: attributes[name] for name in call.document.get("AttributeNames", ())}
                found.append(
                    {
                        "MessageId": message.id,
                        "ReceiptHandle": message.receipt,
                        "Body": message.body,
                        "Attributes": wanted,
                    }
                )
        return {"Messages": found} if found else {}

    def do_DeleteMessageBatch(self, call: Call) -> Body:  # noqa: N802
        queue, entries = self._queue(call), call.document["Entries"]
        gone = {entry["ReceiptHandle"] for entry in entries}
        kept = [message for message in queue if message.receipt not in gone]
        queue.clear()
        queue.extend(kept)
        return {"Successful": [{"Id": entry["Id"]} for entry in entries], "Failed": []}

    def do_ChangeMessageVisibilityBatch(self, call: Call) -> Body:  # noqa: N802
        until = {
            each["ReceiptHandle"]: time.monotonic() + each["VisibilityTimeout"] for each in call.document["Entries"]
        }
        for message in self._queue(call):
            message.hidden_s = until.get(message.receipt, message.hidden_s)
        return {"Successful": [{"Id": entry["Id"]} for entry in call.document["Entries"]], "Failed": []}

    def do_GetQueueAttributes(self, call: Call) -> Body:  # noqa: N802
        return {"Attributes": {"ApproximateNumberOfMessages": str(len(self._queue(call)))}}

    def do_PutRecords(self, call: Call) -> Body:  # noqa: N802
        return {
            "FailedRecordCount": 0,
            "Records": [{"SequenceNumber": "1", "ShardId": "0"} for _ in call.document["Records"]],
        }

    def do_PutRecordBatch(self, call: Call) -> Body:  # noqa: N802
        return {"FailedPutCount": 0, "RequestResponses": [{"RecordId": "1"} for _ in call.document["Records"]]}


def _expected(expected: int | None, version: int) -> None:
    if expected is not None and expected != version:
        raise RefusedByAws("VersionConflictException", f"The version is {version}, not {expected}", 409)


def _int(text: str | None) -> int | None:
    return None if text is None else int(text)


def _page(names: Sequence[str], token: str | None, most: int) -> tuple[Sequence[str], Mapping[str, str]]:
    start = int(token or "0")
    end = start + most
    return names[start:end], {"nextToken": str(end)} if end < len(names) else {}
