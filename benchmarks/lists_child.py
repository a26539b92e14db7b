"""Pages and look-ups of a fleet with so many records of each kind, asked over the operators' API on loopback.

``python benchmarks/lists_child.py TASK`` prints one JSON line: by question, ms of processor. It imports nothing of
``benchmarks`` and also runs on an earlier state of the repository. The records are made by direct commits.
"""

import asyncio
import base64
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import httpx
from fleetcore_api.config import ApiConfig
from fleetcore_api.plugin import open_api

from fleetcore.fleet.security.inventory import CertificateRecord
from fleetcore.model.command import Command
from fleetcore.model.credential import CertificateState
from fleetcore.model.device import Device
from fleetcore.model.group import Membership
from fleetcore.model.operation import Operation, OperationState
from fleetcore.model.store import Commit, Put
from fleetcore.runtime.app import Fleet
from fleetcore.runtime.config import Config, FleetSection
from fleetcore.runtime.process import settle_memory

_TYPES = ("thermometer", "pump", "meter", "valve", "camera")
_AT_ONCE = 2000
_START_MS = 1_700_000_000_000
#: Of the devices one in so many is in the group of the scoped token.
_GROUP, _ONE_IN = "site-1", 10
_PAGE = 100
#: Asked so often, a query without an index has the registry's columns made in the background; they are waited for.
_FIRST = 4
#: Processor time in a second below which nothing goes on in the background.
_IDLE_S = 0.1


def _repository(of: Any, name: str) -> Any:
    """A capability's records, which were private in earlier states."""
    return getattr(of, name, None) or getattr(of, f"_{name}")


def _device(number: int) -> str:
    return f"d-{number:07d}"


def _devices(count: int) -> Iterator[Device]:
    for number in range(count):
        yield Device(
            id=_device(number),
            type=_TYPES[number % 5],
            tags=("production",) if number % 50 == 1 else ("other",),
            attributes={"floor": number % 40, "battery": number % 1001 / 10},
            created=_START_MS,
            updated=_START_MS,
        )


def _commands(count: int) -> Iterator[Command]:
    for number in range(count):
        yield Command(
            id=f"c-{number:07d}", device=_device(number), name="blink", sequence=1, issued_at=_START_MS + number,
            deliver_by=_START_MS * 2, expires_at=_START_MS * 2, result_by=_START_MS * 2, issued_by="bench",
        )  # fmt: skip


def _operations(count: int) -> Iterator[Operation]:
    for number in range(count):
        yield Operation(
            id=f"o-{number:07d}", kind="command", state=OperationState.SUCCEEDED, total=1, done=1,
            created=_START_MS + number, updated=_START_MS + number, actor="bench",
        )  # fmt: skip


def _certificates(count: int) -> Iterator[CertificateRecord]:
    for number in range(count):
        yield CertificateRecord(
            id=f"aa:{number:07x}", device=_device(number), issuer="aa", serial=f"{number:x}", spki=f"{number:064x}",
            state=CertificateState.SUPERSEDED, created=_START_MS, not_before=_START_MS, not_after=_START_MS + 1,
            renew_after=_START_MS, how="operator", pem="",
        )  # fmt: skip


def _audit(first: int, count: int) -> Iterator[Put]:
    for number in range(first, first + count):
        body = {
            "seq": number, "time": _START_MS, "actor": "bench", "action": "device.changed",
            "object": _device(number), "position": 1, "prev": "0" * 64, "hash": "0" * 64,
        }  # fmt: skip
        refs = frozenset({("object", _device(number)), ("actor", "bench")})
        yield Put(kind="audit", key=f"{number:016d}", body=body, refs=refs)


async def _fill(fleet: Fleet, count: int) -> None:
    async def write(items: Iterable[Any], making: Any) -> None:
        part: list[Any] = []
        for item in items:
            part.append(item)
            if len(part) == _AT_ONCE:
                await fleet.storage.commit(making(part))
                part = []
        await fleet.storage.commit(making(part))

    def maker(records: Any) -> Any:
        if hasattr(records, "making"):
            return records.making
        return lambda items: Commit(puts=tuple(records.put(item, expect=0) for item in items))

    groups: Any = fleet.groups
    memberships = getattr(groups, "membership_records", None) or groups._members
    inventory: Any = fleet.security._inventory
    inside = (Membership(device=_device(number), group=_GROUP) for number in range(0, count, _ONE_IN))
    await write(_devices(count), maker(fleet.devices.records))
    await write(_commands(count), maker(_repository(fleet.commands, "records")))
    await write(_operations(count), maker(_repository(fleet.operations, "records")))
    await write(_certificates(count), maker(inventory.certificates))
    await write(inside, maker(memberships))
    await fleet.wait_idle()
    head = json.loads(await fleet.storage.blob("audit") or b"{}")
    first = int(head.get("seq", 0)) + 1
    await write(_audit(first, count), lambda puts: Commit(puts=tuple(puts)))
    sealed = {**head, "seq": first + count - 1, "hash": "0" * 64}
    await fleet.storage.commit(Commit(blobs={"audit": json.dumps(sealed).encode()}))


async def _idle() -> None:
    """Waits until nothing is done in the background, such as making revocation lists."""
    for _ in range(120):
        begun = time.process_time()
        await asyncio.sleep(1)
        if time.process_time() - begun < _IDLE_S:
            return


def _cursor(after: str) -> str:
    return base64.urlsafe_b64encode(after.encode()).decode().rstrip("=")


def _questions(count: int) -> dict[str, tuple[str, str, dict[str, Any]]]:
    """The questions: by what name, on whose behalf, the path and its parameters."""
    page = {"limit": _PAGE}
    last = {**page, "cursor": _cursor(_device(max(0, count - _PAGE - 1)))}
    return {
        "a device by its id": ("admin", f"/devices/{_device(count // 2)}", {}),
        "devices": ("admin", "/devices", page),
        "devices of a type": ("admin", "/devices", {**page, "where": "type = 'pump'"}),
        "devices with a tag": ("admin", "/devices", {**page, "where": "tags has 'production'"}),
        "devices of a group": ("admin", "/devices", {**page, "where": f"groups has '{_GROUP}'"}),
        "the last devices, by a cursor": ("admin", "/devices", last),
        "devices, rights within a group": ("scoped", "/devices", page),
        "commands": ("admin", "/commands", page),
        "commands, rights within a group": ("scoped", "/commands", page),
        "a device's commands": ("admin", f"/devices/{_device(count // 2)}/commands", page),
        "operations": ("admin", "/operations", page),
        "certificates": ("admin", "/certificates", page),
        "audit rows of an object": ("admin", "/audit", {**page, "object": _device(count // 2)}),
        "audit rows": ("admin", "/audit", page),
        "a group": ("admin", f"/groups/{_GROUP}", {}),
        "a device's health": ("admin", f"/devices/{_device(count // 2)}/health", {}),
        "devices by a query without an index": ("admin", "/devices", {**page, "where": "attributes.battery < 0.05"}),
    }  # fmt: skip


async def _ask(client: httpx.AsyncClient, path: str, parameters: dict[str, Any], rounds: int) -> Sequence[float]:
    times = []
    for number in range(_FIRST + rounds):
        if number == _FIRST:
            await _idle()
        # Of client and server alike: what else the machine does is not a part of it.
        begun = time.process_time()
        answer = await client.get(path, params=parameters)
        times.append((time.process_time() - begun) * 1000)
        assert answer.status_code == 200, answer.text
    return times[_FIRST:]


async def _run(count: int, rounds: int) -> dict[str, float]:
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        config = Config(fleet=FleetSection(name="bench", data=folder))
        fleet = await Fleet.open(config)
        try:
            await fleet.groups.create(_GROUP)
            await _fill(fleet, count)
        finally:
            await fleet.close()
        fleet = await Fleet.open(config)
        try:
            clients = {}
            async with open_api(ApiConfig(listen="http://127.0.0.1:0"), fleet._context("api"), fleet) as served:
                for name, role, scope in (("admin", "admin", ""), ("scoped", "viewer", f"group:{_GROUP}")):
                    await fleet.operators.grant(name, role, scope=scope)
                    token = (await fleet.operators.create_token(name)).token
                    headers = {"Authorization": f"Bearer {token}"}
                    clients[name] = httpx.AsyncClient(base_url=f"{served.url}/api/v1", headers=headers, timeout=120)
                await fleet.wait_idle()
                await _idle()
                try:
                    for question, (who, path, parameters) in _questions(count).items():
                        found[question] = statistics.median(await _ask(clients[who], path, parameters, rounds))
                finally:
                    for client in clients.values():
                        await client.aclose()
        finally:
            await fleet.close()
    return found


def main() -> None:
    """Runs the task and prints what was measured."""
    task = json.loads(sys.argv[1])
    settle_memory()
    print(json.dumps(asyncio.run(_run(task["count"], task["rounds"]))))


if __name__ == "__main__":
    main()
