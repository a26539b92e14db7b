"""A connector in one file: mirrors a fleet to any HTTP endpoint that stores JSON documents by path, with ETags.

[fleet]
plugins = ["./one_file_cloud.py"]

[clouds.documents]
url = "http://127.0.0.1:8000"
metrics = ["temperature"]

``PUT``, ``GET`` and ``DELETE`` of ``/twin/pump-1``, each write under ``If-Match`` (409 or 412 if the document has
changed); ``GET /twin?owner=…`` lists the names; ``POST /readings`` answers how many it accepted, from the first.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import httpx
from attrs import frozen

from fleetcore import hookimpl, offer_cloud
from fleetcore.errors import CredentialsRejected, Unavailable
from fleetcore.interfaces import CloudBackend, CloudLimits, Context, Fitted, MirrorItem, MirrorResult, Provider, Sent
from fleetcore.model.mirror import BODIES, FACETS, EntityKey, Facet
from fleetcore.model.telemetry import SeriesCatalog, TelemetryBatch
from fleetcore.wire.records import from_plain, to_plain


@frozen(kw_only=True)
class DocumentsConfig:
    """``[clouds.documents]``. Attributes: url: of the endpoint."""

    url: str


class Documents(CloudBackend):
    """A document of an entity is ``{"owner": the fleet's mark, "state": its body}``."""

    limits = CloudLimits(items=20, readings=500, rates={"write": 100.0, "read": 100.0}, facets=frozenset(FACETS))

    def __init__(self, http: httpx.AsyncClient, owner: str) -> None:
        self.identity, self._http, self._owner = str(http.base_url), http, owner

    def fit(self, item: MirrorItem) -> Fitted:
        """JSON can hold everything."""
        return Fitted(item=item)

    async def apply(self, items: Sequence[MirrorItem]) -> Sequence[MirrorResult]:
        """Each item separately, all in parallel."""
        return await asyncio.gather(*map(self._apply, items))

    async def _apply(self, item: MirrorItem) -> MirrorResult:
        known = {"If-Match": item.remote_version} if item.remote_version else {"If-None-Match": "*"}
        body = None if item.body is None else {"owner": self._owner, "state": to_plain(item.body)}
        answer = await self._call(
            "write", "DELETE" if body is None else "PUT", _path(item.key), json=body, headers=known
        )
        if answer.status_code == 429:
            return MirrorResult(state="throttled", retry_after_s=float(answer.headers.get("Retry-After", 0)))
        if answer.status_code in {404, 409, 412}:  # another one exists: it may be ours, and already match
            there = await self._held(item.key)
            if there is not None and there.json()["owner"] != self._owner:
                return MirrorResult(state="foreign", reason=f"this fleet did not create {item.key}")
            if (None if there is None else there.json()) != body:
                return MirrorResult(state="conflict")
            return MirrorResult(state="done", remote_version=None if there is None else there.headers["ETag"])
        if answer.is_error:
            return MirrorResult(state="invalid", reason=f"HTTP {answer.status_code}: {answer.text[:200]}")
        return MirrorResult(state="done", remote_version=answer.headers.get("ETag"))

    async def read(self, keys: Sequence[EntityKey]) -> Sequence[MirrorItem | None]:
        """Each separately, all in parallel."""
        return await asyncio.gather(*map(self._read, keys))

    async def _read(self, key: EntityKey) -> MirrorItem | None:
        held = await self._held(key)
        if held is None or held.json()["owner"] != self._owner:
            return None
        body = from_plain(key.facet, held.json()["state"], BODIES[key.facet])
        return MirrorItem(key=key, body=body, remote_version=held.headers["ETag"])

    async def entities(self, facet: Facet) -> AsyncIterator[EntityKey]:
        """The names that the endpoint lists."""
        for name in _taken(await self._call("read", "GET", f"/{facet}", params={"owner": self._owner})).json():
            yield EntityKey(facet, name)

    async def send(self, batch: TelemetryBatch, catalog: SeriesCatalog) -> Sent:
        """The endpoint accepts the first ones; the rest is sent again."""
        series = [catalog.series(index) for index in batch.series.tolist()]
        columns = zip(series, batch.time.tolist(), batch.value.tolist(), strict=True)
        rows = [[of.device, of.metric, time, value] for of, time, value in columns]
        taken = _taken(await self._call("write", "POST", "/readings", json=rows)).json()["taken"] if rows else 0
        return Sent(taken=taken, rest=range(taken, len(rows)))

    async def _held(self, key: EntityKey) -> httpx.Response | None:
        answer = await self._call("read", "GET", _path(key))
        return None if answer.status_code == 404 else _taken(answer)

    async def _call(self, kind: str, method: str, path: str, **given: Any) -> httpx.Response:
        await self.pace.take(kind)
        try:
            answer = await self._http.request(method, path, **given)
        except httpx.TransportError as error:
            raise Unavailable(f"The endpoint does not answer: {error}") from error
        if answer.status_code == 429:
            self.pace.slow_down(kind, float(answer.headers.get("Retry-After", 0)))
        if answer.status_code in {401, 403}:
            raise CredentialsRejected("The endpoint refuses the credentials")
        if answer.is_server_error:
            raise Unavailable(f"The endpoint fails: HTTP {answer.status_code}")
        return answer


def _path(key: EntityKey) -> str:
    return f"/{key.facet}/{quote(key.id, safe='')}"


def _taken(answer: httpx.Response) -> httpx.Response:
    if answer.is_error:
        raise Unavailable(f"The endpoint refused a call: HTTP {answer.status_code}")
    return answer


@asynccontextmanager
async def open_documents(config: DocumentsConfig, context: Context) -> AsyncIterator[Documents]:
    """Credentials come from ``.netrc``, as httpx reads it."""
    async with httpx.AsyncClient(base_url=config.url, timeout=30.0) as http:
        yield Documents(http, context.mark)


@hookimpl
def fleetcore_clouds() -> Iterable[Provider[CloudBackend]]:
    """One connector, named ``documents``."""
    yield offer_cloud("documents", DocumentsConfig, open_documents)
