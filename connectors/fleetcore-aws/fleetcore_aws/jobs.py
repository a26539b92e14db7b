"""A device's part of a campaign as a job with one target.

What never changes is the job's document, which also names the fleet and our id; what changes is its description, the
one text of a job that can be written later. AWS has no versions of jobs: the digest of both stands for one, and a
change between reading and writing is not seen.
"""

import hashlib
import json
from collections.abc import AsyncIterator

from attrs import evolve, frozen

from fleetcore.interfaces.cloud import Fitted, MirrorItem, MirrorResult
from fleetcore.model.mirror import EntityKey, JobBody, Loss
from fleetcore.wire.records import from_plain, to_plain
from fleetcore_aws import answers
from fleetcore_aws.clients import Clients
from fleetcore_aws.failures import CallFailed
from fleetcore_aws.names import THING, is_job_of, job_id, job_key
from fleetcore_aws.registry import FOREIGN, Things

_DESCRIBE, _DOCUMENT, _LIST = "iot:DescribeJob", "iot:GetJobDocument", "iot:ListJobs"
#: Members of the body that change while the job lasts.
_CHANGING = ("state", "progress", "code", "reason")
#: Quotas of AWS IoT jobs; a description is free of control characters (API reference, CreateJob).
_LARGEST_DOCUMENT = 32 * 1024
_LONGEST_DESCRIPTION = 2028
_FOREIGN = "There is a job of that id which this fleet has not made"
_GOING = "DELETION_IN_PROGRESS"


@frozen(kw_only=True)
class _Held:
    description: str
    document: str

    @property
    def version(self) -> str:
        return hashlib.sha256(f"{self.description}\0{self.document}".encode()).hexdigest()[:16]


class Jobs:
    """See the module."""

    def __init__(self, clients: Clients, things: Things, prefix: str) -> None:
        self._clients, self._things, self._prefix = clients, things, prefix

    def _texts(self, key: EntityKey, body: JobBody) -> _Held:
        plain = to_plain(body)
        changing = {name: plain.pop(name) for name in _CHANGING if name in plain}
        mark = {"fleet": self._things.fleet, "id": key.id}
        document = {"operation": "firmware", **plain, "fleetcore": mark}
        # ASCII: escapes keep control characters out of the description.
        return _Held(
            description=json.dumps(changing, separators=(",", ":")), document=json.dumps(document, sort_keys=True)
        )

    def _body(self, key: EntityKey | None, held: _Held) -> tuple[EntityKey, JobBody] | None:
        """The body, where the job is one of this fleet's."""
        try:
            document, changing = json.loads(held.document), json.loads(held.description or "{}")
        except ValueError:
            return None
        if not isinstance(document, dict) or not isinstance(changing, dict):
            return None
        mark = document.pop("fleetcore", None)
        if not isinstance(mark, dict) or mark.get("fleet") != self._things.fleet or "id" not in mark:
            return None
        found = EntityKey("job", str(mark["id"]))
        if key is not None and found != key:
            return None
        document.pop("operation", None)
        return found, from_plain("job", {"state": "", **document, **changing}, JobBody)

    def fit(self, item: MirrorItem, body: JobBody) -> Fitted:
        """As the interface has it."""
        if THING.encode(body.device, self._prefix) is None:
            return Fitted(item=None, lost=(Loss("/device", "The device's id is too long for a thing's name"),))
        texts = self._texts(item.key, body)
        if len(texts.document.encode()) > _LARGEST_DOCUMENT:
            return Fitted(item=None, lost=(Loss("/url", f"A job's document has {_LARGEST_DOCUMENT} bytes at most"),))
        if len(texts.description) <= _LONGEST_DESCRIPTION:
            return Fitted(item=item)
        fitted = evolve(item, body=evolve(body, reason=None))
        lost = Loss("/reason", f"A job's description has {_LONGEST_DESCRIPTION} characters at most")
        return Fitted(item=fitted, lost=(lost,))

    async def apply(self, item: MirrorItem, body: JobBody | None) -> MirrorResult:
        """As the interface has it, of one item; raises CallFailed."""
        name = job_id(self._things.fleet, item.key.id)
        there = await self._get(name)
        if there is None:
            if body is None:
                return MirrorResult(state="done")
            if item.remote_version is not None:
                return MirrorResult(state="conflict", reason="The job is gone")
            return await self._make(name, item, body)
        known = self._body(item.key, there)
        if known is None:
            return MirrorResult(state="foreign", reason=_FOREIGN)
        if body is not None and known[1] == body:
            return MirrorResult(state="done", remote_version=there.version)
        if item.remote_version != there.version:
            return MirrorResult(state="conflict")
        if body is None:
            return await self._remove(name)
        wanted = self._texts(item.key, body)
        if wanted.document != there.document:
            return MirrorResult(state="invalid", reason="The document of a job cannot be changed")
        await self._clients.call("iot:UpdateJob", jobId=name, description=wanted.description)
        return MirrorResult(state="done", remote_version=wanted.version)

    async def _make(self, name: str, item: MirrorItem, body: JobBody) -> MirrorResult:
        thing = THING.encode(body.device, self._prefix)
        target = None if thing is None else await self._things.describe(thing)
        if target is None:
            return MirrorResult(state="failed", reason=f"There is no thing of {body.device} yet")
        if not self._things.owns(target):
            return MirrorResult(state="foreign", reason=FOREIGN)
        wanted = self._texts(item.key, body)
        answer = await self._clients.call(
            "iot:CreateJob",
            jobId=name,
            targets=[target.arn],
            document=wanted.document,
            description=wanted.description,
            targetSelection="SNAPSHOT",
        )
        answers.text("iot:CreateJob", answer, "jobId")
        return MirrorResult(state="done", remote_version=wanted.version)

    async def _remove(self, name: str) -> MirrorResult:
        try:
            await self._clients.call("iot:CancelJob", jobId=name, force=True)
        except CallFailed as failed:
            if failed.kind not in {"invalid", "missing"}:  # over already, or gone
                raise
        try:
            await self._clients.call("iot:DeleteJob", jobId=name, force=True)
        except CallFailed as failed:
            if failed.kind != "missing":
                raise
        return MirrorResult(state="done")

    async def read(self, key: EntityKey) -> MirrorItem | None:
        """As the interface has it, of one key; raises CallFailed."""
        there = await self._get(job_id(self._things.fleet, key.id))
        known = None if there is None else self._body(key, there)
        if there is None or known is None:
            return None
        return MirrorItem(key=key, body=known[1], remote_version=there.version)

    async def entities(self) -> AsyncIterator[EntityKey]:
        """As the interface has it; raises CallFailed. A hashed id costs a look at the job's document."""
        async for each in self._clients.listed(_LIST, "jobs"):
            name = answers.text(_LIST, each, "jobId")
            if not is_job_of(self._things.fleet, name) or each.get("status") == _GOING:
                continue
            if (own := job_key(self._things.fleet, name)) is not None:
                yield EntityKey("job", own)
            elif (there := await self._get(name)) is not None and (known := self._body(None, there)) is not None:
                yield known[0]

    async def _get(self, name: str) -> _Held | None:
        try:
            answer = await self._clients.call(_DESCRIBE, jobId=name)
            job = answers.record(_DESCRIBE, answer, "job")
            if job.get("status") == _GOING:
                return None
            document = await self._clients.call(_DOCUMENT, jobId=name)
        except CallFailed as failed:
            if failed.kind == "missing":
                return None
            raise
        return _Held(
            description=answers.optional_text(job, "description") or "",
            document=answers.text(_DOCUMENT, document, "document"),
        )
