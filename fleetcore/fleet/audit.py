"""The audit log: reading it, and verifying it row by row against its hashes and its signed checkpoints.

A change's event is part of the change's own commit; :mod:`fleetcore.pipeline.seal_audit` adds the events to the chain
in order. The chain reveals an edited or deleted row, and a checkpoint stored elsewhere reveals a truncated end.
"""

import hashlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen
from msgspec import Struct, json

from fleetcore.errors import FleetError, StorageError
from fleetcore.fleet.repository import Page, Pairs, Repository
from fleetcore.interfaces.storage import Storage
from fleetcore.model.audit import GENESIS, AuditRow, Checkpoint
from fleetcore.model.events import CORE, SUBJECT, Subject
from fleetcore.model.parts import parts
from fleetcore.model.store import Event, Put, Record
from fleetcore.model.twin import leaves
from fleetcore.query.ast import And, Clause, Compare, Like, Or
from fleetcore.wire.dsse import verify as open_envelope
from fleetcore.wire.records import from_plain, to_plain

#: The payload type of a signed checkpoint.
CHECKPOINT_TYPE = "application/vnd.fleetcore.audit-checkpoint+json"

KIND = "audit"
#: The blob in which the sealer stores the end of the chain; it is written with the rows.
HEAD = "audit"
#: How many rows a page examines for two conditions at once.
SCAN = 10_000
#: How many names of changed members a row stores.
_MAX_NAMES = 100
_CANONICAL = json.Encoder(order="sorted")

Signer = Callable[[bytes, str], Mapping[str, object]]


class Head(Struct, kw_only=True):
    """The sealer's state: the last row, and the last one whose checkpoint is certainly in the file."""

    seq: int = 0
    hash: str = GENESIS
    marked: int = 0
    marked_ms: int = 0


@frozen(kw_only=True)
class Verdict:
    """The result of a verification; ``bad_seq`` is the first row that is wrong, missing or superfluous."""

    ok: bool
    rows: int
    checkpoints: int
    bad_seq: int | None = None
    why: str = ""


def row_key(seq: int) -> str:
    """Rows sort by their keys."""
    return f"{seq:016d}"


def row_hash(body: Mapping[str, object]) -> str:
    """The hash of a row, over everything stored of it: an additional member changes the hash."""
    return _hash({name: value for name, value in body.items() if name != "hash"}, str(body.get("prev")))


def _hash(plain: Mapping[str, object], prev: str) -> str:
    return hashlib.sha256(prev.encode() + _CANONICAL.encode(plain)).hexdigest()


def sealed(event: Event, position: int, seq: int, prev: str) -> tuple[Put, str]:
    """The put that appends an event as the next row of the chain, where none is there yet; and the row's hash."""
    # The same form as to_plain() of an AuditRow; an import seals a row a device.
    body: dict[str, object] = {
        "seq": seq,
        "time": event.time,
        "actor": event.actor,
        "action": event.type,
        "object": event.subject,
        "reason": event.reason,
        "position": position,
        "changed": _changed(event),
        "data_hash": hashlib.sha256(_CANONICAL.encode(event.data)).hexdigest() if event.data else "",
        "prev": prev,
    }
    device, name = _about(event)
    # Only where they are not empty: rows of earlier releases have neither.
    body |= {"device": device} if device else {}
    body |= {"name": name} if name else {}
    body["hash"] = digest = _hash(body, prev)
    refs = frozenset((("object", event.subject), ("actor", event.actor)))
    return Put(kind=KIND, key=row_key(seq), body=body, expect=0, refs=refs), digest


def _about(event: Event) -> tuple[str, str]:
    """The device that an event's subject belongs to, and the name of a command."""
    kind = CORE.get(event.type)
    if kind is None or not event.data:
        return "", ""
    device = "" if kind.device in ("", None, SUBJECT) else event.data.get(kind.device)
    name = event.data.get("name") if kind.subject is Subject.COMMAND else ""
    return str(device or ""), str(name or "")


def _changed(event: Event) -> tuple[str, ...]:
    if not event.data:
        return ()
    kind = CORE.get(event.type)
    named = None if kind is None else event.data.get(kind.names)
    if isinstance(named, Mapping):
        return tuple(sorted(leaves(named)))[:_MAX_NAMES]
    if isinstance(named, list | tuple):
        return tuple(str(name) for name in named)[:_MAX_NAMES]
    return () if named is None else (str(named),)


def _refs(row: AuditRow) -> Pairs:
    return [("object", row.object), ("actor", row.actor)]


class AuditLog:
    """Reads and verifies; no method changes or removes a row."""

    def __init__(self, storage: Storage, checkpoints: Path | None = None) -> None:
        self._storage, self.checkpoints = storage, checkpoints
        #: The fleet's id, which its checkpoints carry; empty in memory.
        self.fleet = ""
        self._records = Repository(storage, KIND, AuditRow, key="seq", refs=_refs)

    async def page(
        self,
        *,
        object: str | None = None,
        actor: str | None = None,
        action: str | None = None,
        device: str | None = None,
        since: int | None = None,
        after: str | None = None,
        limit: int = 100,
        newest: bool = False,
    ) -> Page[AuditRow]:
        """The next rows, in order or the newest first.

        Objects and actors have an index. For other conditions, or two at once, at most :data:`SCAN` rows are examined:
        the page may be short, and has an ``after``.

        Args:
            action: the event's type, or its beginning with a dot at the end: ``command.``.
            device: rows about a device, its commands and its part of campaigns.
            since: ms since the epoch; rows of changes from then on.
        """
        ref = ("object", object) if object is not None else ("actor", actor) if actor is not None else None
        where: list[Clause] = []
        if object is not None and actor is not None:
            where.append(Compare(("actor",), "=", actor))
        if action is not None:
            whole = not action.endswith(".")
            where.append(Compare(("action",), "=", action) if whole else Like(("action",), f"{action}*"))
        if device is not None:
            where.append(Or((Compare(("device",), "=", device), Compare(("object",), "=", device))))
        if since is not None:
            where.append(Compare(("time",), ">=", since))
        clause = None if not where else where[0] if len(where) == 1 else And(tuple(where))
        scan = None if clause is None else SCAN
        return await self._records.page(ref=ref, where=clause, after=after, limit=limit, newest=newest, scan=scan)

    async def list(
        self, *, object: str | None = None, actor: str | None = None, after: int = 0, limit: int = 100
    ) -> list[AuditRow]:
        """Rows after a number, in order, of one object or actor if given."""
        found: list[AuditRow] = []
        start: str | None = row_key(after)
        while start is not None and len(found) < limit:
            page = await self.page(object=object, actor=actor, after=start, limit=limit - len(found))
            found += page.items
            start = page.after
        return found

    async def rows(self) -> AsyncIterator[tuple[str, AuditRow]]:
        """All rows with their keys."""
        async for record in self._stored():
            yield record.key, from_plain(KIND, record.body, AuditRow)

    async def _stored(self) -> AsyncIterator[Record]:
        """All rows in stored form."""
        async for page in parts(lambda after: self._storage.find(KIND, after=after), lambda page: page.after):
            for record in page.items:
                yield record

    async def verify(self, trusted: Sequence[Any] = (), checkpoints: Sequence[bytes] | None = None) -> Verdict:
        """Recomputes every stored hash; compares with the sealer, the signed checkpoints and the indexes.

        Args:
            trusted: Ed25519 public keys whose checkpoints count.
            checkpoints: the lines to verify against, by default those of this fleet's file.
        """
        ours = checkpoints is None
        head = await self._head()
        if checkpoints is None:
            has_file = self.checkpoints is not None and self.checkpoints.is_file()
            checkpoints = (
                self.checkpoints.read_bytes().splitlines() if self.checkpoints is not None and has_file else ()
            )
        marks: dict[int, str] = {}
        for number, line in enumerate(checkpoints, 1):
            try:
                mark = _opened(line, trusted)
            except (FleetError, ValueError) as error:
                return Verdict(ok=False, rows=0, checkpoints=len(marks), why=f"checkpoint {number}: {error}")
            if mark.fleet and self.fleet and mark.fleet != self.fleet:
                why = f"checkpoint {number} is of another fleet, {mark.fleet[:8]}"
                return Verdict(ok=False, rows=0, checkpoints=len(marks), why=why)
            marks[mark.seq] = mark.hash
        if ours and self.checkpoints is not None and head.marked and not marks:
            why = f"{self.checkpoints.name} had a checkpoint of row {head.marked}, and has none now"
            return Verdict(ok=False, rows=0, checkpoints=0, why=why)
        try:
            return await self._chained(head, marks)
        except StorageError as error:
            if error.code != "data_damaged":
                raise
            bad = int(str(error.ids.get("key", 0)))
            return Verdict(ok=False, rows=0, checkpoints=len(marks), bad_seq=bad, why=error.message)

    async def _chained(self, head: Head, marks: Mapping[int, str]) -> Verdict:
        """Recomputes every hash."""
        count, prev = 0, GENESIS
        # The number of rows of each object and actor, and the sum of their numbers.
        indexed: dict[tuple[str, str], tuple[int, int]] = {}
        async for record in self._stored():
            try:
                row = from_plain(KIND, record.body, AuditRow)
            except FleetError as error:
                return Verdict(ok=False, rows=count, checkpoints=len(marks), bad_seq=count + 1, why=error.message)
            why = _wrong(row, record, count + 1, prev, marks.get(count + 1))
            for pair in _refs(row):
                many, total = indexed.get(pair, (0, 0))
                indexed[pair] = many + 1, total + row.seq
            if not why and row.seq == head.seq and row.hash != head.hash:
                why = "it differs from the row that was sealed last"
            if why:
                return Verdict(ok=False, rows=count, checkpoints=len(marks), bad_seq=count + 1, why=why)
            count, prev = count + 1, row.hash
        last, why = max(marks, default=0), ""
        if last > count:
            why = f"a signed checkpoint names row {last}, and the log ends with row {count}"
        elif head.seq > count:
            why = f"rows were sealed up to {head.seq}, and the log ends with row {count}"
        if why:
            return Verdict(ok=False, rows=count, checkpoints=len(marks), bad_seq=count + 1, why=why)
        for (name, value), expected in indexed.items():
            bad = await self._missing(name, value, expected, count)
            if bad is not None:
                why = f"the index of rows by {name} lacks it, so a list of {value!r} is incomplete"
                return Verdict(ok=False, rows=count, checkpoints=len(marks), bad_seq=bad, why=why)
        return Verdict(ok=True, rows=count, checkpoints=len(marks))

    async def _missing(self, name: str, value: str, expected: tuple[int, int], count: int) -> int | None:
        """The first row that an index lacks, or has in excess, up to ``count``; None where it is complete."""
        found = [row.seq async for row in self._records.iterate(ref=(name, value)) if row.seq <= count]
        if (len(found), sum(found)) == expected:
            return None
        wanted = {row.seq async for _, row in self.rows() if row.seq <= count and (name, value) in _refs(row)}
        return min(wanted.symmetric_difference(found), default=found[0] if found else 1)

    async def _head(self) -> Head:
        saved = await self._storage.blob(HEAD)
        return Head() if saved is None else json.decode(saved, type=Head)


def _wrong(row: AuditRow, record: Record, seq: int, prev: str, mark: str | None) -> str:
    if record.key != row_key(seq) or row.seq != seq:
        return f"row {seq} is missing: the next one is {row.seq}"
    if row.prev != prev:
        return "it does not follow from the row before it"
    if row.hash != row_hash(record.body):
        return "its content does not match its hash"
    if mark is not None and mark != row.hash:
        return "it contradicts a signed checkpoint"
    return ""


def signed(checkpoint: Checkpoint, sign: Signer) -> bytes:
    """A line of the checkpoint file."""
    return json.encode(sign(_CANONICAL.encode(to_plain(checkpoint)), CHECKPOINT_TYPE)) + b"\n"


def _opened(line: bytes, trusted: Iterable[Any]) -> Checkpoint:
    payload = open_envelope(json.decode(line), CHECKPOINT_TYPE, trusted).payload
    return from_plain("checkpoint", json.decode(payload), Checkpoint)
