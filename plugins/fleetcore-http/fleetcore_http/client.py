"""The device side of HTTP: for simulated devices, for gateways in Python, and for the tests of the server.

It behaves as a good device: one message at a time, a long poll on the inbox beside it, an artifact resumed where it
broke off. It saves nothing: its owner decides what to do after :class:`~fleetcore.errors.Unavailable`.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Self

import aiohttp

from fleetcore.errors import Refused, Unavailable
from fleetcore.interfaces.protocol import DeviceClient, DeviceSecrets, EnrollRequest
from fleetcore.model.message import Downlink, MessageType, Reply
from fleetcore.wire import messages
from fleetcore.wire.asking_again import AskAgain
from fleetcore.wire.csr import as_pem
from fleetcore.wire.inbox import Inbox
from fleetcore.wire.replies import error_of

_PREFIX = "/device/v1/"

#: Below the 55 s of wire.md §7; waiting longer gains nothing.
_WAIT_S = 50

#: The time limit of an answer other than a long poll's; above any commit, below a person's patience.
_ANSWER_S = 30.0

#: How often a download may break off without a further byte.
_DOWNLOAD_TRIES = 3

_PIECE_BYTES = 64 * 1024


class HttpDeviceClient(DeviceClient):
    """A device on HTTP/1.1. Messages use one kept-alive connection one after the other, so they stay in order.

    The long poll of :meth:`downlinks` and a download use separate connections. Downlinks are those of the device
    itself; a gateway asks for those of its leaves with ``messages.INBOX`` and a ``subject``.
    """

    def __init__(self, endpoint: str, secrets: DeviceSecrets) -> None:
        self._endpoint = endpoint.rstrip("/")
        self._secrets = secrets
        self._http: aiohttp.ClientSession | None = None
        self._in_order = asyncio.Lock()
        self._inbox = Inbox(secrets.device)
        self._closing = asyncio.Event()

    async def __aenter__(self) -> Self:
        """Connects; fails if the credential, if there is one, is refused.

        Raises:
            Unavailable: no answer, or the TLS handshake fails.
            NotAuthenticated, NotAuthorised: the credential is refused.
        """
        tls = self._secrets.tls() if self._endpoint.startswith("https:") else False
        headers = {"Authorization": f"Bearer {self._secrets.token}"} if self._secrets.token else {}
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=tls, limit=0, keepalive_timeout=600.0),
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=None),
            skip_auto_headers=("Content-Type", "User-Agent"),
        )
        try:
            _raise(await self._exchange("GET", self._url("")))
        except BaseException:
            await self._http.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._inbox.stir()
        if self._http is not None:
            await self._http.close()

    async def send(
        self,
        type: MessageType,
        body: object,
        *,
        subject: str | None = None,
        target: str | None = None,
        id: str | None = None,
    ) -> Reply:
        if type.path is None or type.methods[0] == "GET":
            raise Refused(f"{type} cannot be sent over HTTP", code="operation_unknown")
        headers: dict[str, str] = {}
        if isinstance(body, bytes | bytearray | memoryview):
            data = bytes(body)  # the caller has encoded ready bytes; the server checks them
        else:
            data = _json(body)
            headers["Content-Type"] = next(iter(type.media_types), "application/json")
        if id is not None:
            headers["Idempotency-Key"] = id
        url = self._url(type.path.replace("{target}", target or ""), subject)
        async with self._in_order:
            reply = await self._exchange(type.methods[0], url, data=data, headers=headers)
        if type is not messages.TELEMETRY:
            self._inbox.stir()
        return reply

    async def request(self, type: MessageType, body: object = None, *, subject: str | None = None) -> Reply:
        if type.path is None or type.methods[0] != "GET":
            return await self.send(type, {} if body is None else body, subject=subject)
        members = body if isinstance(body, Mapping) else {}
        query = {name: str(value) for name, value in members.items()}
        wait_s = float(query.get("wait", 0))
        url = self._url(type.path, subject)
        if wait_s:
            return await self._exchange("GET", url, query=query, answer_s=wait_s + _ANSWER_S)
        async with self._in_order:
            return await self._exchange("GET", url, query=query)

    async def downlinks(self) -> AsyncIterator[Downlink]:
        """Yields the waiting items of the device, by long polls on the inbox; ends when the client closes.

        The inbox is a snapshot and reading it removes nothing, so items yielded before are left out.

        Raises:
            Unavailable: the connection is lost.
            NotAuthenticated, NotAuthorised: the device has lost its rights.
        """
        while not self._closing.is_set():
            query = {"wait": str(_WAIT_S), "since": str(self._inbox.desired_version)}
            try:
                reply = await self._exchange("GET", self._url("inbox"), query=query, answer_s=_WAIT_S + _ANSWER_S)
            except Unavailable:
                if self._closing.is_set():
                    return
                raise
            if reply.error is not None:
                error = error_of(reply)
                if not isinstance(error, Unavailable):
                    raise error
                await self._inbox.pause(error.retry_after_s, self._closing)
                continue
            fresh = self._inbox.fresh(reply.body or {})
            for downlink in fresh:
                yield downlink
            if reply.body is not None:
                await self._inbox.rest(self._closing, idle=not fresh)

    async def enroll(self, request: EnrollRequest) -> Reply:
        body: dict[str, object] = {"csr": as_pem(request.csr).decode("ascii"), "parameters": dict(request.parameters)}
        if request.token is not None:
            body["token"] = request.token
        headers = {"Content-Type": "application/json"}
        async with self._in_order:
            return await self._exchange("POST", self._url("enroll"), data=_json(body), headers=headers)

    async def artifact(self, sha256: str, start: int = 0, *, subject: str | None = None) -> AsyncIterator[bytes]:
        """Downloads from byte ``start``; resumes a broken connection by Range. Does not check the digest.

        Raises:
            NotFound: ``artifact_unknown``, no open offer names it.
            Unavailable: the connection broke three times without a byte in between, or the server had no slot for the
                download for an hour.
        """
        at, tries, again = start, 0, AskAgain()
        while True:
            begun = at
            try:
                async for piece in self._download(sha256, at, subject):
                    at += len(piece)
                    yield piece
            except Unavailable as error:
                if not self._closing.is_set() and await again.wait(error):
                    continue
                tries = 1 if at > begun else tries + 1
                if tries >= _DOWNLOAD_TRIES or self._closing.is_set():
                    raise
            else:
                return

    async def _download(self, sha256: str, start: int, subject: str | None) -> AsyncIterator[bytes]:
        headers = {"Range": f"bytes={start}-", "If-Range": f'"{sha256}"'} if start else {}
        timeout = aiohttp.ClientTimeout(total=None, sock_read=_ANSWER_S)
        try:
            async with self._session.get(
                self._url(f"artifacts/{sha256}", subject), headers=headers, timeout=timeout
            ) as response:
                if response.status == 416 and response.headers.get("Content-Range") == f"bytes */{start}":
                    return  # the whole artifact was there already
                if response.status not in {200, 206}:
                    _raise(_reply(response, await response.read()))
                skip = start if response.status == 200 else 0
                async for piece in response.content.iter_chunked(_PIECE_BYTES):
                    if skip < len(piece):
                        yield piece[skip:]
                    skip = max(0, skip - len(piece))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unavailable(f"The download broke off: {error}", code="not_ready") from error

    @property
    def _session(self) -> aiohttp.ClientSession:
        if self._http is None:
            raise Refused("The client is not entered", remedy="Use it as an async context manager")
        return self._http

    def _url(self, path: str, subject: str | None = None) -> str:
        leaf = f"leaf/{subject}/" if subject is not None and subject != self._secrets.device else ""
        return f"{self._endpoint}{_PREFIX}{leaf}{path}"

    async def _exchange(
        self,
        method: str,
        url: str,
        *,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
        answer_s: float = _ANSWER_S,
    ) -> Reply:
        timeout = aiohttp.ClientTimeout(total=answer_s)
        session = self._session
        try:
            async with session.request(
                method, url, data=data, headers=headers, params=query, timeout=timeout, allow_redirects=False
            ) as response:
                return _reply(response, await response.read())
        except (aiohttp.ClientError, TimeoutError, OSError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not session.closed:
                raise
            raise Unavailable(f"{self._endpoint} does not answer: {error}", code="not_ready") from error


def _json(body: object) -> bytes:
    return json.dumps(body, separators=(",", ":"), allow_nan=False).encode()


def _reply(response: aiohttp.ClientResponse, content: bytes) -> Reply:
    """An answer as the reply type of all protocols."""
    body: Mapping[str, object] | None = None
    if content and response.content_type in {"application/json", "application/problem+json"}:
        try:
            parsed = json.loads(content)
        except ValueError:
            parsed = None
        body = parsed if isinstance(parsed, dict) else None
    wait = response.headers.get("Retry-After", "")
    if response.status >= 400:
        problem = dict(body or {"code": "internal", "title": response.reason, "status": response.status})
        if wait.isdigit():
            problem.setdefault("retry_after_s", int(wait))
        return Reply(status=response.status, error=problem)
    if response.status == 202 and wait.isdigit():
        body = {"retry_after_s": int(wait), **(body or {})}
    etag = response.headers.get("ETag")
    return Reply(status=response.status, body=body, etag=etag, version=_version(etag))


def _version(etag: str | None) -> int | None:
    """The reported version in the ETag of a twin, ``"d12.r40"``."""
    digits = etag.strip('"').rpartition("r")[2] if etag and "r" in etag else ""
    return int(digits) if digits.isdigit() else None


def _raise(reply: Reply) -> None:
    if reply.error is not None:
        raise error_of(reply)
