"""The client in asyncio. ``scripts/client.py`` makes the blocking one of this file: change only this one."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from fleetcore.calls.responses.operations import OperationResponse
from fleetcore.calls.types import from_builtins
from fleetcore.client import wire
from fleetcore.client.wire import given, match
from fleetcore.errors import Refused
from fleetcore.frontends.catalogue import CallInfo, Catalogue, core, read
from fleetcore.frontends.generated.calls_async import AsyncCalls
from fleetcore.frontends.registration import registration
from fleetcore.frontends.requests import answer, request
from fleetcore.model.operation import OperationState
from fleetcore.views import TelemetryView, View
from fleetcore.wire.pieces import async_pieces

T = TypeVar("T")
#: Checkpoints that a request takes.
_CHECKPOINTS = 250


class AsyncFleetClient(AsyncCalls):
    """A remote fleet, with the calls of :class:`IoTFleetManager`.

    Args:
        url: where the operators' API listens, ``https://HOST:PORT``.
        token: a token of ``fleetcore token create``.
        ca: the fleet's CA (``pki/ca.pem`` of its data folder); None believes the system's.

    Each read sees what this client wrote before. A read, and a POST with the key that it is given here, is tried again
    where the server is away or busy. The same errors are raised as by the library, and Unavailable where nothing
    answers. What stays in the server's own shell (backup, plugins, fleet.toml) is not here.
    """

    def __init__(self, url: str, token: str, *, ca: str | Path | None = None) -> None:
        self._url = wire.base_of(url)
        self._position: str | None = None
        self._served = Catalogue(())
        verify: ssl.SSLContext | bool = wire.trust(ca) if self._url.startswith("https") else True
        self._http = httpx.AsyncClient(
            base_url=self._url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=wire.TIMEOUT_S,
            verify=verify,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

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

    async def call(self, name: str, /, **given: Any) -> Any:
        """A call by its name, as plain data; raises Refused where the server has none."""
        return await self._value(name, given, Any)

    async def _value(self, name: str, given: Mapping[str, Any], kind: type[T]) -> T:
        sent, begun_s = request(await self._known(name), given), wire.now_s()
        source, wait_s = sent.source, float(given.get("wait_s") or 0.0)
        answered = await self._answer(
            sent.method, sent.path, body=sent.body, params=sent.query, headers=sent.headers,
            content=source if source is None or isinstance(source, bytes) else async_pieces(source),
            timeout_s=min(wait_s, wire.WAIT_S) + (wire.TIMEOUT_S if source is None else wire.UPLOAD_TIMEOUT_S),
        )  # fmt: skip
        found = answer(answered.content, kind)
        if name == "send_command":
            # The server waits shorter than it was asked to: the rest of the time it is asked again.
            command: Any = found
            while (left_s := wait_s - (wire.now_s() - begun_s)) > 0 and command["finished_at"] is None:
                await asyncio.sleep(min(1.0, left_s))
                found = command = await self._value("get_command", {"command": command["id"]}, kind)
        return found

    def stream(self, name: str, /, **given: Any) -> AsyncIterator[Any]:
        """The items of a call that streams, by its name."""
        return self._stream(name, given, Any)

    async def _stream(self, name: str, given: Mapping[str, Any], kind: type[T]) -> AsyncIterator[T]:
        """Connects again where the stream breaks, and goes on after the last position."""
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
            except httpx.ConnectError as error:
                raise wire.unreachable(self._url, error) from error
            except httpx.TransportError:
                await asyncio.sleep(1.0)
            if events.last is not None:
                headers["Last-Event-ID"] = events.last

    async def catalogue(self) -> bytes:
        """The server's calls, its plugins' among them, as :func:`fleetcore.frontends.catalogue.read` reads them."""
        return (await self._answer("GET", "/calls")).content

    async def _known(self, name: str) -> CallInfo:
        """A call of the core, or of the server's plugins; raises Refused where the server does not serve it."""
        call = core().get(name) or self._served.get(name)
        if call is None:
            self._served = read(await self.catalogue())
            call = self._served.get(name)
        if call is None:
            raise Refused(f"There is no call {name!r}", code="operation_unknown")
        if not call.route:
            raise Refused(
                f"{name} belongs to the server's own machine",
                code="operation_unknown",
                remedy="Run it there, on the data folder: --data FOLDER",
            )
        return call

    async def _get(self, at: str, /, **params: Any) -> Any:
        return (await self._answer("GET", at, params=given(**params))).json()

    async def _post(self, at: str, body: object = None, /, **params: Any) -> Any:
        return (await self._answer("POST", at, body={} if body is None else body, params=given(**params))).json()

    async def _patch(self, at: str, body: object, version: int | None = None, **params: Any) -> Any:
        answer = await self._answer("PATCH", at, body=body, params=given(**params), headers=match(version))
        return answer.json()

    async def _delete(self, at: str, reason: str, **params: Any) -> httpx.Response:
        return await self._answer("DELETE", at, params=params | ({"reason": reason} if reason else {}))

    async def _all(self, at: str, most: int | None = None, page: int = wire.PAGE, **params: Any) -> list[View]:
        """Items of all pages, or the first ``most``."""
        found: list[View] = []
        cursor: str | None = None
        while most is None or len(found) < most:
            limit = page if most is None else min(page, most - len(found))
            answer = await self._get(at, **params, limit=limit, cursor=cursor)
            found += [View(one) for one in answer["items"]]
            cursor = answer["next"]
            if cursor is None:
                break
        return found

    # --- devices ------------------------------------------------------------------------------------------------

    async def register_device(
        self, device_id: str, device_type: str, properties: Mapping[str, Any] | None = None, *, reason: str = ""
    ) -> str:
        """Registers a device and returns its id: ``create_device`` with free members."""
        members = registration(properties)
        return (await self.create_device(device_id, device_type, **members, reason=reason)).id

    # --- operations ---------------------------------------------------------------------------------------------

    async def run_operation(self, operation: str) -> OperationResponse:
        """Waits until long work has ended."""
        while True:
            current = await self.get_operation(operation)
            if current.state is not OperationState.RUNNING:
                return current
            await asyncio.sleep(wire.LOOK_S)

    # --- telemetry ----------------------------------------------------------------------------------------------

    async def query_telemetry(
        self, device_id: str, metric: str, *, start: int | str | None = None, end: int | str | None = None
    ) -> TelemetryView:
        """The points of a series with ``start <= time < end``, as columns, numbers and text alike."""
        pages = self.iter_readings(metric, device=device_id, start=start, end=end, points=wire.POINTS)
        return TelemetryView.of(device_id, metric, [part async for part in pages])

    async def settle(self) -> None:
        """Returns once groups, layers, detectors and the audit log have seen what this client wrote."""
        await self._get("/devices", limit=1)

    # --- twins and commands -------------------------------------------------------------------------------------

    # --- firmware, edge, health ---------------------------------------------------------------------------------
