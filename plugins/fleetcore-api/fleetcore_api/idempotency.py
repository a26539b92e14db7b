"""First answers to requests with an ``Idempotency-Key``, stored for a day.

Only an answer with an effect is stored: a refusal changed nothing, so the same key may be tried again. One-time secrets
of an answer are not stored; the repeated answer lacks them. An answer depends on the rights of its request: a caller
that has lost some of them does not get it again.
"""

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any, cast
from weakref import WeakValueDictionary

from msgspec import json

from fleetcore.calls.decode import Reader, refusal
from fleetcore.calls.types import IdempotencyKey
from fleetcore.errors import NotAuthorised, Refused
from fleetcore.fleet.rights import Rights
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.storage import Storage
from fleetcore.model.days import DAY_MS
from fleetcore.model.store import Commit, Delete, Put
from fleetcore.wire.decode import Invalid

KIND = "api_answer"
KEPT_MS = DAY_MS
_HEADERS = frozenset({b"content-type", b"location", b"etag", b"fleetcore-position"})
_KEY = Reader("idempotency_key", IdempotencyKey)


def check_key(header: str | None) -> str | None:
    """The key, or None without one; raises Refused for an invalid key, as every front end does."""
    if header is None:
        return None
    try:
        key: str = _KEY.value(header)
    except Invalid as invalid:
        raise refusal([invalid.fault]) from None
    return key


class IdempotencyStore:
    """Stores and finds them; one request of a key at a time."""

    def __init__(self, storage: Storage, clock: Clock) -> None:
        self._storage, self._clock = storage, clock
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @staticmethod
    def name(principal: str, method: str, path: str, key: str) -> str:
        """The name under which an answer is stored."""
        return hashlib.sha256(f"{principal}\0{method}\0{path}\0{key}".encode()).hexdigest()

    @asynccontextmanager
    async def turn(self, name: str) -> AsyncIterator[None]:
        """With two requests of one key at once, the second waits for the first one's answer."""
        lock = self._turns.get(name)
        if lock is None:
            self._turns[name] = lock = asyncio.Lock()
        async with lock:
            yield

    async def find(self, name: str, digest: str, rights: Rights) -> list[dict[str, Any]] | None:
        """The first answer.

        Raises Refused (``idempotency_mismatch``) if the key belongs to another request, NotAuthorised if the caller has
        lost rights since.
        """
        record = await self._storage.get(KIND, name)
        if record is None or cast("int", record.body["until"]) <= self._clock.now_ms():
            return None
        if record.body["request"] != digest:
            raise Refused(
                "This Idempotency-Key was used for another request",
                code="idempotency_mismatch",
                remedy="Use a new key for a new request",
            )
        if not rights.include(cast("list[list[Any]]", record.body.get("rights", []))):
            raise NotAuthorised(
                "The caller has lost rights since the first answer",
                remedy="Read the created object, or use a new key for a new request",
            )
        headers = [
            (item.encode(), two.encode("latin-1")) for item, two in cast("list[list[str]]", record.body["headers"])
        ]
        body = base64.b64decode(cast("str", record.body["body"]))
        headers += [(b"content-length", str(len(body)).encode()), (b"idempotency-replayed", b"true")]
        return [
            {"type": "http.response.start", "status": record.body["status"], "headers": headers},
            {"type": "http.response.body", "body": body},
        ]

    async def keep(
        self, name: str, digest: str, parts: list[dict[str, Any]], rights: Rights, *, secret: Collection[str]
    ) -> None:
        """Stores an answer with an effect, with the rights of its request, and deletes old ones.

        The members in ``secret`` are not stored.
        """
        start = parts[0]
        if start["status"] >= 300:
            return
        body = _without(b"".join(part.get("body", b"") for part in parts[1:]), secret)
        now = self._clock.now_ms()
        headers = [[item.decode(), two.decode("latin-1")] for item, two in start["headers"] if item.lower() in _HEADERS]
        put = Put(
            kind=KIND,
            key=name,
            body={
                "request": digest,
                "status": start["status"],
                "headers": headers,
                "body": base64.b64encode(body).decode(),
                "until": now + KEPT_MS,
                "rights": rights.to_plain(),
            },
            due=now + KEPT_MS,
        )
        old = await self._storage.due(KIND, now, limit=100)
        gone = tuple(Delete(kind=KIND, key=item.key) for item in old if item.key != name)
        await self._storage.commit(Commit(puts=(put,), deletes=gone))


def _without(body: bytes, secret: Collection[str]) -> bytes:
    if not secret or not body:
        return body
    plain = json.decode(body)
    return json.encode({name: None if name in secret else value for name, value in plain.items()})
