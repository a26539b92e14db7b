"""What the security tests share: a clock that stands still, an authority made once, and devices' requests."""

import asyncio
import json
from collections import Counter
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from fleetcore.errors import Conflict, VersionConflict
from fleetcore.fleet.registry import Registry
from fleetcore.fleet.security import Authority, SecurityManager
from fleetcore.fleet.security.requests import spki_of
from fleetcore.interfaces.storage import Storage
from fleetcore.model.message import Reply
from fleetcore.model.store import Commit, Committed, Event, FoundRecords, Put, Record, place, split_place
from fleetcore.testing.clock import MovableClock

FLEET = "acme"
HOUR = 3_600_000
DAY = 24 * HOUR


@pytest.fixture
def clock() -> MovableClock:
    # TLS judges by the machine's own clock, so the tests begin at the real time and move on from there.
    return MovableClock(int(datetime.now(UTC).timestamp()) * 1000)


@pytest.fixture
def authority(clock: MovableClock) -> Authority:
    return Authority.create(FLEET, clock)


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def csr(device: str, key=None, *, extensions=(), encoding=Encoding.PEM, algorithm=None) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device)])
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(key or new_key(), algorithm or hashes.SHA256()).public_bytes(encoding)


class RecordStore(Storage):
    """The records, unique values and events of a store, in memory: all that security asks of one.

    ``before_commit`` is awaited first in each commit: where a test lets other work slip in between.
    """

    def __init__(self) -> None:
        self.records: dict[tuple[str, str], Put] = {}
        self.versions: dict[tuple[str, str], int] = {}
        self.events: list[Event] = []
        self.counted: Counter = Counter()
        self.floors: dict[tuple[str, str], int] = {}
        self.commits = 0
        self.before_commit = None

    async def commit(self, change: Commit) -> Committed:
        await asyncio.sleep(0)
        if self.before_commit is not None:
            await self.before_commit(change)
        for one in (*change.puts, *change.deletes):
            name = (one.kind, one.key)
            if one.expect is not None and one.expect != self.versions.get(name, 0):
                raise VersionConflict(f"{name} is at {self.versions.get(name, 0)}")
        for put in change.puts:
            for other, held in self.records.items():
                if other != (put.kind, put.key) and held.unique & put.unique:
                    raise Conflict("a unique value is taken")
        for put in change.puts:
            self.records[put.kind, put.key] = put
            self.versions[put.kind, put.key] = self.versions.get((put.kind, put.key), 0) + 1
        for gone in change.deletes:
            self.records.pop((gone.kind, gone.key), None)
            self.versions.pop((gone.kind, gone.key), None)
        self.counted.update(change.add)
        self.floors.update({name: max(value, self.floors.get(name, 0)) for name, value in change.floors.items()})
        self.events.extend(change.events)
        self.commits += 1
        return Committed(position=self.commits, versions=tuple(self.versions[put.kind, put.key] for put in change.puts))

    def _record(self, put: Put) -> Record:
        body = json.loads(json.dumps(put.body))
        return Record(kind=put.kind, key=put.key, version=self.versions[put.kind, put.key], body=body)

    async def get(self, kind: str, key: str) -> Record | None:
        await asyncio.sleep(0)
        put = self.records.get((kind, key))
        return None if put is None else self._record(put)

    async def find(
        self, kind, *, ref=None, where=None, after=None, limit=1000, newest=False, scan=None
    ) -> FoundRecords:
        await asyncio.sleep(0)
        found = sorted(
            (
                (put.sort if ref is not None else "", key)
                for (its_kind, key), put in self.records.items()
                if its_kind == kind and (ref is None or ref in put.refs)
            ),
            reverse=newest,
        )
        if after is not None:
            bound = split_place(after)
            found = [at for at in found if (at < bound if newest else at > bound)]
        items = tuple(self._record(self.records[kind, key]) for _, key in found[:limit])
        return FoundRecords(items=items, after=place(*found[limit - 1]) if len(found) > limit else None)

    async def counters(self, space):
        return {name: value for (its, name), value in self.counted.items() if its == space and value}

    async def floor(self, space, name):
        return self.floors.get((space, name), 0)

    async def find_unique(self, space, value):
        raise NotImplementedError

    async def due(self, kind, until, limit=1000):
        found = [put for put in self.records.values() if put.kind == kind and put.due is not None and put.due <= until]
        return [self._record(put) for put in sorted(found, key=lambda put: put.due)[:limit]]

    page = values = catalog = marks = intern = series_of = read = read_texts = aggregate = latest = feed = wait_feed = (
        None
    )
    position = cursor = blob = maintain = forget = put_artifact = artifact = read_artifact = backup = check = None


@pytest.fixture
def storage() -> RecordStore:
    return RecordStore()


@pytest.fixture
def registry(storage, clock) -> Registry:
    return Registry(storage, clock)


@pytest.fixture
async def manager(storage, clock, authority, registry) -> SecurityManager:
    return SecurityManager(storage, clock, authority, registry)


def leaf_of(reply: Reply) -> x509.Certificate:
    assert reply.status == 201
    return x509.load_pem_x509_certificate(reply.body["certificate"].encode())


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def spki(key) -> str:
    return spki_of(key.public_key())
