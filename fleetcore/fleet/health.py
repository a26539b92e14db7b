"""Health: a score from 0 to 100 with its parts, of a device, a group or the fleet, computed from stored data.

No data is not healthy: a device that was never heard from scores zero in every part that depends on its data, in its
own score and in the fleet's. The part ``anomalies`` of many devices covers those that were heard from: 1.0 where none
has an anomaly. A part that does not apply to a device, such as the battery where it has none, is left out of its score
instead.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence

from attrs import frozen

from fleetcore.fleet.anomalies import AnomalyDetector
from fleetcore.fleet.process_state.presence import PresenceBoard
from fleetcore.fleet.registry import Registry
from fleetcore.fleet.security.inventory import CertificateRecord
from fleetcore.fleet.twins import Twins
from fleetcore.fleet.updates import Updates
from fleetcore.interfaces.clock import Clock
from fleetcore.model.credential import CertificateState
from fleetcore.model.days import DAY_MS
from fleetcore.model.device import Connectivity, Device, Lifecycle
from fleetcore.model.firmware import EXECUTION_ENDS, ExecutionState
from fleetcore.model.twin import Twin, comparable, delta

#: Anomalies found within this time count.
RECENT_MS = DAY_MS
#: A certificate that expires sooner does not count as good.
EXPIRY_MS = 14 * DAY_MS
#: A battery above this is good; below, its part falls to 0 (percent).
BATTERY_PERCENT = 20.0
_WEIGHTS = {
    "connectivity": 30,
    "convergence": 20,
    "anomalies": 20,
    "firmware": 15,
    "certificates": 10,
    "power": 5,
}
_REACHABLE = frozenset({Connectivity.ONLINE, Connectivity.ASLEEP})
Certificates = Callable[[str], Awaitable[Sequence[CertificateRecord]]]


@frozen(kw_only=True)
class Health:
    """A score (None without devices) and its parts, each from 0 to 1, with the counts behind them."""

    score: float | None
    parts: Mapping[str, float]
    counts: Mapping[str, int]


class FleetHealth:
    """Computes the health of a device, of some, or of the fleet."""

    def __init__(
        self,
        registry: Registry,
        presence: PresenceBoard,
        twins: Twins,
        updates: Updates,
        anomalies: AnomalyDetector,
        certificates: Certificates,
        clock: Clock,
    ) -> None:
        self._registry, self._presence, self._twins = registry, presence, twins
        self._updates, self._anomalies, self._clock = updates, anomalies, clock
        self._certificates = certificates

    async def fleet(self) -> Health:
        """The health of all devices that are not retired."""
        return await self._over(self._registry.records.iterate())

    async def of(self, devices: Iterable[str]) -> Health:
        """The health of some devices, such as a group's; raises NotFound."""

        async def each() -> AsyncIterator[Device]:
            for device in devices:
                yield await self._registry.get(device)

        return await self._over(each())

    async def device(self, device: str) -> Health:
        """The health of one device; raises NotFound."""
        await self._registry.get(device)
        recent = self._clock.now_ms() - RECENT_MS
        found = [anomaly async for anomaly in self._anomalies.found_since(recent, device)]
        parts = await self._parts(device, {device} if found else set())
        return Health(score=_score(parts), parts=parts, counts={"anomalies": len(found)})

    async def _over(self, devices: AsyncIterator[Device]) -> Health:
        recent = self._clock.now_ms() - RECENT_MS
        troubled = {anomaly.device async for anomaly in self._anomalies.found_since(recent)}
        sums = dict.fromkeys(_WEIGHTS, 0.0)
        having = dict.fromkeys(_WEIGHTS, 0)
        counts = {"devices": 0, "devices_with_anomalies": 0, **{state.value: 0 for state in Connectivity}}
        async for device in devices:
            if device.lifecycle is Lifecycle.RETIRED:
                continue
            counts["devices"] += 1
            counts[self._presence.of(device.id).connectivity.value] += 1
            counts["devices_with_anomalies"] += device.id in troubled
            for name, part in (await self._parts(device.id, troubled)).items():
                sums[name] += part
                having[name] += 1
        parts = {name: round(sums[name] / having[name], 4) for name in _WEIGHTS if having[name]}
        score = _score(parts) if counts["devices"] else None
        # Only devices that were heard from count: nothing is known of the others.
        heard = counts["devices"] - counts[Connectivity.NEVER.value]
        parts.pop("anomalies", None)
        if heard:
            parts["anomalies"] = round(sums["anomalies"] / heard, 4)
        return Health(score=score, parts={name: parts[name] for name in _WEIGHTS if name in parts}, counts=counts)

    async def _parts(self, device: str, troubled: set[str]) -> Mapping[str, float]:
        presence = self._presence.of(device)
        twin = await self._twins.get(device)
        executions = await self._updates.of_device(device)
        ended = [execution for execution in executions if execution.state in EXECUTION_ENDS]
        last = max(ended, key=lambda item: item.changed, default=None)
        heard = presence.connectivity is not Connectivity.NEVER
        parts = {
            "connectivity": float(presence.connectivity in _REACHABLE),
            "convergence": float(heard and not delta(comparable(twin.desired.document), twin.reported.document)),
            "anomalies": float(heard and device not in troubled),
            "firmware": float(heard and (last is None or last.state is ExecutionState.SUCCEEDED)),
        }
        active = [
            certificate
            for certificate in await self._certificates(device)
            if certificate.state is CertificateState.ACTIVE
        ]
        if active:
            left = max(item.not_after for item in active) - self._clock.now_ms()
            parts["certificates"] = float(left > EXPIRY_MS)
        battery = _battery(twin)
        if battery is not None:
            parts["power"] = round(min(1.0, max(0.0, battery / BATTERY_PERCENT)), 4)
        return parts


def _battery(twin: Twin) -> float | None:
    power = twin.reported.document.get("power")
    level = power.get("battery") if isinstance(power, Mapping) else None
    return float(level) if isinstance(level, int | float) and not isinstance(level, bool) else None


def _score(parts: Mapping[str, float]) -> float:
    total = sum(_WEIGHTS[name] for name in parts)
    return round(100 * sum(_WEIGHTS[name] * part for name, part in parts.items()) / total, 1)
