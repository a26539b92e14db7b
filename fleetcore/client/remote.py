"""A remote fleet over its operators' API: in asyncio, and blocking."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import httpx

from fleetcore.calls.types import from_builtins
from fleetcore.client import wire
from fleetcore.client.wire import given, match, path
from fleetcore.errors import Refused
from fleetcore.frontends.async_fleet import AsyncFleet
from fleetcore.frontends.blocking_fleet import BlockingFleet
from fleetcore.frontends.catalogue import CallInfo, Catalogue, core, read
from fleetcore.frontends.requests import answer, request
from fleetcore.views import View
from fleetcore.wire.pieces import async_pieces

T = TypeVar("T")
#: Checkpoints that a request takes.
_CHECKPOINTS = 250


class AsyncFleetClient(AsyncFleet):
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
        """A call of the core, or of the server's plugins; raises Refused where the server has none."""
        call = core().get(name) or self._served.get(name)
        if call is None:
            self._served = read(await self.catalogue())
            call = self._served.get(name)
        if call is None:
            raise Refused(f"There is no call {name!r}", code="operation_unknown")
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

    # --- certificates -----------------------------------------------------------------------------------------

    async def check_certificate(self, pem: str) -> View:
        """What a certificate (PEM) is worth here and now: ``valid``, and ``refusal`` says why not."""
        return View(given(**await self._post("/certificate-checks", {"pem": pem})))

    async def get_crl(self) -> View:
        """The revocation lists of every issuing CA that has living certificates: ``crl``, PEM, one after the other."""
        return View(await self._get("/revocation-lists"))

    async def list_cas(self) -> list[View]:
        """The CAs: roots, issuing CAs, former ones, the cross certificate; which signs, and when each is due."""
        return await self._all("/cas")

    async def forecast_certificates(
        self,
        *,
        per: str = "week",
        periods: int = 12,
        by: str | None = None,
        where: str | None = None,
        next: int = 10,
    ) -> View:
        """How many certificates end in each of the next weeks or months, by ``type`` or ``group``; the late renewers.

        Beside the devices' it tells when the CAs and the server's own certificates end.
        """
        asked = {"per": per, "periods": periods, "by": by, "where": where, "next": next}
        return View(await self._get("/certificate-forecast", **asked))

    async def ca_incident(self, ca: str) -> View:
        """Devices with certificates of an issuing CA, by its id; ``sole_certificate``: they have no other."""
        return View(await self._get(path("cas", ca, "incident")))

    async def distrust_ca(self, ca: str, *, force: bool = False, reason: str = "") -> View:
        """Ends trust in an issuing CA whose key is lost; with ``force`` though devices have no other certificate."""
        return View(await self._post(path("cas", ca, "distrust"), {"force": force, "reason": reason}))

    async def ca_rotation(self) -> View:
        """How far a rotation is: its phase, how many devices trust the new root, and whom ``retire`` would lock out."""
        return View(await self._get("/ca-rotation"))

    async def rotate_ca(self, step: str, *, threshold: float = 1.0, force: bool = False, reason: str = "") -> View:
        """Takes a step from one root to the next: ``begin``, ``issue``, ``retire``, or ``back``.

        A root's key that is kept offline is lent on the server's own machine.
        """
        body = {"threshold": threshold, "force": force, "reason": reason}
        return View(await self._post(path("ca-rotation", step), body))

    async def renew_issuing_ca(self, *, reason: str = "") -> View:
        """Makes a new issuing CA below the same root, which signs from now on; the one before stays trusted."""
        return View(await self._post("/cas", {"reason": reason}))

    async def plan_renewals(
        self,
        *,
        where: str | None = None,
        devices: Sequence[str] = (),
        outdated: bool = False,
        waves: Sequence[str] = ("1", "10%"),
        cap: int = 1000,
    ) -> View:
        """Whom :meth:`renew_certificates` would ask: ``plan``, count, a sample, the waves, the cap."""
        body = {"devices": list(devices), "outdated": outdated, "waves": list(waves), "cap": cap, **given(where=where)}
        return View(await self._post("/renewals", body, dry_run=True))

    async def renew_certificates(
        self,
        *,
        where: str | None = None,
        devices: Sequence[str] = (),
        outdated: bool = False,
        waves: Sequence[str] = ("1", "10%"),
        cap: int = 1000,
        rate_per_s: float | None = None,
        timeout_s: float = 86_400.0,
        max_failed: float = 0.05,
        plan: str | None = None,
        reason: str = "",
    ) -> View:
        """Asks devices for new certificates, in waves, in the background; gives the operation.

        ``outdated``: those without a certificate of the CA that signs now. It stops where more than the share
        ``max_failed`` has failed. With ``plan`` it asks exactly whom :meth:`plan_renewals` said.
        """
        if plan is None:
            made = await self.plan_renewals(where=where, devices=devices, outdated=outdated, waves=waves, cap=cap)
            plan = made["plan"]
        body = {"devices": list(devices), "outdated": outdated, "waves": list(waves), "cap": cap, "plan": plan}
        more = {"timeout_s": timeout_s, "max_failed": max_failed, "reason": reason}
        return View(await self._post("/renewals", {**body, **more, **given(where=where, rate_per_s=rate_per_s)}))

    async def reissue_certificate(self, device_id: str, *, timeout_s: float = 86_400.0, reason: str = "") -> View:
        """Asks one device for a new certificate; the operation it gives follows whether it comes with it."""
        return View(await self._post(path("devices", device_id, "renew"), {"timeout_s": timeout_s, "reason": reason}))

    # --- telemetry ----------------------------------------------------------------------------------------------

    async def settle(self) -> None:
        """Returns once groups, layers, detectors and the audit log have seen what this client wrote."""
        await self._get("/devices", limit=1)

    # --- twins and commands -------------------------------------------------------------------------------------

    # --- firmware, edge, health ---------------------------------------------------------------------------------


class FleetClient(BlockingFleet[AsyncFleetClient]):
    """The same, blocking; the arguments are those of :class:`AsyncFleetClient`."""

    def __init__(self, url: str, token: str, *, ca: str | Path | None = None) -> None:
        super().__init__(AsyncFleetClient(url, token, ca=ca))
