"""The device side of a WebSocket: for simulated devices, for gateways in Python, and for the tests of the server.

One connection: requests are numbered and may overlap, pushes arrive beside the replies. It saves nothing: its owner
decides what to do after :class:`~fleetcore.errors.Unavailable`.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from functools import partial
from itertools import count
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from attrs import evolve
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.typing import Subprotocol

from fleetcore.errors import CODES, FleetError, NotAuthenticated, NotAuthorised, Refused, Unavailable
from fleetcore.interfaces import claiming
from fleetcore.interfaces.protocol import DeviceClient, DeviceSecrets, EnrollRequest
from fleetcore.model.message import Downlink, MessageType, Rejected, Reply
from fleetcore.wire import messages
from fleetcore.wire.browser import TOKEN_PREFIX
from fleetcore.wire.replies import refusal
from fleetcore_websocket.closing import Close
from fleetcore_websocket.frames import FORMS
from fleetcore_websocket.handshake import PATH

#: The time limit of the opening handshake and the first frame; above any commit, below a person's patience.
_ANSWER_S = 30.0
_CLOSE_S = 5.0


class WebSocketDeviceClient(DeviceClient):
    """A device on a WebSocket.

    Args:
        form: the subprotocol, ``fleetcore.v1`` or ``fleetcore.v1.cbor``.
        browser: sends the token as a subprotocol, as a browser's script must.
    """

    def __init__(
        self, endpoint: str, secrets: DeviceSecrets, *, form: str = "fleetcore.v1", browser: bool = False
    ) -> None:
        self._url = endpoint if urlsplit(endpoint).path not in {"", "/"} else endpoint.rstrip("/") + PATH
        self._secrets, self._form, self._browser = secrets, FORMS[form], browser
        self._socket: ClientConnection | None = None
        self._numbers = count(1)
        self._replies: dict[int, asyncio.Future[Reply]] = {}
        #: The lengths of the frames of messages without a reply: the longest is what the server finds too big.
        self._lengths: dict[int, int] = {}
        self._downlinks: asyncio.Queue[Downlink | None] = asyncio.Queue()
        self._in_order = asyncio.Lock()
        self._reading: asyncio.Task[None] | None = None
        self.hello: Mapping[str, object] = {}

    async def __aenter__(self) -> Self:
        """Connects and waits for the server's ``hello``; without a credential, only :meth:`enroll` connects.

        Raises:
            Unavailable: no answer, or the TLS handshake fails.
            NotAuthenticated, NotAuthorised: the credential is refused.
        """
        secrets = self._secrets
        if secrets.token is None and secrets.certificate is None:
            return self
        offered, headers = [Subprotocol(self._form.name)], {}
        if secrets.token and self._browser:
            offered.append(Subprotocol(TOKEN_PREFIX + secrets.token))
        elif secrets.token:
            headers["Authorization"] = f"Bearer {secrets.token}"
        try:
            self._socket = await connect(
                self._url,
                ssl=secrets.tls() if self._url.startswith("wss:") else None,
                subprotocols=offered,
                additional_headers=headers,
                compression=None,
                proxy=None,
                max_size=None,
                open_timeout=_ANSWER_S,
                close_timeout=_CLOSE_S,
                user_agent_header=None,
            )
        except InvalidStatus as error:
            raise _refused(error.response.status_code, error.response.body) from error
        except (OSError, TimeoutError, EOFError, InvalidHandshake, InvalidURI) as error:
            raise Unavailable(f"{self._url} does not answer: {error}", code="not_ready") from error
        try:
            await self._greet(self._socket)
        except BaseException:
            await self._socket.close()
            raise
        self._reading = asyncio.create_task(self._read(self._socket), name="websocket client")
        return self

    async def _greet(self, socket: ClientConnection) -> None:
        try:
            async with asyncio.timeout(_ANSWER_S):
                frame = self._form.plain(_bytes(await socket.recv()))
        except ConnectionClosed as error:
            code, reason = (0, "") if error.rcvd is None else (error.rcvd.code, error.rcvd.reason)
            if code == Close.CREDENTIAL:
                raise NotAuthenticated(reason, code=_known(reason)) from error
            if code == Close.REVOKED:
                raise NotAuthorised(reason, code=_known(reason)) from error
            raise Unavailable(f"{self._url} closed: {code} {reason}", code="not_ready") from error
        except TimeoutError as error:
            raise Unavailable(f"{self._url} says nothing", code="not_ready") from error
        body = frame.get("body") if isinstance(frame, dict) and frame.get("op") == "hello" else None
        if not isinstance(body, dict):
            raise Unavailable(f"{self._url} is not a fleetcore server", code="not_ready")
        self.hello = body

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._socket is not None:
            await self._socket.close()
        if self._reading is not None:
            await self._reading

    async def _read(self, socket: ClientConnection) -> None:
        lost: Exception = Unavailable("The connection is closed", code="not_ready")
        try:
            async for received in socket:
                frame = self._form.plain(_bytes(received))
                if isinstance(frame, dict):
                    self._take(frame)
        except ConnectionClosed as error:
            lost = Unavailable(f"The connection is lost: {error}", code="not_ready")
        finally:
            replies, self._replies = self._replies, {}
            too_big = max(replies, key=self._lengths.__getitem__, default=0)
            for number, reply in replies.items():
                if reply.done():
                    continue
                if number == too_big and socket.close_code == Close.TOO_BIG:
                    reply.set_result(refusal(Rejected(code="limit_exceeded", reason=socket.close_reason or "")))
                else:
                    reply.set_exception(lost)
            self._downlinks.put_nowait(None)

    def _take(self, frame: Mapping[str, object]) -> None:
        op, body = frame.get("op"), frame.get("body")
        if op is None:
            number = frame.get("re")
            waiting = self._replies.pop(number, None) if isinstance(number, int) else None
            if waiting is not None and not waiting.done():
                waiting.set_result(_reply(frame))
            return
        row = messages.NAMED.get(str(op))
        if row is not None and isinstance(body, dict):
            device, target = frame.get("device"), frame.get("target")
            subject = device if isinstance(device, str) else self._secrets.device
            target = target if isinstance(target, str) else None
            self._downlinks.put_nowait(Downlink(type=row, subject=subject, body=body, target=target))

    async def send(
        self,
        type: MessageType,
        body: object,
        *,
        subject: str | None = None,
        target: str | None = None,
        id: str | None = None,
    ) -> Reply:
        socket = self._socket
        if socket is None:
            raise Refused(
                "The client is not connected", remedy="Enter it as an async context manager, with a credential"
            )
        number = next(self._numbers)
        given = {"device": subject, "target": target, "message_id": id}
        members: dict[str, object] = {"op": type.name, "id": number}
        members |= {name: value for name, value in given.items() if value is not None}
        if isinstance(body, bytes | bytearray | memoryview):
            members |= self._form.body(bytes(body))
        elif body is not None:
            members["body"] = body
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        data = self._form.write(members)
        try:
            async with self._in_order:
                if self._reading is None or self._reading.done():
                    raise Unavailable("The connection is closed", code="not_ready")
                self._replies[number], self._lengths[number] = reply, len(data)
                await socket.send(data, text=self._form.name == "fleetcore.v1")
            return await reply
        except ConnectionClosed as error:
            if self._reading is not None:
                await asyncio.wait({self._reading})
            if reply.done():
                return reply.result()
            raise Unavailable(f"The connection is lost: {error}", code="not_ready") from error
        finally:
            self._replies.pop(number, None)
            self._lengths.pop(number, None)
            if reply.done() and not reply.cancelled():
                with suppress(FleetError):  # retrieved, so that asyncio does not report it
                    reply.exception()

    async def request(self, type: MessageType, body: object = None, *, subject: str | None = None) -> Reply:
        return await self.send(type, body, subject=subject)

    async def downlinks(self) -> AsyncIterator[Downlink]:
        """Yields the server's pushes; ends when the connection does."""
        while (downlink := await self._downlinks.get()) is not None:
            yield downlink
        self._downlinks.put_nowait(None)

    @property
    def ended(self) -> str:
        reason = None if self._socket is None else self._socket.close_reason
        return _known(reason) or ""

    async def enroll(self, request: EnrollRequest) -> Reply:
        """Enrols with the claim certificate in the secrets, or with ``request.token`` on a separate connection."""
        if self._socket is not None:
            return await claiming.enroll(request, partial(self.request, messages.ENROLL))
        if request.token is None:
            raise Refused(
                "A WebSocket can enrol with a claim certificate or an enrolment token",
                code="operation_unknown",
                remedy="Use one of them, or enrol over HTTP",
            )
        async with self._with(evolve(self._secrets, token=request.token)) as client:
            return await client.enroll(evolve(request, token=None))

    def _with(self, secrets: DeviceSecrets) -> "WebSocketDeviceClient":
        return WebSocketDeviceClient(self._url, secrets, form=self._form.name, browser=self._browser)

    def artifact(self, sha256: str, start: int = 0, *, subject: str | None = None) -> AsyncIterator[bytes]:
        del sha256, start, subject
        raise Refused("A WebSocket cannot transfer artifacts", code="operation_unknown", remedy="Download over HTTP")


def _bytes(received: str | bytes) -> bytes:
    return received.encode() if isinstance(received, str) else received


def _reply(frame: Mapping[str, object]) -> Reply:
    error, body, status = frame.get("error"), frame.get("body"), frame.get("status")
    version, etag = frame.get("version"), frame.get("etag")
    version = version if isinstance(version, int) else None
    etag = etag if isinstance(etag, str) else None
    if isinstance(error, dict):
        status = error.get("status")
        return Reply(status=status if isinstance(status, int) else 500, error=error, version=version)
    return Reply(
        status=status if isinstance(status, int) else 200,
        body=body if isinstance(body, dict) else None,
        etag=etag,
        version=version,
    )


def _known(code: object) -> str | None:
    return code if isinstance(code, str) and code in CODES else None


def _refused(status: int, body: bytes | bytearray | None) -> FleetError:
    """An answer other than 101 as the exception of the interface."""
    try:
        problem = json.loads(body or b"{}")
    except ValueError:
        problem = {}
    problem = problem if isinstance(problem, dict) else {}
    text = str(problem.get("detail") or problem.get("title") or f"status {status}")
    code = _known(problem.get("code"))
    if status == 401:
        return NotAuthenticated(text, code=code)
    if status == 403:
        return NotAuthorised(text, code=code)
    if status in {429, 503, 507}:
        return Unavailable(text, code=code)
    return Refused(text, code=code or "protocol_violation")
