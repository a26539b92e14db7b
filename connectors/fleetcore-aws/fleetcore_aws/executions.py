"""The execution of a job: where AWS shows how far a device's part of a campaign is.

AWS makes one, ``QUEUED``, for the one target of a job. From then on its status follows the part by one table, and its
status details say the rest: state, progress, code and reason. A status that is over never moves again.
"""

import json
import unicodedata
from collections.abc import Mapping
from contextlib import suppress
from typing import Literal, cast

from attrs import evolve, frozen

from fleetcore.model.firmware import ExecutionState
from fleetcore.model.mirror import JobBody
from fleetcore_aws import answers
from fleetcore_aws.clients import Clients
from fleetcore_aws.failures import CallFailed

Status = Literal["QUEUED", "IN_PROGRESS", "SUCCEEDED", "FAILED", "REJECTED", "CANCELED"]

#: State of a part → status at AWS. ``QUEUED`` is what AWS makes and cannot be written, so it is that of parts alone of
#: which the device knows nothing yet; ``TIMED_OUT`` and ``REMOVED`` are AWS's own. A part that was skipped ended
#: without the device: so does an execution that is cancelled.
STATUS: Mapping[ExecutionState, Status] = {
    ExecutionState.WAITING: "QUEUED",
    ExecutionState.OFFERED: "IN_PROGRESS",
    ExecutionState.DEFERRED: "IN_PROGRESS",
    ExecutionState.ACCEPTED: "IN_PROGRESS",
    ExecutionState.DOWNLOADING: "IN_PROGRESS",
    ExecutionState.DOWNLOADED: "IN_PROGRESS",
    ExecutionState.INSTALLING: "IN_PROGRESS",
    ExecutionState.REBOOTING: "IN_PROGRESS",
    ExecutionState.UNKNOWN: "IN_PROGRESS",
    ExecutionState.SUCCEEDED: "SUCCEEDED",
    ExecutionState.FAILED: "FAILED",
    ExecutionState.REVERTED: "FAILED",
    ExecutionState.TIMED_OUT: "FAILED",
    ExecutionState.REJECTED: "REJECTED",
    ExecutionState.CANCELLED: "CANCELED",
    ExecutionState.SKIPPED: "CANCELED",
}
#: What a status stands for that another writer, or AWS itself, has given an execution.
_MOVED: Mapping[str, ExecutionState] = {
    "QUEUED": ExecutionState.WAITING,
    "IN_PROGRESS": ExecutionState.UNKNOWN,
    "SUCCEEDED": ExecutionState.SUCCEEDED,
    "FAILED": ExecutionState.FAILED,
    "TIMED_OUT": ExecutionState.TIMED_OUT,
    "REJECTED": ExecutionState.REJECTED,
    "REMOVED": ExecutionState.CANCELLED,
    "CANCELED": ExecutionState.CANCELLED,
}
#: Members of the body that change while the job lasts: the names of the details.
CHANGING = ("state", "progress", "code", "reason")
#: Of a detail's value, in characters (quotas of AWS IoT jobs; at most ten details).
MAX_DETAIL_LENGTH = 1024

_DESCRIBE = "iot:DescribeJobExecution"
_UPDATE = "iotjobsdata:UpdateJobExecution"


@frozen(kw_only=True)
class Execution:
    """An execution as AWS has it.

    Attributes:
        number: tells it from that of another job which has taken the same id.
        version: counts what was written to it.
    """

    number: int
    version: int
    status: str
    details: Mapping[str, object]

    @property
    def over(self) -> bool:
        """Whether it moves no more."""
        return self.status not in {"QUEUED", "IN_PROGRESS"}


def clean(text: str) -> str:
    r"""A text as AWS takes it: ``\uXXXX`` for what its pattern ``[^\p{C}]`` excludes.

    Beyond the basic plane it depends on the version of Unicode what is excluded: all of that is written so.
    """
    return "".join(
        json.dumps(each)[1:-1] if each > "\uffff" or unicodedata.category(each).startswith("C") else each
        for each in text
    )


def details(body: JobBody) -> Mapping[str, str]:
    """What changes of a part as status details; what is None or empty is left out."""
    found = {"state": body.state}
    if body.progress is not None:
        found["progress"] = json.dumps(body.progress)
    for name, text in (("code", body.code), ("reason", body.reason)):
        if text:
            found[name] = clean(text.replace("\\", "\\\\"))
    return found


def read_back(said: Mapping[str, object]) -> Mapping[str, object]:
    """The members that status details tell; what another writer has put there and cannot be read is left out."""
    found: dict[str, object] = {}
    for name in CHANGING:
        value = said.get(name)
        if not isinstance(value, str):
            continue
        with suppress(ValueError):
            found[name] = json.loads(value if name == "progress" else '"' + value.replace('"', '\\"') + '"')
    return members(found)


def members(said: Mapping[str, object]) -> Mapping[str, object]:
    """Those members of a JSON object that change, as far as they are of their kind."""
    return {
        name: said[name]
        for name in CHANGING
        if isinstance(said.get(name), (int, float) if name == "progress" else str)
        and not isinstance(said.get(name), bool)
    }


def stands_for(state: object, status: str) -> ExecutionState | None:
    """The state that a status stands for where it is not that of ``state``; None where it is."""
    known = state if isinstance(state, str) and state in STATUS else None
    wanted = None if known is None else STATUS[ExecutionState(known)]
    # Nothing goes back to QUEUED: a part that waits again is under way for AWS.
    if wanted == status or (wanted == "QUEUED" and status == "IN_PROGRESS"):
        return None
    return _MOVED.get(status, ExecutionState.UNKNOWN)


class Executions:
    """Reads and moves executions."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients

    async def get(self, job: str, thing: str) -> Execution | None:
        """The execution; None where AWS has made none yet, or the job is gone. Raises CallFailed."""
        try:
            answer = await self._clients.call(_DESCRIBE, jobId=job, thingName=thing)
        except CallFailed as failed:
            if failed.kind == "missing":
                return None
            raise
        found = answers.record(_DESCRIBE, answer, "execution")
        said = found.get("statusDetails")
        held = said.get("detailsMap") if isinstance(said, dict) else None
        return Execution(
            number=answers.number(_DESCRIBE, found, "executionNumber"),
            version=answers.number(_DESCRIBE, found, "versionNumber"),
            status=answers.text(_DESCRIBE, found, "status"),
            details=cast("Mapping[str, object]", held) if isinstance(held, dict) else {},
        )

    async def move(self, job: str, thing: str, there: Execution, body: JobBody) -> Execution:
        """Brings an execution that is not over to a part's state, if it still has the version.

        Raises CallFailed, of kind ``conflict`` where it has another version or is over.
        """
        status = STATUS[ExecutionState(body.state)]
        said = details(body)
        if status == "CANCELED":
            await self._clients.call(
                "iot:CancelJobExecution",
                jobId=job,
                thingName=thing,
                force=True,
                expectedVersion=there.version,
                statusDetails=said,
            )
            return evolve(there, status=status, version=there.version + 1, details=said)
        status = "IN_PROGRESS" if status == "QUEUED" else status
        answer = await self._clients.call(
            _UPDATE,
            jobId=job,
            thingName=thing,
            status=status,
            statusDetails=said,
            expectedVersion=there.version,
            executionNumber=there.number,
            includeJobExecutionState=True,
        )
        state = answers.record(_UPDATE, answer, "executionState")
        version = answers.number(_UPDATE, state, "versionNumber")
        return evolve(there, status=status, version=version, details=said)
