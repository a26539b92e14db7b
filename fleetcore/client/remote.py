"""A remote fleet over its operators' API: in asyncio, and blocking."""

import asyncio
import math
import ssl
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import httpx

from fleetcore.calls.types import from_builtins
from fleetcore.client import wire
from fleetcore.errors import Refused
from fleetcore.frontends.async_fleet import AsyncFleet
from fleetcore.frontends.blocking_fleet import BlockingFleet
from fleetcore.frontends.catalogue import CallInfo, Catalogue, core, read
from fleetcore.frontends.requests import answer, is_served, request
from fleetcore.wire.pieces import async_pieces

T = TypeVar("T")


class AsyncFleetClient(AsyncFleet):
    """A remote fleet, with the calls of :class:`IoTFleetManager`.

    Args:
        url: the address of the operators' API, ``https://HOST:PORT``.
        token: a token of ``fleetcore token create``.
        ca: the fleet's CA (``pki/ca.pem`` of its data folder); None trusts the system's CAs.

    Each read sees this client's earlier writes. Reads, and POSTs, which get an idempotency key here, are retried while
    the server is unreachable or busy. The client raises the same errors as the library, and Unavailable without an
    answer. Tasks of the server's shell (backup, plugins, fleet.toml) are not available here.
    """

    def __init__(self, url: str, token: str, *, ca: str | Path | None = None) -> None:
        self._url = wire.base_of(url)
        self._position: str | None = None
        self._served = Catalogue(())
        # Without TLS there is nothing to verify: an empty context, since reading the system's CAs takes 50 ms.
        verify = wire.trust(ca) if self._url.startswith("https") else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._http = httpx.AsyncClient(
            base_url=self._url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=wire.TIMEOUT_S,
            verify=verify,
        )

    async def close(self) -> None:
        """Closes the connections; idempotent."""
        await self._http.aclose()

    # --- requests -----------------------------------------------------------------------------------------------

    async def _answer(
        self,
        method: str,
        at: str,
        *,
        body: object = None,
        content: bytes | AsyncIterator[bytes] | None = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = wire.TIMEOUT_S,
    ) -> httpx.Response:
        sent = dict(headers or {})
        if method == "POST" and content is None:
            sent.setdefault("Idempotency-Key", wire.fresh_key())
        if self._position is not None and (method == "GET" or at == "/queries"):
            sent["Fleetcore-Position"] = self._position
        if content is not None:
            sent["Content-Type"] = "application/octet-stream"
        for attempt in range(1, wire.ATTEMPTS + 1):
            try:
                answer = await self._http.request(
                    method,
                    at,
                    json=body,
                    content=content,
                    params=params,
                    headers=sent,
                    timeout=timeout_s,
                )
            except httpx.TransportError as error:
                again = method in ("GET", "POST") and (content is None or isinstance(content, bytes))
                if attempt == wire.ATTEMPTS or not again or isinstance(error, httpx.ConnectError):
                    raise wire.unreachable(self._url, error) from error
                wait_s = 0.2 * 2**attempt
            else:
                if answer.is_success:
                    self._position = answer.headers.get(wire.POSITION, self._position)
                    return answer
                again_s = wire.again_after(answer.status_code, answer.headers, attempt)
                if again_s is None or not (content is None or isinstance(content, bytes)):
                    raise wire.refusal(answer.status_code, answer.content)
                wait_s = again_s
            await asyncio.sleep(wait_s)
        raise AssertionError

    async def _value(self, name: str, given: Mapping[str, Any], kind: type[T]) -> T:
        if name == "wait_idle":  # a read waits until the consumers have processed this client's writes
            await self._answer("GET", "/devices", params={"limit": 1})
            return from_builtins(None, kind)
        call = await self._known(name)
        sent, begun_s = request(call, given), wire.now_s()
        source, wait_s = sent.source, given.get("wait_s", 0.0)
        # The server refuses any other value.
        wait_s = float(wait_s) if isinstance(wait_s, int | float) and math.isfinite(wait_s) else 0.0
        answered = await self._answer(
            sent.method, sent.path, body=sent.body, params=sent.query, headers=sent.headers,
            content=source if source is None or isinstance(source, bytes) else async_pieces(source),
            timeout_s=min(wait_s, wire.WAIT_S) + (wire.TIMEOUT_S if source is None else wire.UPLOAD_TIMEOUT_S),
        )  # fmt: skip
        found = answer(call, answered.content, kind)
        if name == "send_command":
            # The server's limit for a wait is shorter: ask again for the rest of the time.
            command: Any = found
            while (left_s := wait_s - (wire.now_s() - begun_s)) > 0 and command["finished_at"] is None:
                await asyncio.sleep(min(1.0, left_s))
                found = command = await self._value("get_command", {"command": command["id"]}, kind)
        return found

    async def _stream(self, name: str, given: Mapping[str, Any], kind: type[T]) -> AsyncIterator[T]:
        """Reconnects when the stream breaks, and continues after the last position."""
        sent = request(await self._known(name), given)
        events, headers = wire.Events(), dict(sent.headers)
        while True:
            try:
                asked = self._http.stream(sent.method, sent.path, params=sent.query, headers=headers, timeout=60.0)
                async with asked as answer:
                    if not answer.is_success:
                        raise wire.refusal(answer.status_code, await answer.aread())
                    async for line in answer.aiter_lines():
                        item = events.take(line)
                        if item is not None:
                            yield from_builtins(item, kind)
                        elif events.ended:
                            return
            except httpx.ConnectError as error:
                raise wire.unreachable(self._url, error) from error
            except httpx.TransportError:
                pass  # it was cut off, like a stream that ends silently
            await asyncio.sleep(wire.AGAIN_S)
            if events.last is not None:
                headers["Last-Event-ID"] = events.last

    async def catalogue(self) -> bytes:
        """The server's calls, including its plugins', as :func:`fleetcore.frontends.catalogue.read` decodes them."""
        return (await self._answer("GET", "/calls")).content

    async def _known(self, name: str) -> CallInfo:
        """A call of the core, or of the server's plugins; raises Refused where the server does not have it."""
        call = core().get(name) or self._served.get(name)
        if call is None:
            self._served = read(await self.catalogue())
            call = self._served.get(name)
        if call is None or (call.route and name not in core() and not is_served(call)):
            raise Refused(f"Call {name!r} does not exist", code="operation_unknown")
        if not call.route:
            raise Refused(
                f"{name} is possible only on the server's machine",
                code="operation_unknown",
                remedy="Run it there, on the data folder: --data FOLDER",
            )
        return call


class FleetClient(BlockingFleet[AsyncFleetClient]):
    """The same, blocking, with the arguments of :class:`AsyncFleetClient`."""

    def __init__(self, url: str, token: str, *, ca: str | Path | None = None) -> None:
        super().__init__(AsyncFleetClient(url, token, ca=ca))
