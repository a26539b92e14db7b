"""The execution of a job: shows at AWS the progress of a device's part of a campaign.

AWS creates one, ``QUEUED``, for the one target of a job. Then a table maps the part's state to its status, and its
status details have the rest: state, progress, code and reason. A final status never changes.
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

#: State of a part → status at AWS. AWS creates ``QUEUED`` and it cannot be written, so it only stands for parts that
#: the device does not know yet; ``TIMED_OUT`` and ``REMOVED`` are AWS's own. A skipped part ended without the device,
#: like a cancelled execution.
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
#: The meaning of a status set by another writer, or AWS itself.
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
#: Members of the body that change during the job: the names of the details.
CHANGING = ("state", "progress", "code", "reason")
#: The limit of a detail's value, in characters (quotas of AWS IoT jobs; at most ten details).
MAX_DETAIL_LENGTH = 1024

_DESCRIBE = "iot:DescribeJobExecution"
_UPDATE = "iotjobsdata:UpdateJobExecution"


@frozen(kw_only=True)
class Execution:
    """An execution at AWS.

    Attributes:
        number: distinguishes it from that of another job with the same id.
        version: counts its writes.
    """

    number: int
    version: int
    status: str
    details: Mapping[str, object]

    @property
    def over(self) -> bool:
        """Whether it is final."""
        return self.status not in {"QUEUED", "IN_PROGRESS"}


def clean(text: str) -> str:
    r"""A text that AWS accepts: ``\uXXXX`` for characters that its pattern ``[^\p{C}]`` excludes.

    Beyond the basic plane the excluded characters depend on the version of Unicode: all of them are escaped.
    """
    return "".join(
        json.dumps(each)[1:-1] if each > "\uffff" or unicodedata.category(each).startswith("C") else each
        for each in text
    )


def details(body: JobBody) -> Mapping[str, str]:
    """The changing members of a part as status details; None and empty ones are left out."""
    found = {"state": body.state}
    if body.progress is not None:
        found["progress"] = json.dumps(body.progress)
    for name, text in (("code", body.code), ("reason", body.reason)):
        if text:
            found[name] = clean(text.replace("\\", "\\\\"))
    return found


def read_back(said: Mapping[str, object]) -> Mapping[str, object]:
    """The members in status details; unreadable ones of another writer are left out."""
    found: dict[str, object] = {}
    for name in CHANGING:
        value = said.get(name)
        if not isinstance(value, str):
            continue
        with suppress(ValueError):
            found[name] = json.loads(value if name == "progress" else '"' + value.replace('"', '\\"') + '"')
    return members(found)


def members(said: Mapping[str, object]) -> Mapping[str, object]:
    """The changing members of a JSON object, if they have the right type."""
    return {
        name: said[name]
        for name in CHANGING
        if isinstance(said.get(name), (int, float) if name == "progress" else str)
        and not isinstance(said.get(name), bool)
    }


def stands_for(state: object, status: str) -> ExecutionState | None:
    """The state of a status if it differs from ``state``; None if it is the same."""
    known = state if isinstance(state, str) and state in STATUS else None
    wanted = None if known is None else STATUS[ExecutionState(known)]
    # Nothing goes back to QUEUED: a part that waits again is under way for AWS.
    if wanted == status or (wanted == "QUEUED" and status == "IN_PROGRESS"):
        return None
    return _MOVED.get(status, ExecutionState.UNKNOWN)


class Executions:
    """Reads and updates executions."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients

    async def get(self, job: str, thing: str) -> Execution | None:
        """The execution; None if AWS has not created it yet, or the job is gone. Raises CallFailed."""
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
        """Updates an execution that is not final to a part's state, if it still has the version.

        Raises CallFailed, of kind ``conflict`` if it has another version or is final.
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
