"""A fleet in asyncio: the calls, also by name, and methods that combine several calls."""

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from fleetcore.calls.responses.campaigns import CampaignResponse
from fleetcore.calls.responses.operations import OperationResponse
from fleetcore.calls.responses.telemetry import ImportedReadingsResponse
from fleetcore.calls.types import Ms
from fleetcore.frontends.generated.calls_async import AsyncCalls
from fleetcore.frontends.readings import Parts, together
from fleetcore.frontends.registration import registration
from fleetcore.model.operation import OperationState
from fleetcore.views import TelemetryView

#: The interval of polling an operation.
_LOOK_S = 0.2
#: How many points of a series are requested at once.
POINTS = 10_000


class AsyncFleet(AsyncCalls):
    """A fleet in asyncio, on a folder, in memory or on a server: a script that takes one runs with each of them."""

    async def call(self, name: str, /, **given: Any) -> Any:
        """Makes a call by name, including plugins' calls; raises Refused where there is none."""
        return await self._value(name, given, Any)

    def stream(self, name: str, /, **given: Any) -> AsyncIterator[Any]:
        """The items of a streaming call, by name."""
        return self._stream(name, given, Any)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @abstractmethod
    async def close(self) -> None:
        """Closes the fleet; idempotent."""

    async def register_device(
        self, device_id: str, device_type: str, properties: Mapping[str, Any] | None = None, *, reason: str = ""
    ) -> str:
        """Registers a device and returns its id: ``create_device`` with free members.

        ``properties`` may hold what ``create_device`` takes; any other member becomes an attribute. Raises Conflict
        where the id exists.
        """
        members = registration(properties)
        return (await self.create_device(device_id, device_type, **members, reason=reason)).id

    async def update_firmware(
        self,
        campaign: str,
        version: str,
        devices: Sequence[str],
        url: str = "",
        *,
        sha256: str | None = None,
        size: int | None = None,
        manifest: Mapping[str, Any] | None = None,
        from_release: str | None = None,
        allow_downgrade: bool = False,
        reason: str = "",
    ) -> CampaignResponse:
        """Starts a campaign: ``create_campaign`` with parameters that suit a script."""
        return await self.create_campaign(
            campaign, version, devices, url, sha256=sha256, size=size,
            manifest=None if manifest is None else dict(manifest), from_release=from_release,
            allow_downgrade=allow_downgrade, reason=reason,
        )  # fmt: skip

    async def collect_many(
        self,
        readings: Any,
        *,
        device: str | None = None,
        metric: str | None = None,
        unit: str | Mapping[str, str] | None = None,
        dry_run: bool = False,
    ) -> ImportedReadingsResponse:
        """Stores many readings, in parts; each part is committed before the next. Repeating it changes nothing.

        Args:
            readings: rows, as dicts or as tuples (device, metric, time, value, unit); a dict of columns, a pandas
                DataFrame (whose index may be the time), or any object with Arrow's C stream, such as Arrow tables. Rows
                and columns have ``value``, or a separate member for each metric. Missing values are left out.
            device: of readings without a device.
            metric: of readings with a ``value`` and without a metric.
            unit: of all readings without a unit, or by metric.
            dry_run: only reports what a run would do; it remembers each time, some 100 bytes a reading.

        Raises:
            Refused: the readings have none of these forms. Refused readings are counted in the answer, by reason.
        """
        parts = Parts(device=device, metric=metric, unit=unit, dry_run=dry_run)
        total = None
        for part in parts.of(readings):
            answer = await self.import_readings(part, dry_run=dry_run)
            total = answer if total is None else together(total, answer)
        return parts.finish(total)

    async def run_operation(self, operation: str) -> OperationResponse:
        """Waits until an operation has ended; in a library without a server, runs it meanwhile."""
        while True:
            current = await self.get_operation(operation)
            if current.state is not OperationState.RUNNING:
                return current
            await asyncio.sleep(_LOOK_S)

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
        pages = self.iter_readings(metric, device=device_id, start=start, end=end, points=POINTS)
        return TelemetryView.of(device_id, metric, [part async for part in pages])
