"""Validates the rows of an import, in one place for the run and for the dry run.

Rows are validated in the order of the file: the first row of an id registers it, a later one either describes the same
device again (nothing changes) or fails, as it does where the id is registered already. A row whose gateway is neither
registered nor in the rows before it waits until the others have been validated; rows that still wait at the end fail.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Protocol

from attrs import Factory, define, frozen

from fleetcore.errors import FleetError, NotFound
from fleetcore.fleet.import_rows import device_of, mark
from fleetcore.fleet.operations import MAX_FAILURES
from fleetcore.fleet.registry import Registry, taken
from fleetcore.model.device import Device
from fleetcore.model.operation import Failure
from fleetcore.model.store import Record

#: A row with its number, counted from 1.
Numbered = tuple[int, object]


class Result(StrEnum):
    """The result of a row that did not fail."""

    REGISTERED = "registered"
    UNCHANGED = "unchanged"


@define
class _Candidate:
    """A row that is valid by itself. ``device`` is dropped where its digest is enough."""

    item: int
    id: str
    gateway: str | None
    device: Device | None
    digest: bytes = b""

    def mark(self) -> bytes:
        if not self.digest:
            assert self.device is not None
            self.digest = mark(self.device)
        return self.digest


class _Earlier(Protocol):
    """The devices of earlier rows, with ids in any case."""

    def add(self, row: _Candidate) -> None: ...

    def has(self, device: str) -> bool:
        """Whether a device has exactly this id."""
        ...

    def mark_of(self, device: str) -> bytes | None:
        """The mark of the device with this id in any case."""
        ...


class _Rows:
    """The devices of one part, complete."""

    def __init__(self) -> None:
        self._rows: dict[str, _Candidate] = {}

    def add(self, row: _Candidate) -> None:
        self._rows[row.id.casefold()] = row

    def has(self, device: str) -> bool:
        found = self._rows.get(device.casefold())
        return found is not None and found.id == device

    def mark_of(self, device: str) -> bytes | None:
        found = self._rows.get(device.casefold())
        return None if found is None else found.mark()


class _Digests:
    """The devices of a whole file, about 150 bytes each; among a million ids two collide once in 37 million files."""

    def __init__(self) -> None:
        self._rows: dict[int, tuple[int, bytes]] = {}

    def add(self, row: _Candidate) -> None:
        self._rows[_number(row.id.casefold())] = (_number(row.id), row.mark())

    def has(self, device: str) -> bool:
        found = self._rows.get(_number(device.casefold()))
        return found is not None and found[0] == _number(device)

    def mark_of(self, device: str) -> bytes | None:
        found = self._rows.get(_number(device.casefold()))
        return None if found is None else found[1]


def _number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


@frozen(kw_only=True)
class Judged:
    """Some validated rows of a file: the devices to register, and the results of the other rows.

    Attributes:
        unchanged: how many are registered with the same content.
        failed: the faults of others, by number.
        waiting: the numbers of rows whose gateway is not known yet.
    """

    devices: Sequence[Device]
    unchanged: int
    failed: Mapping[int, FleetError]
    waiting: frozenset[int]


def failure_of(item: int, error: FleetError) -> Failure:
    """A failed row in the form of an operation."""
    return Failure(item=item, about=str(error.ids.get("device") or ""), code=error.code, reason=str(error))


@frozen
class Checked:
    """Rows that were validated by themselves, independently of the registry."""

    candidates: Sequence[_Candidate]
    failed: Mapping[int, FleetError]


def checked(registry: Registry, rows: Sequence[Numbered]) -> Checked:
    """Validates rows by themselves, ahead of :func:`judge`."""
    return Checked(*_candidates(registry, rows))


async def judge(registry: Registry, rows: Checked, *, last: bool = False) -> Judged:
    """Validates rows against the present registry. In the ``last`` round no row waits for a gateway."""
    candidates, failed = rows.candidates, rows.failed
    found = _judged(registry, candidates, await _stored(registry, candidates), _Rows(), last=last)
    return Judged(
        devices=[row.device for row in found.registered if row.device is not None],
        unchanged=found.unchanged,
        failed={**failed, **found.failed},
        waiting=frozenset(row.item for row in found.waiting),
    )


def _candidates(registry: Registry, rows: Sequence[Numbered]) -> tuple[list[_Candidate], dict[int, FleetError]]:
    found: list[_Candidate] = []
    failed: dict[int, FleetError] = {}
    for item, row in rows:
        try:
            device = device_of(registry, row)
        except FleetError as error:
            failed[item] = error
        else:
            found.append(_Candidate(item, device.id, device.gateway, device))
    return found, failed


async def _stored(registry: Registry, rows: Sequence[_Candidate]) -> Mapping[str, Record]:
    ids = dict.fromkeys(row.id for row in rows)
    ids.update(dict.fromkeys(row.gateway for row in rows if row.gateway is not None))
    return await registry.holders(ids)


@define
class _Round:
    registered: list[_Candidate] = Factory(list)
    unchanged: int = 0
    failed: dict[int, FleetError] = Factory(dict)
    waiting: list[_Candidate] = Factory(list)


def _judged(
    registry: Registry, rows: Sequence[_Candidate], stored: Mapping[str, Record], earlier: _Earlier, *, last: bool
) -> _Round:
    found = _Round()
    for row in rows:
        there = earlier.mark_of(row.id)
        if there is None and stored:
            holder = stored.get(row.id.casefold())
            there = None if holder is None else mark(registry.records.load(holder))
        if there is not None:
            if there == row.mark():
                found.unchanged += 1
            else:
                found.failed[row.item] = taken(row.id)
        elif row.gateway is None or earlier.has(row.gateway) or _holds(stored, row.gateway):
            earlier.add(row)
            found.registered.append(row)
        elif last:
            found.failed[row.item] = NotFound(
                f"The gateway {row.gateway!r} is neither registered nor in the file",
                remedy="Register it first, or add its row",
                device=row.id,
                gateway=row.gateway,
            )
        else:
            found.waiting.append(row)
    return found


def _holds(stored: Mapping[str, Record], device: str) -> bool:
    holder = stored.get(device.casefold())
    return holder is not None and holder.key == device


class DryRun:
    """What an import of the rows given so far would do. It stores only digests, no rows.

    Attributes:
        total: rows given so far.
        registered, unchanged: how many would be registered, and how many exist already.
        failures: the first that would fail; in the order of the file once :meth:`end` was called.
        reasons: how many would fail, by code.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._earlier = _Digests()
        self._waiting: list[_Candidate] = []
        self.total, self.registered, self.unchanged = 0, 0, 0
        self.failures: list[Failure] = []
        self.reasons: Counter[str] = Counter()

    @property
    def failed(self) -> int:
        """How many would fail."""
        return sum(self.reasons.values())

    @property
    def result(self) -> dict[str, int]:
        """What would become of the others, in the form of an operation's counts."""
        counts = {Result.REGISTERED: self.registered, Result.UNCHANGED: self.unchanged}
        return {str(name): number for name, number in counts.items() if number}

    async def add(self, rows: Sequence[object]) -> None:
        """Validates the next rows of the file."""
        candidates, failed = _candidates(self._registry, list(enumerate(rows, self.total + 1)))
        self.total += len(rows)
        self._fail(failed)
        for row in self._round(candidates, await _stored(self._registry, candidates)):
            row.mark()
            row.device = None
            self._waiting.append(row)

    def end(self) -> None:
        """Ends the file: rows that wait for a gateway are validated as in the run, until nothing changes."""
        before = -1
        while self._waiting and before != self.registered:
            before = self.registered
            self._waiting = self._round(self._waiting, {})
        self._waiting = self._round(self._waiting, {}, last=True)
        self.failures.sort(key=lambda failure: failure.item)

    def _round(
        self, rows: Sequence[_Candidate], stored: Mapping[str, Record], *, last: bool = False
    ) -> list[_Candidate]:
        judged = _judged(self._registry, rows, stored, self._earlier, last=last)
        self.registered += len(judged.registered)
        self.unchanged += judged.unchanged
        self._fail(judged.failed)
        return judged.waiting

    def _fail(self, failed: Mapping[int, FleetError]) -> None:
        self.reasons.update(error.code for error in failed.values())
        room = MAX_FAILURES - len(self.failures)
        self.failures += [failure_of(item, error) for item, error in list(failed.items())[: max(0, room)]]
