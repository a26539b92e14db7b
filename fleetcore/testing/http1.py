"""HTTP/1.1 as clients of cloud hubs use it, on asyncio alone: several thousand requests a second per core.

Serves simulated hubs on the loopback: no chunked requests, no pipelining. A handler may also have its answer truncated
or its connection closed; and a request may be cut, so that no handler gets it.
"""

import asyncio
import http
import ssl
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Literal, Self
from urllib.parse import parse_qsl, unquote

from attrs import evolve, field, frozen

_STATUS = {each.value: each.phrase for each in http.HTTPStatus}


@frozen(kw_only=True)
class Request:
    """One request; ``path`` as received, ``query`` decoded, header names in lower case."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    target: str = ""


@frozen(kw_only=True)
class Answer:
    """One answer.

    Attributes:
        fate: ``half`` sends the head and half of the body, ``none`` nothing; both close the connection.
    """

    status: int = 200
    body: bytes = b"{}"
    headers: Mapping[str, str] = field(factory=dict)
    fate: Literal["whole", "half", "none"] = "whole"


Handler = Callable[[Request], Awaitable[Answer]]

#: How much of a request is read, decided from its head: all, or half of its head or body, after which the connection
#: dies.
Read = Literal["whole", "head", "body"]
Reader = Callable[[Request], Read]


def whole(request: Request) -> Read:
    """Cuts nothing."""
    del request
    return "whole"


class _Connection(asyncio.Protocol):
    def __init__(self, handler: Handler, reader: Reader, connections: "set[_Connection]") -> None:
        self._handler, self._reader, self._connections = handler, reader, connections
        #: The request that is being received.
        self._read: Read | None = None
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._connections.discard(self)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._task is None:
            self._next()

    def _next(self) -> None:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0 or self._transport is None:
            return
        lines = self._buffer[:end].decode("latin-1").split("\r\n")
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        length = int(headers.get("content-length", "0"))
        method, target, _ = lines[0].split(" ", 2)
        path, _, query = target.partition("?")
        request = Request(
            method=method,
            path=path,
            query=dict(parse_qsl(query, keep_blank_values=True)),
            headers=headers,
            body=b"",
            target=target,
        )
        if self._read is None:
            self._read = self._reader(request)
        received = len(self._buffer) - end - 4
        if self._read == "head" or (self._read == "body" and received >= length // 2):
            self._transport.abort()
            return
        if received < length:
            if headers.get("expect") == "100-continue":
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            return
        request = evolve(request, body=self._buffer[end + 4 : end + 4 + length])
        self._buffer, self._read = self._buffer[end + 4 + length :], None
        self._task = asyncio.get_running_loop().create_task(self._answer(request), name=f"counterpart {method} {path}")

    async def _answer(self, request: Request) -> None:
        try:
            answer = await self._handler(request)
        except Exception as error:  # noqa: BLE001 - a counterpart that errs answers as a service that errs
            answer = Answer(status=500, body=repr(error).encode())
        transport = self._transport
        self._task = None
        if transport is None or transport.is_closing():
            return
        if answer.fate == "none":
            transport.abort()
            return
        head = f"HTTP/1.1 {answer.status} {_STATUS.get(answer.status, '')}\r\n"
        for name, value in {"content-type": "application/json", **answer.headers}.items():
            head += f"{name}: {value}\r\n"
        head += f"content-length: {len(answer.body)}\r\n\r\n"
        if answer.fate == "half":
            transport.write(head.encode() + answer.body[: len(answer.body) // 2])
            transport.close()
            return
        transport.write(head.encode() + answer.body)
        self._next()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()
        if self._task is not None:
            self._task.cancel()


class Server:
    """Listens on a loopback port, with TLS if it has a context; an async context manager."""

    def __init__(
        self, handler: Handler, port: int = 0, *, tls: ssl.SSLContext | None = None, reader: Reader = whole
    ) -> None:
        self._handler, self._port, self._tls, self._reader = handler, port, tls, reader
        self._connections: set[_Connection] = set()
        self._server: asyncio.Server | None = None
        self.endpoint = ""

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Connection(self._handler, self._reader, self._connections), "127.0.0.1", self._port, ssl=self._tls
        )
        scheme = "http" if self._tls is None else "https"
        self.endpoint = f"{scheme}://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for connection in list(self._connections):
            connection.close()
        await self._server.wait_closed()


async def forwarded(endpoint: str, request: Request) -> Answer:
    """The answer of another server to a request. Raises OSError without an answer."""
    host, _, port = endpoint.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        head = f"{request.method} {request.target} HTTP/1.1\r\n"
        left_out = {"connection", "content-length", "expect"}
        for name, value in request.headers.items():
            if name not in left_out:
                head += f"{name}: {value}\r\n"
        head += f"content-length: {len(request.body)}\r\nconnection: close\r\n\r\n"
        writer.write(head.encode("latin-1") + request.body)
        status = (await reader.readline()).decode("latin-1").split(" ", 2)
        headers: dict[str, str] = {}
        while line := (await reader.readline()).decode("latin-1").strip():
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        body = await reader.read()
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
    kept = {name: value for name, value in headers.items() if name.startswith("x-amz") or name == "content-type"}
    return Answer(status=int(status[1]), body=body, headers=kept)


def unquoted(part: str) -> str:
    """A part of a path, decoded."""
    return unquote(part)
