"""IoTFleetManager: the façade that people script against. It opens on first use and holds no logic of its own.

Flat calls return plain data that shows itself well; the parts (``manager.devices``, ``.twins`` …) return records.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from attrs import asdict, evolve

from fleetcore.calls.caller import owner, user_of
from fleetcore.calls.responses.operations import OperationResponse
from fleetcore.calls.table import core, of_fleet, run
from fleetcore.calls.types import Ms, from_builtins, present
from fleetcore.errors import Refused, WrongLoop
from fleetcore.frontends.async_fleet import AsyncFleet
from fleetcore.frontends.blocking_fleet import BlockingFleet
from fleetcore.frontends.describe import describe, to_json
from fleetcore.interfaces.clock import Clock
from fleetcore.views import TelemetryView, View
from fleetcore.wire.records import to_plain
from fleetcore.wire.times import format_time

if TYPE_CHECKING:
    from fleetcore.fleet.anomalies import AnomalyDetector
    from fleetcore.fleet.audit import AuditLog
    from fleetcore.fleet.campaigns import Campaigns
    from fleetcore.fleet.commands import Commands
    from fleetcore.fleet.edge import EdgeComputing
    from fleetcore.fleet.groups import Groups
    from fleetcore.fleet.health import FleetHealth
    from fleetcore.fleet.location import Locations
    from fleetcore.fleet.registry import Registry
    from fleetcore.fleet.security import SecurityManager
    from fleetcore.fleet.telemetry import Telemetry
    from fleetcore.fleet.twins import Twins
    from fleetcore.runtime.app import Fleet
    from fleetcore.runtime.config import Config

T = TypeVar("T")
_TIMES = frozenset(
    {"created", "updated", "last_seen", "asleep_until", "issued_at", "deliver_by", "expires_at", "result_by", "sent_at",
     "finished_at", "changed", "time", "found", "until", "since", "not_after", "not_before",
     "expires", "last_used", "added", "renew_after", "due", "start"}
)  # fmt: skip


def _view(record: Any) -> View:
    plain = to_plain(record)
    for name in _TIMES & plain.keys():
        value = plain[name]
        if isinstance(value, int):
            plain[name] = format_time(value) if value else None
    return View(plain)


class IoTFleetManager(AsyncFleet):
    """A fleet in a script or a notebook.

    Args:
        data: a data folder; None keeps everything in memory. A folder that is missing, or holds nothing of a fleet,
            becomes a new fleet. Where some parts of a fleet are there and others are not, opening refuses.
        config: a configuration instead.
        clock: another clock, for tests.
        create: True makes a new fleet also where there is a ``fleet.toml`` alone, as ``fleetcore init`` does; False
            never makes one.
        actor: the name under which changes are written into the audit log; ``library:USER`` by default.

    It opens on the first call and belongs to that event loop: another one raises :class:`WrongLoop`. Not closing it
    loses nothing that was acknowledged.
    """

    def __init__(
        self,
        data: str | Path | None = None,
        *,
        config: "Config | None" = None,
        clock: Clock | None = None,
        create: bool | None = None,
        actor: str | None = None,
    ) -> None:
        self._data, self._config, self._clock, self._create = data, config, clock, create
        self._actor = actor or user_of("library")
        self._table = core()
        self._fleet: Fleet | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opening: asyncio.Lock | None = None

    @staticmethod
    def sync(data: str | Path | None = None, **options: Any) -> "SyncFleetManager":
        """The same calls, blocking; the fleet runs in a background thread."""
        return SyncFleetManager(IoTFleetManager(data, **options))

    async def open(self) -> "Fleet":
        """Opens the fleet, if it is not open yet, and returns it. Raises what opening raises."""
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop, self._opening = loop, asyncio.Lock()
        if self._loop is not loop:
            raise WrongLoop(
                "This manager belongs to another event loop",
                remedy="Make a manager per loop, or use IoTFleetManager.sync()",
            )
        assert self._opening is not None
        async with self._opening:
            if self._fleet is None:
                from fleetcore.runtime.app import Fleet

                self._fleet = await Fleet.open(self._configuration(), clock=self._clock, create=self._create)
                self._table = of_fleet(self._fleet.host)
            return self._fleet

    def _configuration(self) -> "Config":
        from fleetcore.runtime.config import Config, Instance, load

        if self._config is not None:
            return self._config
        if self._data is not None and (Path(self._data) / "fleet.toml").is_file():
            found = load(Path(self._data) / "fleet.toml")
            # A folder that was named is the data folder, also where the file does not say so.
            return found if found.fleet.data is not None else evolve(found, fleet=evolve(found.fleet, data="."))
        config = load()
        detectors = config.detectors or (Instance(name="statistical", kind="statistical", table={}),)
        return Config(
            fleet=evolve(config.fleet, data=None if self._data is None else str(self._data)),
            limits=config.limits,
            ca=config.ca,
            firmware=config.firmware,
            storage=config.storage,
            detectors=detectors,
        )

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def close(self) -> None:
        """Drains, flushes and closes; idempotent."""
        fleet, self._fleet = self._fleet, None
        if fleet is not None:
            await fleet.close()

    async def call_as(
        self, actor: str, name: str, given: Mapping[str, Any], content: AsyncIterator[bytes] | None = None
    ) -> Any:
        """The same in another name, that of the user who speaks through the control socket; ``content`` is a stream."""
        fleet = await self.open()
        call = self._table.get(name)
        if call is None:
            raise Refused(f"There is no call {name!r}", code="operation_unknown")
        return await run(call, owner(fleet, actor), present(**given), content=content)

    async def catalogue(self) -> bytes:
        """The calls of the fleet, its plugins' among them, as :func:`fleetcore.frontends.catalogue.read` reads them."""
        await self.open()
        return to_json(describe(self._table))

    async def _stream(self, name: str, given: Mapping[str, Any], kind: type[T]) -> AsyncIterator[T]:
        del kind
        items: AsyncGenerator[T, None] = await self.call_as(self._actor, name, given)
        async with contextlib.aclosing(items):
            async for item in items:
                yield item

    async def _value(self, name: str, given: Mapping[str, Any], kind: type[T]) -> T:
        del kind  # it is what the call answers
        await self.open()
        call = self._table.get(name)
        stream = "" if call is None else call.stream
        content = async_pieces(given[stream]) if stream in given else None
        plain = {member: value for member, value in given.items() if member != stream}
        answer: T = await self.call_as(self._actor, name, plain, content)
        return answer

    def _open_now(self) -> "Fleet":
        if self._fleet is None:
            raise Refused("The fleet is not open yet", remedy="Use `async with manager:` or await any call first")
        return self._fleet

    # --- the parts ----------------------------------------------------------------------------------------------

    @property
    def devices(self) -> "Registry":
        """The registry."""
        return self._open_now().devices

    @property
    def twins(self) -> "Twins":
        """Desired and reported state."""
        return self._open_now().twins

    @property
    def telemetry(self) -> "Telemetry":
        """Stored readings."""
        return self._open_now().telemetry

    @property
    def anomalies(self) -> "AnomalyDetector":
        """What detectors found."""
        return self._open_now().anomalies

    @property
    def commands(self) -> "Commands":
        """Commands and their states."""
        return self._open_now().commands

    @property
    def campaigns(self) -> "Campaigns":
        """Firmware campaigns."""
        return self._open_now().campaigns

    @property
    def security(self) -> "SecurityManager":
        """Certificates, tokens, enrolment."""
        return self._open_now().security

    @property
    def edge(self) -> "EdgeComputing":
        """Gateways and leaves."""
        return self._open_now().edge

    @property
    def location(self) -> "Locations":
        """Positions."""
        return self._open_now().location

    @property
    def groups(self) -> "Groups":
        """Groups."""
        return self._open_now().groups

    @property
    def audit(self) -> "AuditLog":
        """The audit log."""
        return self._open_now().audit

    @property
    def health(self) -> "FleetHealth":
        """Scores."""
        return self._open_now().health

    # --- flat calls: devices ------------------------------------------------------------------------------------

    async def run_operation(self, operation: str) -> OperationResponse:
        """Waits until long work has ended, doing it here where no server does."""
        await (await self.open()).operations.run(operation)
        return await self.get_operation(operation)

    # --- flat calls: certificates -----------------------------------------------------------------------------

    async def check_certificate(self, pem: str) -> View:
        """What a certificate (PEM) is worth here and now: ``valid``, and ``refusal`` says why not."""
        report = await (await self.open()).security.validate(pem.encode())
        return View({"valid": report.valid, **_view(report)})

    async def get_crl(self) -> View:
        """The revocation lists of every issuing CA that has living certificates: ``crl``, PEM, one after the other."""
        return View(crl=(await (await self.open()).security.export_crl()).decode())

    async def list_cas(self) -> list[View]:
        """The CAs: roots, issuing CAs, former ones, the cross certificate; which signs, and when each is due."""
        return [_view(one) for one in await (await self.open()).security.cas()]

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
        fleet = await self.open()
        found = await fleet.outlook.forecast(per=per, periods=periods, by=by, where=where, next=next)
        shown = _view(found)
        for name in ("buckets", "next", "late"):
            shown[name] = [_view(one) for one in getattr(found, name)]
        ends = {name: format_time(time) for name, time in fleet.security.own_ends().items()}
        return View(shown, cas=[_view(one) for one in await fleet.security.cas()], own=ends)

    async def ca_incident(self, ca: str) -> View:
        """Devices with certificates of an issuing CA, by its id; ``sole_certificate``: they have no other."""
        found = await (await self.open()).security.incident(ca)
        sole = sum(one.sole_certificate for one in found)
        return View(ca=ca, devices=len(found), sole_certificate=sole, dependents=[_view(one) for one in found])

    async def distrust_ca(self, ca: str, *, force: bool = False, reason: str = "") -> View:
        """Ends trust in an issuing CA whose key is lost; with ``force`` though devices have no other certificate."""
        fleet = await self.open()
        return _view(await fleet.security.rotation.distrust(ca, force=force, actor="library", reason=reason))

    async def ca_rotation(self) -> View:
        """How far a rotation is: its phase, how many devices trust the new root, and whom ``retire`` would lock out."""
        status = await (await self.open()).security.rotation.status()
        return View({**_view(status), "share": status.share})

    async def rotate_ca(self, step: str, *, threshold: float = 1.0, force: bool = False, reason: str = "") -> View:
        """Takes a step from one root to the next: ``begin``, ``issue``, ``retire``, or ``back``.

        ``threshold`` and ``force`` are for ``retire``, ``force`` for ``back`` too: see :class:`Rotation`. A root's key
        that is kept offline is lent before (:meth:`lend_root_key`).
        """
        fleet = await self.open()
        done = await fleet.security.rotation.step(
            step, threshold=threshold, force=force, actor="library", reason=reason
        )
        return _view(done)

    async def renew_issuing_ca(self, *, reason: str = "") -> View:
        """Makes a new issuing CA below the same root, which signs from now on; the one before stays trusted."""
        return _view(await (await self.open()).security.rotation.renew_issuing(actor="library", reason=reason))

    async def lend_root_key(self, key: str, passphrase: str | None = None) -> None:
        """Lends the key of a root that is kept offline (PEM) to the next call that needs it, for ten minutes."""
        (await self.open()).security.rotation.lend(key, passphrase)

    async def take_root_offline(
        self, file: str, *, passphrase: str | None = None, number: int | None = None, reason: str = ""
    ) -> View:
        """Moves a root's key out of the data folder into a new file, encrypted where a passphrase is given.

        Without one it is encrypted by the folder's own, where there is one.
        """
        fleet = await self.open()
        root = await fleet.security.rotation.take_offline(
            Path(file), passphrase=passphrase, number=number, actor="library", reason=reason
        )
        folder = fleet.security.folder
        encrypted = passphrase is not None or (folder is not None and folder.passphrase is not None)
        return View(file=file, root=root.number, encrypted=encrypted)

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
        fleet = await self.open()
        found = await fleet.renewals.plan(
            where=where, devices=tuple(devices), outdated=outdated, waves=tuple(waves), cap=cap
        )
        return View(asdict(found))

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
        fleet = await self.open()
        started = await fleet.renewals.start(
            where=where, devices=tuple(devices), outdated=outdated, waves=tuple(waves), cap=cap,
            rate_per_s=rate_per_s, timeout_s=timeout_s, max_failed=max_failed, plan=plan,
            actor="library", reason=reason,
        )  # fmt: skip
        return _view(started)

    async def reissue_certificate(self, device_id: str, *, timeout_s: float = 86_400.0, reason: str = "") -> View:
        """Asks one device for a new certificate; the operation it gives follows whether it comes with it."""
        fleet = await self.open()
        return _view(await fleet.renewals.reissue(device_id, timeout_s=timeout_s, actor="library", reason=reason))

    # --- flat calls: telemetry ----------------------------------------------------------------------------------

    async def query_telemetry(
        self,
        device_id: str,
        metric: str,
        *,
        start: Ms | int | str | datetime | None = None,
        end: Ms | int | str | datetime | None = None,
    ) -> TelemetryView:
        """The points of a series with ``start <= time < end``, as columns, numbers and text alike.

        Raises NotFound for a series that never was.
        """
        fleet = await self.open()
        first = 0 if start is None else from_builtins(start, Ms)
        last = None if end is None else from_builtins(end, Ms)
        data = await fleet.telemetry.query(device_id, metric, start=first, end=last)
        return TelemetryView(data, await fleet.telemetry.texts(device_id, metric, start=first, end=last))

    async def settle(self) -> None:
        """Returns once every detector and notifier has seen what was accepted so far."""
        fleet = await self.open()
        await fleet.settle()

    # --- flat calls: twins and commands -------------------------------------------------------------------------

    # --- flat calls: firmware, edge, health ---------------------------------------------------------------------

    async def backup(self, target: str) -> View:
        """Copies the data folder, consistent as of some moment of the call, into an empty folder."""
        from fleetcore.runtime.backup import backup

        fleet = await self.open()
        await backup(fleet, Path(target))
        return View(backup=target)

    async def check_storage(self) -> list[str]:
        """Reads and checks all stored data, which takes as long as it is large; gives what is wrong with it.

        Counters that differ from what they count are set right; :meth:`status` names them under ``recounted``.
        """
        from fleetcore.runtime.recount import recount

        fleet = await self.open()
        fleet.problems = tuple(await fleet.storage.check())
        fleet.recounted = tuple(await recount(fleet.storage, fleet.counted))
        return list(fleet.problems)


def _without(record: Any, *names: str) -> View:
    """What is shown of a record: all but members that are long, secret or of the store."""
    shown = _view(record)
    for name in names:
        shown.pop(name, None)
    return shown


async def _known(fleet: "Fleet", device_id: str | None) -> None:
    """Nothing of a device and no such device are two answers."""
    if device_id is not None:
        await fleet.devices.get(device_id)


class SyncFleetManager(BlockingFleet[IoTFleetManager]):
    """The façade, blocking: the calls of :class:`IoTFleetManager`, and its parts."""
