"""Fleet health: a score from 0 to 100 whose parts can be seen, computed from what is stored. No data is not healthy."""

from attrs import frozen

from fleetcore.fleet.anomalies import AnomalyDetector
from fleetcore.fleet.campaigns import Campaigns
from fleetcore.fleet.presence import PresenceBoard
from fleetcore.fleet.registry import Registry
from fleetcore.fleet.twins import Twins
from fleetcore.interfaces.clock import Clock
from fleetcore.model.device import Connectivity, Lifecycle
from fleetcore.model.firmware import EXECUTION_ENDS, ExecutionState
from fleetcore.model.twin import delta

#: Anomalies found within this time count.
RECENT_MS = 24 * 3600 * 1000
_WEIGHTS = {"connectivity": 0.4, "convergence": 0.2, "anomalies": 0.2, "firmware": 0.2}
_REACHABLE = frozenset({Connectivity.ONLINE, Connectivity.ASLEEP})


@frozen(kw_only=True)
class Health:
    """A score (None for a fleet without devices) and its parts, each from 0 to 1, with the counts behind them."""

    score: float | None
    parts: dict[str, float]
    counts: dict[str, int]


class FleetHealth:
    """Computes the health of a device or of the fleet."""

    def __init__(
        self,
        registry: Registry,
        presence: PresenceBoard,
        twins: Twins,
        campaigns: Campaigns,
        anomalies: AnomalyDetector,
        clock: Clock,
    ) -> None:
        self._registry, self._presence, self._twins = registry, presence, twins
        self._campaigns, self._anomalies, self._clock = campaigns, anomalies, clock

    async def fleet(self) -> Health:
        """Over all devices that are not retired: the mean of the devices' parts, weighted 40 : 20 : 20 : 20."""
        devices = [one for one in await self._registry.list() if one.lifecycle is not Lifecycle.RETIRED]
        recent = self._clock.now_ms() - RECENT_MS
        troubled = {one.device for one in await self._anomalies.list() if one.found >= recent}
        sums = dict.fromkeys(_WEIGHTS, 0.0)
        counts = {"devices": len(devices), "devices_with_anomalies": 0}
        for state in Connectivity:
            counts[state.value] = 0
        for device in devices:
            parts = await self._parts(device.id, troubled)
            counts[self._presence.of(device.id).connectivity.value] += 1
            counts["devices_with_anomalies"] += device.id in troubled
            for name, part in parts.items():
                sums[name] += part
        if not devices:
            return Health(score=None, parts={}, counts=counts)
        return _health({name: total / len(devices) for name, total in sums.items()}, counts)

    async def device(self, device: str) -> Health:
        """Of one device; raises NotFound."""
        await self._registry.get(device)
        recent = self._clock.now_ms() - RECENT_MS
        found = [one for one in await self._anomalies.list(device) if one.found >= recent]
        return _health(await self._parts(device, {device} if found else set()), {"anomalies": len(found)})

    async def _parts(self, device: str, troubled: set[str]) -> dict[str, float]:
        presence = self._presence.of(device)
        twin = await self._twins.get(device)
        executions = await self._campaigns.of_device(device)
        ended = [one for one in executions if one.state in EXECUTION_ENDS]
        last = max(ended, key=lambda one: one.changed, default=None)
        heard = presence.connectivity is not Connectivity.NEVER
        return {
            "connectivity": float(presence.connectivity in _REACHABLE),
            "convergence": float(heard and not delta(twin.desired.document, twin.reported.document)),
            "anomalies": float(heard and device not in troubled),
            "firmware": float(heard and (last is None or last.state is ExecutionState.SUCCEEDED)),
        }


def _health(parts: dict[str, float], counts: dict[str, int]) -> Health:
    score = 100 * sum(weight * parts[name] for name, weight in _WEIGHTS.items())
    return Health(score=round(score, 1), parts={name: round(part, 4) for name, part in parts.items()}, counts=counts)
