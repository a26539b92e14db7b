"""The front of a simulated AWS: recognises operations, applies faults, and passes calls to its back.

It has two doors: ``endpoint`` for the connector, and ``side`` for tests and people, without faults. Accepted readings
of all services are kept for inspection.
"""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from email.utils import format_datetime

from attrs import evolve, field, frozen, mutable

from fleetcore.testing.http1 import Answer, Read, Request, Server
from fleetcore_aws.testing.faults import Faults
from fleetcore_aws.testing.hub import Hub
from fleetcore_aws.testing.operations import Call, call_of
from fleetcore_aws.testing.rules import RefusedByAws

Back = Callable[[Call], Awaitable[Answer]]

#: ``POST`` JSON to it at the side door sets faults by name, ``{"heal": true}`` ends them; ``GET`` returns counts.
CONTROL = "/_faults"


@mutable
class Front:
    """See the module.

    Attributes:
        calls: how often each action was called at the front door, including refused calls but not cut ones.
        messages: bodies of accepted messages with readings, in order.
    """

    back: Back
    faults: Faults = field(factory=Faults)
    calls: dict[str, int] = field(factory=dict)
    messages: list[dict[str, object]] = field(factory=list)
    endpoint: str = ""
    side: str = ""

    def arriving(self, request: Request) -> Read:
        """How much of a request is read at the front door, by its head."""
        call = call_of(request)
        if call is None:
            return "whole"
        return self.faults.read_of(call.action, int(request.headers.get("content-length", "0")))

    async def at_the_front(self, request: Request) -> Answer:
        """Answers the connector."""
        answer = await self._answered(request)
        return evolve(answer, headers={**answer.headers, "date": format_datetime(self.faults.now, usegmt=True)})

    async def _answered(self, request: Request) -> Answer:
        if self.faults.down:
            return Answer(fate="none")
        if self.faults.delay_s:
            await asyncio.sleep(self.faults.delay_s)
        call = call_of(request)
        if call is None:
            return RefusedByAws("UnknownOperationException", f"{request.method} {request.path}", 404).answer()
        self.calls[call.action] = self.calls.get(call.action, 0) + 1
        try:
            self.faults.enter(call)
            answer = await self.back(call)
        except RefusedByAws as refused:
            return refused.answer()
        if answer.status < 300:
            self.messages += map(json.loads, _readings(call))
        return evolve(answer, fate=self.faults.fate_of(call.action))

    async def at_the_side(self, request: Request) -> Answer:
        """Answers tests and people."""
        if request.path == CONTROL:
            return self._control(request)
        call = call_of(request)
        if call is None:
            return RefusedByAws("UnknownOperationException", f"{request.method} {request.path}", 404).answer()
        try:
            return await self.back(call)
        except RefusedByAws as refused:
            return refused.answer()

    def _control(self, request: Request) -> Answer:
        for name, value in (json.loads(request.body) if request.body else {}).items():
            if name == "heal":
                self.faults.heal()
            else:
                setattr(self.faults, name, value)
        return Answer(body=json.dumps({"calls": self.calls, "messages": len(self.messages)}).encode())


def _readings(call: Call) -> list[bytes]:
    match call.operation:
        case "Publish":
            return [call.request.body]
        case "PutRecords" | "PutRecordBatch":
            return [base64.b64decode(record["Data"]) for record in call.document["Records"]]
        case "SendMessageBatch":
            return [entry["MessageBody"].encode() for entry in call.document["Entries"]]
    return []


@frozen
class HubBack:
    """A back in memory."""

    hub: Hub

    async def __call__(self, call: Call) -> Answer:
        """The answer. Raises :class:`RefusedByAws`."""
        if call.operation == "ReceiveMessage":
            await _waited(self.hub, call)
        body = self.hub.do(call)
        return Answer(body=body if isinstance(body, bytes) else json.dumps(body).encode())


async def _waited(hub: Hub, call: Call) -> None:
    """Long polling: until there is a visible message, or the time is over."""
    queue = call.document["QueueUrl"].rpartition("/")[2]
    loop = asyncio.get_running_loop()
    until_s = loop.time() + call.document.get("WaitTimeSeconds", 0)
    while loop.time() < until_s and not hub.visible(queue):  # noqa: ASYNC110 - hidden ones come back by the clock
        await asyncio.sleep(0.01)


@asynccontextmanager
async def serving(back: Back, port: int = 0, *, delay_s: float = 0.0) -> AsyncIterator[Front]:
    """Listens on the loopback within the context; ``port`` is the front door's, and the next one the side door's."""
    front = Front(back=back, faults=Faults(delay_s=delay_s))
    async with (
        Server(front.at_the_front, port, reader=front.arriving) as door,
        Server(front.at_the_side, port + 1 if port else 0) as side,
    ):
        front.endpoint, front.side = door.endpoint, side.endpoint
        yield front
