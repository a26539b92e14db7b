"""Executions of jobs, for both simulated services: moto's never change.

Each target of a job gets one; it counts its versions from 1, and is not changed after its end (developer guide, jobs
and job execution states).
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import field, mutable

from fleetcore_aws.testing.operations import Call, arn
from fleetcore_aws.testing.rules import RefusedByAws, missing

_OPEN = {"QUEUED", "IN_PROGRESS"}


@mutable(kw_only=True)
class Execution:
    """One job on one thing."""

    number: int
    status: str = "QUEUED"
    version: int = 1
    details: Mapping[str, str] = field(factory=dict)

    def move(self, status: str, details: Mapping[str, str] | None) -> None:
        """A new version of it; details that are not given stay."""
        self.status, self.version = status, self.version + 1
        self.details = self.details if details is None else dict(details)


@mutable
class Executions:
    """See the module; ``held`` by job, then by thing."""

    held: dict[str, dict[str, Execution]] = field(factory=dict)
    _numbers: Any = field(factory=lambda: itertools.count(1))

    def make(self, job: str, targets: Sequence[str]) -> None:
        """The executions of a new job; targets are ARNs of things."""
        self.held[job] = {each.rpartition("/")[2]: Execution(number=next(self._numbers)) for each in targets}

    def forget(self, job: str) -> None:
        """Removes those of a deleted job."""
        self.held.pop(job, None)

    def thing_gone(self, thing: str) -> None:
        """Removes the unfinished ones of a deleted thing."""
        for each in self.held.values():
            if thing in each and each[thing].status in _OPEN:
                each[thing].move("REMOVED", None)

    def cancel_all(self, job: str, *, force: bool) -> None:
        """A job was cancelled: with force also those under way."""
        for each in self.held.get(job, {}).values():
            if each.status == "QUEUED" or (force and each.status == "IN_PROGRESS"):
                each.move("CANCELED", None)

    def all_over(self, job: str) -> bool:
        """Whether a job has ended."""
        return all(each.status not in _OPEN for each in self.held.get(job, {}).values())

    def do(self, call: Call) -> Mapping[str, Any]:
        """Describes, updates or cancels one. Raises :class:`RefusedByAws`."""
        document = call.document
        number = document.get("executionNumber")
        there = self.held.get(call.job, {}).get(call.name)
        if there is None or (number is not None and number != there.number):
            raise missing(f"Job Execution {call.name} of job {call.job} not found")
        if call.operation == "DescribeJobExecution":
            return {"execution": _shown(call, there)}
        expected = document.get("expectedVersion")
        if expected is not None and expected != there.version:
            # The service model of job executions has no error for it: the code is from the guide.
            code = "VersionMismatch" if call.operation == "UpdateJobExecution" else "VersionConflictException"
            raise RefusedByAws(code, f"The version is {there.version}, not {expected}", 409)
        forced = call.request.query.get("force") == "true"
        cancels = call.operation == "CancelJobExecution"
        if there.status not in _OPEN or (cancels and there.status == "IN_PROGRESS" and not forced):
            raise RefusedByAws("InvalidStateTransitionException", f"The execution is {there.status}", 409)
        there.move("CANCELED" if cancels else document["status"], document.get("statusDetails"))
        if cancels or not document.get("includeJobExecutionState"):
            return {}
        return {
            "executionState": {
                "status": there.status,
                "statusDetails": there.details,
                "versionNumber": there.version,
            }
        }


def _shown(call: Call, execution: Execution) -> Mapping[str, Any]:
    return {
        "jobId": call.job,
        "thingArn": arn("thing", call.name),
        "status": execution.status,
        "statusDetails": {"detailsMap": execution.details},
        "executionNumber": execution.number,
        "versionNumber": execution.version,
    }
