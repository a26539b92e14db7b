"""moto's server in a separate process, behind rules that it lacks.

moto accepts bad names, creates an existing thing again (and loses its shadows), ignores expected versions, keeps empty
objects and answers unknown operations with 500. Here a call is checked first, with moto's own state, and only one
changing call runs at a time, so that the check stays valid.
"""

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

from attrs import evolve

from fleetcore.testing.http1 import Answer, Request, forwarded
from fleetcore_aws.testing.executions import Executions
from fleetcore_aws.testing.front import Back, Front, serving
from fleetcore_aws.testing.operations import Call
from fleetcore_aws.testing.rules import RefusedByAws, check, invalid, large, without_nulls

_RUNNING = re.compile(rb"Running on (http://127\.0\.0\.1:\d+)")
#: By itself moto gives a certificate another id than AWS.
_MAIN = """
from moto.core.config import default_user_config
from moto.server import main

default_user_config["iot"] = {"use_valid_cert": True}
main()
"""
_READING = ("Get", "Describe", "List", "Receive")


class StrictMoto:
    """Answers calls with moto at ``endpoint``, as AWS would."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._turn = asyncio.Lock()  #: Of things, counted as AWS does: moto has 1 for all.
        self._versions: dict[str, int] = {}
        #: Of updated jobs, which moto does not support.
        self._descriptions: dict[str, str] = {}
        #: Of jobs, which moto never changes.
        self._executions = Executions()

    async def __call__(self, call: Call) -> Answer:
        """The answer. Raises :class:`RefusedByAws`."""
        check(call)
        if call.job:
            return _answer(self._executions.do(call))
        if call.operation.startswith(_READING):
            return self._corrected(call, await self._done(call))
        async with self._turn:
            answer = await self._before(call)
            if answer is None:
                answer = self._corrected(call, await self._done(call))
            if answer.status < 300:
                self._after(call)
            return answer

    async def _done(self, call: Call) -> Answer:
        request = call.request
        if call.operation == "UpdateThingShadow":
            document = dict(call.document)
            document["state"] = _emptied(document["state"])
            request = evolve(request, body=json.dumps(document).encode())
        answer = await forwarded(self._endpoint, request)
        if answer.status == 500:
            raise RefusedByAws("UnknownOperationException", f"moto cannot {call.operation}", 404)
        return answer

    async def _there(self, call: Call, path: str) -> Mapping[str, Any] | None:
        request = Request(method="GET", path=path, target=path, query={}, headers=dict(call.request.headers), body=b"")
        answer = await forwarded(self._endpoint, request)
        return json.loads(answer.body) if answer.status == 200 else None

    async def _before(self, call: Call) -> Answer | None:
        """Refuses calls that AWS would refuse in this state, and answers those that moto does not support."""
        path, document = call.request.path, call.document
        match call.operation:
            case "CreateThing":
                there = await self._there(call, path)
                wanted = document.get("attributePayload", {}).get("attributes", {})
                if there is None:
                    return None
                if (there["attributes"], there.get("thingTypeName")) != (wanted, document.get("thingTypeName")):
                    raise RefusedByAws("ResourceAlreadyExistsException", f"Thing {call.name} already exists", 409)
                return _answer({name: there[name] for name in ("thingName", "thingArn", "thingId")})
            case "UpdateThing" | "DeleteThing":
                there = await self._there(call, path)
                if there is None and call.operation == "DeleteThing":
                    return _answer({})
                expected = document.get("expectedVersion", call.request.query.get("expectedVersion"))
                if there is not None and expected is not None:
                    _expect(int(expected), self._versions.get(call.name, 1))
                bare = document.get("thingTypeName") is None
                if bare and len(document.get("attributePayload", {}).get("attributes", {})) > 3:
                    raise invalid("attributes are too many for a thing without a type")
            case "CreateThingGroup":
                there = await self._there(call, path)
                if there is not None:
                    if there["thingGroupProperties"] != document["thingGroupProperties"]:
                        raise RefusedByAws("ResourceAlreadyExistsException", f"Group {call.name} already exists", 409)
                    return _answer({"thingGroupName": call.name, "thingGroupArn": there.get("thingGroupArn", "")})
            case "DeleteThingGroup":
                there = await self._there(call, path)
                expected = call.request.query.get("expectedVersion")
                if there is not None and expected is not None:
                    _expect(int(expected), there["version"])
            case "AddThingToThingGroup":
                name = document["thingName"]
                listed = await self._there(call, f"/things/{quote(name, safe='')}/thing-groups")
                groups = [] if listed is None else [each["groupName"] for each in listed["thingGroups"]]
                if len(groups) >= 10 and document["thingGroupName"] not in groups:
                    raise invalid(f"Thing {name} is in 10 groups")
            case "CreateJob":
                if await self._there(call, path) is not None:
                    raise RefusedByAws("ResourceAlreadyExistsException", f"Job {call.name} already exists", 409)
            case "UpdateJob" | "CancelJob" | "DeleteJob":
                job = await self._there(call, path.removesuffix("/cancel"))
                if job is None:
                    raise RefusedByAws("ResourceNotFoundException", f"Job {call.name} not found", 404)
                status = self._status(call.name, job["job"]["status"])
                if call.operation == "CancelJob" and status != "IN_PROGRESS":
                    raise invalid(f"Job {call.name} is {status}")
                if call.operation == "UpdateJob":
                    self._descriptions[call.name] = document["description"]
                    return _answer({})
            case "UpdateThingShadow":
                await self._shadow_fits(call)
        return None

    async def _shadow_fits(self, call: Call) -> None:
        there = await self._there(call, call.request.target)
        if there is None and "version" in call.document:
            raise RefusedByAws("ConflictException", "Version conflict", 409)
        old = {} if there is None else {k: v for k, v in there["state"].items() if k != "delta"}
        large(without_nulls({**old, **call.document["state"]}))

    def _after(self, call: Call) -> None:
        match call.operation:
            case "UpdateThing":
                self._versions[call.name] = self._versions.get(call.name, 1) + 1
            case "DeleteThing":
                self._versions.pop(call.name, None)
                self._executions.thing_gone(call.name)
            case "CreateJob":
                self._executions.make(call.name, call.document["targets"])
            case "CancelJob":
                self._executions.cancel_all(call.name, force=call.request.query.get("force") == "true")
            case "DeleteJob":
                self._descriptions.pop(call.name, None)
                self._executions.forget(call.name)

    def _corrected(self, call: Call, answer: Answer) -> Answer:
        """Corrects answers of moto that differ from AWS's."""
        if answer.status != 200:
            return answer
        match call.operation:
            case "DescribeThing":
                return _answer({**json.loads(answer.body), "version": self._versions.get(call.name, 1)})
            case "DescribeJob":
                shown = json.loads(answer.body)
                job = {**shown["job"], "status": self._status(call.name, shown["job"]["status"])}
                if call.name in self._descriptions:
                    job["description"] = self._descriptions[call.name]
                return _answer({"job": job})
        return answer

    def _status(self, job: str, at_moto: str) -> str:
        """The status of a job, which moto calls queued until it is cancelled."""
        if at_moto == "CANCELED":
            return at_moto
        return "COMPLETED" if self._executions.all_over(job) else "IN_PROGRESS"


def _answer(body: Mapping[str, Any]) -> Answer:
    return Answer(body=json.dumps(body).encode())


def _expect(expected: int, version: int) -> None:
    if expected != version:
        raise RefusedByAws("VersionConflictException", f"The version is {version}, not {expected}", 409)


def _emptied(value: Any) -> Any:
    """A patch without empty objects, which AWS drops; nulls stay, because they remove."""
    if not isinstance(value, dict):
        return value
    kept = {key: _emptied(each) for key, each in value.items()}
    return {key: each for key, each in kept.items() if each != {}}


@asynccontextmanager
async def moto() -> AsyncIterator[str]:
    """The server of moto on a free port; yields its endpoint. It ends with the context."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-u",
        "-c",
        _MAIN,
        "-H",
        "127.0.0.1",
        "-p",
        "0",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        while True:
            line = await process.stderr.readline()
            if not line:
                raise RuntimeError(
                    "moto's server has not started; check that moto with flask and flask-cors is installed"
                )
            if found := _RUNNING.search(line):
                break
        drain = asyncio.create_task(_drained(process.stderr), name="moto's log")
        try:
            yield found[1].decode()
        finally:
            drain.cancel()
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _drained(stream: asyncio.StreamReader) -> None:
    while await stream.readline():
        pass


async def reset(endpoint: str) -> None:
    """Empties moto."""
    request = Request(
        method="POST",
        path="/moto-api/reset",
        target="/moto-api/reset",
        query={},
        headers={"host": endpoint.removeprefix("http://")},
        body=b"",
    )
    await forwarded(endpoint, request)


@asynccontextmanager
async def strict_moto(endpoint: str, port: int = 0) -> AsyncIterator[Front]:
    """The strict proxy before a running moto."""
    back: Back = StrictMoto(endpoint)
    async with serving(back, port) as front:
        yield front
