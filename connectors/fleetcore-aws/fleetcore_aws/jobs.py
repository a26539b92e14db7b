"""A device's part of a campaign as a job with one target, whose execution follows the part.

Constant members are in the job's document, which also contains the fleet and our id. Changing members are in the status
details of the execution (:mod:`.executions`), because AWS compares their version: one call per change, without a read
before. A detail cannot be written while the execution is queued or after it is final; then the job's description has
the changing members, and after the end it says so (``since``, the version of the execution). The description has no
version: a change of it between our read and write is not noticed.
"""

import hashlib
import json
import re
from collections.abc import AsyncIterator, Mapping
from typing import cast

from attrs import evolve, frozen

from fleetcore.interfaces.cloud import Fitted, MirrorItem, MirrorResult
from fleetcore.model.firmware import ExecutionState
from fleetcore.model.mirror import EntityKey, JobBody, Loss
from fleetcore.wire.records import from_plain, to_plain
from fleetcore_aws import answers
from fleetcore_aws.clients import Clients
from fleetcore_aws.executions import (
    CHANGING,
    MAX_DETAIL_LENGTH,
    STATUS,
    Execution,
    Executions,
    clean,
    details,
    members,
    read_back,
    stands_for,
)
from fleetcore_aws.failures import CallFailed
from fleetcore_aws.names import THING, is_job_of, job_id, job_key
from fleetcore_aws.registry import FOREIGN, Things

_DESCRIBE, _DOCUMENT, _LIST = "iot:DescribeJob", "iot:GetJobDocument", "iot:ListJobs"
#: Quotas of AWS IoT jobs; a description is free of control characters (API reference, CreateJob).
_MAX_DOCUMENT = 32 * 1024
_MAX_DESCRIPTION_LENGTH = 2028
_FOREIGN = "There is a job of that id that this fleet did not create"
_NO_EXECUTION = "AWS has not created the job's execution yet"
_GOING = "DELETION_IN_PROGRESS"
#: The remote version of a job whose execution is not final: its number, its version, the digest of the document.
_OPEN = re.compile(r"(\d+)\.(\d+)\.([0-9a-f]+)")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _record(text: str) -> dict[str, object]:
    """A JSON object; empty for anything else."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return cast("dict[str, object]", found) if isinstance(found, dict) else {}


@frozen(kw_only=True)
class _Held:
    """A job at AWS; ``execution`` is None until AWS has created it."""

    description: str
    document: str
    execution: Execution | None

    @property
    def went_on(self) -> Mapping[str, object] | None:
        """The description of a part that continued after its execution was final."""
        execution, described = self.execution, _record(self.description)
        if execution is None or not execution.over or described.get("since") != execution.version:
            return None
        return members(described)

    @property
    def version(self) -> str:
        """Contains the place of the last write; a final one has another form."""
        execution = self.execution
        if execution is None or execution.status == "QUEUED":
            return f"queued.{_digest(self.description + self.document)}"
        moved = f"{execution.number}.{execution.version}.{_digest(self.document)}"
        if not execution.over:
            return moved
        return f"{moved}.{'over' if self.went_on is None else _digest(self.description)}"

    def changing(self) -> Mapping[str, object]:
        """The changing members, from the place that counts."""
        if (went_on := self.went_on) is not None:
            return went_on
        if self.execution is None or self.execution.status == "QUEUED":
            known = members(_record(self.description))
        else:
            known = read_back(self.execution.details)
        moved = stands_for(known.get("state"), "QUEUED" if self.execution is None else self.execution.status)
        return known if moved is None else {**known, "state": str(moved)}


class Jobs:
    """See the module."""

    def __init__(self, clients: Clients, things: Things, prefix: str) -> None:
        self._clients, self._things, self._prefix = clients, things, prefix
        self._executions = Executions(clients)

    # -- forms ------------------------------------------------------------------------------------------------------

    def _document(self, key: EntityKey, body: JobBody) -> str:
        plain = {name: value for name, value in to_plain(body).items() if name not in CHANGING}
        mark = {"fleet": self._things.fleet, "id": key.id}
        return json.dumps({"operation": "firmware", **plain, "fleetcore": mark}, sort_keys=True)

    def _description(self, body: JobBody, since: int | None = None) -> str:
        plain = {name: value for name, value in to_plain(body).items() if name in CHANGING}
        said = plain if since is None else {"since": since, **plain}
        return clean(json.dumps(said, separators=(",", ":"), ensure_ascii=False))

    def _key(self, document: Mapping[str, object]) -> EntityKey | None:
        """The key of a job of this fleet."""
        mark = document.get("fleetcore")
        if not isinstance(mark, dict) or mark.get("fleet") != self._things.fleet or "id" not in mark:
            return None
        return EntityKey("job", str(mark["id"]))

    def _body(self, key: EntityKey, held: _Held) -> JobBody | None:
        """The body, if the job belongs to this fleet and has the key."""
        document = _record(held.document)
        if self._key(document) != key:
            return None
        kept = {name: value for name, value in document.items() if name not in {"fleetcore", "operation"}}
        return from_plain("job", {"state": "", **kept, **held.changing()}, JobBody)

    def fit(self, item: MirrorItem, body: JobBody) -> Fitted:
        """As in the interface."""
        if THING.encode(body.device, self._prefix) is None:
            return Fitted(item=None, lost=(Loss("/device", "The device's id is too long for a thing's name"),))
        if body.state not in STATUS:
            return Fitted(item=None, lost=(Loss("/state", "No status of a job's execution matches it"),))
        if len(self._document(item.key, body).encode()) > _MAX_DOCUMENT:
            return Fitted(item=None, lost=(Loss("/url", f"A job's document may have at most {_MAX_DOCUMENT} bytes"),))
        # A detail has at least one character.
        fitted = evolve(body, code=body.code or None, reason=body.reason or None)
        lost: list[Loss] = []
        for name, smaller in (
            ("reason", evolve(fitted, reason=None)),
            ("code", evolve(fitted, reason=None, code=None)),
        ):
            if not self._has_room(fitted) and smaller != fitted:
                fitted = smaller
                lost.append(
                    Loss(f"/{name}", f"A detail of a job's status may have at most {MAX_DETAIL_LENGTH} characters")
                )
        return Fitted(item=item if fitted == body else evolve(item, body=fitted), lost=tuple(lost))

    def _has_room(self, body: JobBody) -> bool:
        # The description with the largest version that JSON readers agree on.
        described = len(self._description(body, since=2**53))
        return described <= _MAX_DESCRIPTION_LENGTH and max(map(len, details(body).values())) <= MAX_DETAIL_LENGTH

    # -- writing ----------------------------------------------------------------------------------------------------

    async def apply(self, item: MirrorItem, body: JobBody | None) -> MirrorResult:
        """As in the interface, for one item; raises CallFailed."""
        name = job_id(self._things.fleet, item.key.id)
        if body is not None:
            written = await (self._make if item.remote_version is None else self._move)(name, item, body)
            if written is not None:
                return written
        there = await self._get(name)
        if there is None:
            if body is None:
                return MirrorResult(state="done")
            if item.remote_version is not None:
                return MirrorResult(state="conflict", reason="The job was deleted")
            return MirrorResult(state="failed", reason="A job of that id is being deleted")
        known = self._body(item.key, there)
        if known is None:
            return MirrorResult(state="foreign", reason=_FOREIGN)
        if body is not None and known == body:
            return MirrorResult(state="done", remote_version=there.version)
        if item.remote_version != there.version:
            return MirrorResult(state="conflict")
        if body is None:
            return await self._remove(name)
        if self._document(item.key, body) != there.document:
            return MirrorResult(state="invalid", reason="The document of a job cannot be changed")
        return await self._change(name, there, body)

    async def _make(self, name: str, item: MirrorItem, body: JobBody) -> MirrorResult | None:
        """Creates the job; None if there is one of that id."""
        thing = THING.encode(body.device, self._prefix)
        target = None if thing is None else await self._things.describe(thing)
        if thing is None or target is None:
            return MirrorResult(state="failed", reason=f"There is no thing of {body.device} yet")
        if not self._things.owns(target):
            return MirrorResult(state="foreign", reason=FOREIGN)
        # Equal to AWS's new execution: other members are written to it, and count as missing until then.
        waits = STATUS[ExecutionState(body.state)] == "QUEUED"
        first = body if waits else evolve(body, state="waiting", progress=None, code=None, reason=None)
        made = _Held(description=self._description(first), document=self._document(item.key, body), execution=None)
        try:
            answer = await self._clients.call(
                "iot:CreateJob",
                jobId=name,
                targets=[target.arn],
                document=made.document,
                description=made.description,
                targetSelection="SNAPSHOT",
            )
        except CallFailed as failed:
            if failed.kind == "exists":
                return None
            raise
        answers.text("iot:CreateJob", answer, "jobId")
        if waits:
            return MirrorResult(state="done", remote_version=made.version)
        return await self._change(name, evolve(made, execution=await self._executions.get(name, thing)), body)

    async def _move(self, name: str, item: MirrorItem, body: JobBody) -> MirrorResult | None:
        """Updates an execution that is as it was left; None if the job must be read first."""
        known = _OPEN.fullmatch(item.remote_version or "")
        thing, document = THING.encode(body.device, self._prefix), self._document(item.key, body)
        # Cancelling does not name the execution's number, so it may affect that of another job with the same id.
        if (
            known is None
            or thing is None
            or known[3] != _digest(document)
            or STATUS[ExecutionState(body.state)] == "CANCELED"
        ):
            return None
        there = Execution(number=int(known[1]), version=int(known[2]), status="IN_PROGRESS", details={})
        try:
            moved = await self._executions.move(name, thing, there, body)
        except CallFailed as failed:
            # Another job may have the id; and the service model has no error for another version.
            if failed.kind in {"missing", "invalid"}:
                return None
            raise
        return MirrorResult(
            state="done", remote_version=_Held(description="", document=document, execution=moved).version
        )

    async def _change(self, name: str, there: _Held, body: JobBody) -> MirrorResult:
        """Writes the changing members where they can be written now."""
        execution, state = there.execution, ExecutionState(body.state)
        if execution is not None and not execution.over and (execution.status, STATUS[state]) != ("QUEUED", "QUEUED"):
            thing = THING.encode(body.device, self._prefix)
            assert thing is not None, "fit() guarantees it"
            moved = await self._executions.move(name, thing, execution, body)
            return MirrorResult(state="done", remote_version=evolve(there, execution=moved).version)
        if execution is None and STATUS[state] != "QUEUED":
            return MirrorResult(state="failed", reason=_NO_EXECUTION)
        since = execution.version if execution is not None and execution.over else None
        description = self._description(body, since)
        await self._clients.call("iot:UpdateJob", jobId=name, description=description)
        return MirrorResult(state="done", remote_version=evolve(there, description=description).version)

    async def _remove(self, name: str) -> MirrorResult:
        try:
            await self._clients.call("iot:CancelJob", jobId=name, force=True)
        except CallFailed as failed:
            if failed.kind not in {"invalid", "conflict", "missing"}:  # already final, or gone
                raise
        try:
            await self._clients.call("iot:DeleteJob", jobId=name, force=True)
        except CallFailed as failed:
            if failed.kind != "missing":
                raise
        return MirrorResult(state="done")

    # -- reading ----------------------------------------------------------------------------------------------------

    async def read(self, key: EntityKey) -> MirrorItem | None:
        """As in the interface, for one key; raises CallFailed."""
        there = await self._get(job_id(self._things.fleet, key.id))
        known = None if there is None else self._body(key, there)
        if there is None or known is None:
            return None
        return MirrorItem(key=key, body=known, remote_version=there.version)

    async def entities(self) -> AsyncIterator[EntityKey]:
        """As in the interface; raises CallFailed. A hashed id costs a read of the job's document."""
        async for each in self._clients.listed(_LIST, "jobs"):
            name = answers.text(_LIST, each, "jobId")
            if not is_job_of(self._things.fleet, name) or each.get("status") == _GOING:
                continue
            if (own := job_key(self._things.fleet, name)) is not None:
                yield EntityKey("job", own)
            elif (known := await self._named(name)) is not None:
                yield known

    async def _named(self, name: str) -> EntityKey | None:
        try:
            return self._key(_record(await self._text(name)))
        except CallFailed as failed:
            if failed.kind == "missing":
                return None
            raise

    async def _text(self, name: str) -> str:
        return answers.text(_DOCUMENT, await self._clients.call(_DOCUMENT, jobId=name), "document")

    async def _get(self, name: str) -> _Held | None:
        """The job, and its execution if it belongs to this fleet."""
        try:
            answer = await self._clients.call(_DESCRIBE, jobId=name)
            job = answers.record(_DESCRIBE, answer, "job")
            if job.get("status") == _GOING:
                return None
            text = await self._text(name)
        except CallFailed as failed:
            if failed.kind == "missing":
                return None
            raise
        document = _record(text)
        device = document.get("device")
        thing = THING.encode(device, self._prefix) if isinstance(device, str) else None
        ours = thing is not None and self._key(document) is not None
        return _Held(
            description=answers.optional_text(job, "description") or "",
            document=text,
            execution=await self._executions.get(name, thing) if ours and thing is not None else None,
        )
