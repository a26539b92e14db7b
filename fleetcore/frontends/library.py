"""IoTFleetManager: the library for scripts. It opens on first use and contains no logic.

Calls return responses, which are readable when printed; the parts (``manager.devices``, ``.twins`` …) return stored
records.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from attrs import evolve

from fleetcore.calls.caller import owner, user_of
from fleetcore.calls.fleet_table import of_fleet
from fleetcore.calls.responses.operations import OperationResponse
from fleetcore.calls.table import Table, run
from fleetcore.calls.types import Ms, from_builtins, of_python, present
from fleetcore.errors import Refused, WrongLoop
from fleetcore.frontends.async_fleet import AsyncFleet
from fleetcore.frontends.blocking_fleet import BlockingFleet
from fleetcore.frontends.describe import describe, to_json
from fleetcore.interfaces.clock import Clock
from fleetcore.views import TelemetryView
from fleetcore.wire.pieces import async_pieces

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


class IoTFleetManager(AsyncFleet):
    """A fleet in a script or a notebook.

    Args:
        data: a data folder; None keeps everything in memory. A missing folder, or one without any part of a fleet,
            becomes a new fleet. A folder with only some parts of a fleet is refused.
        config: a configuration instead.
        clock: another clock, for tests.
        create: True makes a new fleet even where there is only a ``fleet.toml``, as ``fleetcore init`` does; False
            never makes one.
        actor: the name recorded with changes in the audit log; ``library:USER`` by default.

    It opens on the first call and belongs to that event loop: use from another loop raises :class:`WrongLoop`. Without
    closing it, no acknowledged data is lost.
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
        self._table = Table()
        self._fleet: Fleet | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opening: asyncio.Lock | None = None

    @staticmethod
    def sync(data: str | Path | None = None, **options: Any) -> "SyncFleetManager":
        """The same calls, blocking; the fleet runs in a background thread."""
        return SyncFleetManager(IoTFleetManager(data, **options))

    async def open(self) -> "Fleet":
        """Opens the fleet, if it is not open yet, and returns it. Raises the errors of opening."""
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
            # The named folder is the data folder, even if the file does not say so.
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
        self,
        actor: str,
        name: str,
        given: Mapping[str, Any],
        content: AsyncIterator[bytes] | None = None,
        *,
        left: Callable[[], Coroutine[Any, Any, object]] | None = None,
    ) -> Any:
        """Makes a call for the user of the control socket; ``content`` is a stream.

        ``left`` returns when the user has disconnected: from then on the call waits for nothing.
        """
        fleet = await self.open()
        call = self._table.get(name)
        if call is None:
            raise Refused(f"Call {name!r} does not exist", code="operation_unknown")
        return await run(call, owner(fleet, actor, left=left), present(**given), content=content)

    async def catalogue(self) -> bytes:
        """The fleet's calls, including its plugins', as :func:`fleetcore.frontends.catalogue.read` decodes them."""
        await self.open()
        return to_json(describe(self._table))

    async def _stream(self, name: str, given: Mapping[str, Any], kind: type[T]) -> AsyncIterator[T]:
        del kind
        items: AsyncGenerator[T, None] = await self.call_as(self._actor, name, given)
        async with contextlib.aclosing(items):
            async for item in items:
                yield item

    async def _value(self, name: str, given: Mapping[str, Any], kind: type[T]) -> T:
        del kind  # it is the type of the call's answer
        await self.open()
        call = self._table.get(name)
        stream = "" if call is None else call.stream
        content = async_pieces(given[stream]) if stream in given else None
        plain = {member: of_python(value) for member, value in given.items() if member != stream}
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
        """Health scores."""
        return self._open_now().health

    async def run_operation(self, operation: str) -> OperationResponse:
        """Waits until an operation has ended, running it here where no server does."""
        await (await self.open()).operations.run(operation)
        return await self.get_operation(operation)

    async def query_telemetry(
        self,
        device_id: str,
        metric: str,
        *,
        start: Ms | int | str | datetime | None = None,
        end: Ms | int | str | datetime | None = None,
    ) -> TelemetryView:
        """The points of a series with ``start <= time < end``, as columns, numbers and text alike.

        Raises NotFound for a series that never existed.
        """
        fleet = await self.open()
        first = 0 if start is None else from_builtins(of_python(start), Ms)
        last = None if end is None else from_builtins(of_python(end), Ms)
        data = await fleet.telemetry.query(device_id, metric, start=first, end=last)
        return TelemetryView(data, await fleet.telemetry.texts(device_id, metric, start=first, end=last))


class SyncFleetManager(BlockingFleet[IoTFleetManager]):
    """The blocking library: the calls of :class:`IoTFleetManager`, and its parts."""
