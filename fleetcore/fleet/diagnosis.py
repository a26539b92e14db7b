"""Diagnosis of a device: everything that affects it in one answer, each with its reason."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from attrs import evolve, field, frozen

from fleetcore.fleet.function_states import FunctionState, function_states
from fleetcore.fleet.health import RECENT_MS, Health
from fleetcore.fleet.registry import GATEWAY
from fleetcore.model.audit import AuditRow
from fleetcore.model.command import Command
from fleetcore.model.device import Connectivity, Device, Presence
from fleetcore.model.edge import FUNCTIONS
from fleetcore.model.firmware import EXECUTION_ENDS, Execution
from fleetcore.model.group import Membership
from fleetcore.model.twin import unconverged

if TYPE_CHECKING:
    from fleetcore.fleet.anomalies import AnomalyDetector
    from fleetcore.fleet.audit import AuditLog
    from fleetcore.fleet.commands import Commands
    from fleetcore.fleet.groups import Groups
    from fleetcore.fleet.health import FleetHealth
    from fleetcore.fleet.process_state.presence import PresenceBoard
    from fleetcore.fleet.registry import Registry
    from fleetcore.fleet.twins import Twins
    from fleetcore.fleet.updates import Updates
    from fleetcore.interfaces.clock import Clock
    from fleetcore.model.anomaly import Anomaly

_LATEST = 5


@frozen(kw_only=True)
class Why:
    """Everything that affects a device.

    Attributes:
        unconverged: desired leaves that it does not report, by pointer, since when (ms since the epoch).
        refused: leaves that it refused, with its reasons.
        waiting: commands without an end state.
        updating: firmware executions without an end state.
        changes: the last rows of its history.
        findings: one sentence for each problem, the most urgent first.
    """

    device: Device
    presence: Presence
    health: Health
    groups: Sequence[Membership] = ()
    unconverged: Mapping[str, int] = field(factory=dict)
    refused: Mapping[str, object] = field(factory=dict)
    waiting: Sequence[Command] = ()
    updating: Sequence[Execution] = ()
    anomalies: Sequence["Anomaly"] = ()
    changes: Sequence[AuditRow] = ()
    findings: Sequence[str] = ()


@frozen(kw_only=True)
class Diagnosis:
    """The sources of a diagnosis; :meth:`why` asks them all."""

    registry: "Registry"
    presence: "PresenceBoard"
    health: "FleetHealth"
    groups: "Groups"
    twins: "Twins"
    commands: "Commands"
    updates: "Updates"
    anomalies: "AnomalyDetector"
    audit: "AuditLog"
    clock: "Clock"

    async def why(self, device: str) -> Why:
        """Raises NotFound."""
        record = await self.registry.get(device)
        twin = await self.twins.get(device)
        recent = self.clock.now_ms() - RECENT_MS
        waiting = await self.commands.list(device, unfinished=True)
        updating = [item for item in await self.updates.of_device(device) if item.state not in EXECUTION_ENDS]
        anomalies = [item for item in await self.anomalies.list(device, limit=_LATEST) if item.found >= recent]
        answer = Why(
            device=record,
            presence=self.presence.of(device),
            health=await self.health.device(device),
            groups=self.groups.memberships(device),
            unconverged=unconverged(twin),
            refused=twin.refused,
            waiting=waiting,
            updating=updating,
            anomalies=anomalies,
            changes=(await self.audit.page(object=device, limit=_LATEST, newest=True)).items[::-1],
        )
        differ = [each for each in function_states(twin) if not each.in_sync] if GATEWAY in record.attributes else []
        return _with_findings(answer, differ, self.clock.now_ms())


def _with_findings(why: Why, differ: Sequence[FunctionState], now_ms: int) -> Why:
    found: list[str] = []
    if why.device.lifecycle not in ("active", "provisioned", "registered"):
        found.append(f"it is {why.device.lifecycle}")
    never = why.presence.connectivity is Connectivity.NEVER
    if never:
        found.append("it was never heard from")
    for name, part in sorted(why.health.parts.items(), key=lambda item: item[1]):
        if part < 1 and not (never and name in _SAID):
            found.append(_SENTENCES[name].format(why=why, part=part))
    for function in differ:
        ago = "" if function.since is None else f", for {max(0, now_ms - function.since) // 60_000} min"
        found.append(f"function {function.name}: {function.why}{ago}")
    if why.refused:
        found.append(f"it refuses {', '.join(sorted(why.refused))}")
    functions = tuple(f"/{FUNCTIONS}/{function.name}/" for function in differ)
    late = {at: since for at, since in why.unconverged.items() if not at.startswith(functions)}
    oldest = min(late.values(), default=now_ms)
    if late and now_ms - oldest > _LONG_MS:
        found.append(f"it has not applied {', '.join(sorted(late))} for {(now_ms - oldest) // 60_000} min")
    if why.waiting:
        first = why.waiting[0]
        found.append(f"{len(why.waiting)} commands wait, the first is {first.name} ({first.state})")
    return evolve(why, findings=tuple(found))


#: Until then the change is normally in progress.
_LONG_MS = 15 * 60 * 1000
#: Parts that follow from never having been heard from.
_SAID = frozenset({"connectivity", "convergence", "anomalies", "firmware"})
_SENTENCES = {
    "connectivity": "it is {why.presence.connectivity}",
    "convergence": "its desired and reported states differ",
    "anomalies": "its readings are abnormal",
    "firmware": "its last update did not succeed",
    "certificates": "its certificate expires within two weeks",
    "power": "its battery is low",
}
