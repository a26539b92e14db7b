"""State between the core and the gateway's leaves: twins, commands and alerts.

Towards the core it follows the gateway's own feed, so what changed during an outage is told after it: the newest report
of each leaf, the end of each command, and every alert. Towards the leaves it takes what the core sends into the
gateway's store, from where the leaves get it as from any fleet, also while the core is out of reach.

Where both sides changed something meanwhile: desired state is the core's, reported state is the leaf's, and the first
end of a command stands.
"""

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, cast

from attrs import evolve, field, frozen

from fleetcore.errors import FleetError, NotFound, VersionConflict
from fleetcore.fleet.anomalies import AnomalyDetector
from fleetcore.fleet.commands import Commands
from fleetcore.fleet.repository import ATTEMPTS, Repository
from fleetcore.fleet.twins import Twins
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.storage import Storage
from fleetcore.model.anomaly import Anomaly
from fleetcore.model.command import FINISHED, Command, CommandState
from fleetcore.model.events import ANOMALY_FOUND, CORE, OFFER_ANSWERED, TWIN_ACKNOWLEDGED, TWIN_REPORTED, Subject
from fleetcore.model.message import Downlink
from fleetcore.model.store import Commit, Event, FeedEntry
from fleetcore.model.twin import OURS, Json, diff_patch
from fleetcore.pipeline.consumer import Consumer
from fleetcore.wire import messages
from fleetcore.wire.times import format_time, parse_time
from fleetcore_edge.uplink.firmware import LeafFirmware
from fleetcore_edge.uplink.fitting import send_all
from fleetcore_edge.uplink.leaves import ACTOR, Leaves
from fleetcore_edge.uplink.link import Link

_log = logging.getLogger(__name__)

STATE = "uplink/state"
#: The blob with the newest time at which an alert was found that the core has, ms since the epoch.
_ALERTS = "uplink/alerts"
_TOLD_AS: Mapping[CommandState, str] = {
    CommandState.DELIVERED: "accepted",
    CommandState.RUNNING: "running",
    CommandState.SUCCEEDED: "succeeded",
    CommandState.FAILED: "failed",
    CommandState.REJECTED: "rejected",
    CommandState.CANCELLED: "cancelled",
    CommandState.EXPIRED: "failed",
    CommandState.TIMED_OUT: "failed",
}
_ALERTS_TOGETHER = 100


@frozen(kw_only=True)
class LeafState:
    """What the core and the gateway have told each other about a leaf's twin.

    Attributes:
        desired: the core's version of desired state that was taken over.
        here: the gateway's version that it became.
        reported: the report that the core has.
        seen: the newest version of the report at the core that was seen.
    """

    device: str
    desired: int = 0
    here: int = 0
    reported: Json = field(factory=dict)
    seen: int = 0
    version: int = 0


@frozen(kw_only=True)
class CoreCommand:
    """A command of the core for a leaf: its ids here and at the core."""

    id: str
    at_core: str
    version: int = 0


class State(Consumer):
    """Follows the feed towards the core; :meth:`heard` takes what the core sends.

    Attributes:
        counts: what was told: ``reports``, ``results``, ``alerts``; and what came: ``desired``, ``commands``.
    """

    def __init__(
        self,
        link: Link,
        leaves: Leaves,
        storage: Storage,
        clock: Clock,
        *,
        twins: Twins,
        commands: Commands,
        anomalies: AnomalyDetector,
        firmware: LeafFirmware,
    ) -> None:
        super().__init__(STATE, storage, clock)
        self._link, self._leaves = link, leaves
        self._twins, self._commands, self._anomalies, self._firmware = twins, commands, anomalies, firmware
        self._leaf_states = Repository(storage, "uplink_leaf", LeafState, key="device")
        self._core_commands = Repository(storage, "uplink_command", CoreCommand)
        self.counts: Counter[str] = Counter()
        self._all_again = self._is_older = False
        self._agent: Callable[[Mapping[str, object]], None] = lambda _body: None
        self._ours: Callable[[Mapping[str, object]], Awaitable[None]] = _nothing

    # --- towards the core ----------------------------------------------------------------------------------------

    async def _step(self) -> None:
        await self._link.connected()
        if self._is_older:
            self._is_older = False
            await self._meet_again()
        if self._all_again:
            await self._tell_all()
        await super()._step()

    async def _missed(self) -> None:
        self._all_again = True

    def _to_keep(self) -> bool:
        return not self._all_again and super()._to_keep()  # a restart must find the gap again

    async def _tell_all(self) -> None:
        """After a gap in the feed: every leaf's report, every command's end, and the alerts that were found since."""
        for device in self._leaves.known():
            await self._tell_report(device)
        async for each in self._core_commands.iterate():
            await self._tell_command(each.id)
        await self._firmware.told_all()
        since = int(await self._storage.blob(_ALERTS) or 0)
        await self._tell_alerts([each async for each in self._anomalies.found_since(since)])
        self._all_again = False

    async def compare(self) -> None:
        """Asks for the versions of the gateway's twin: they fall where the core was restored from a backup alone."""
        own = self._leaves.gateway
        known = await self._leaf(own)  # first: a report may be under way
        found = await self._at_core(own)
        if found is None:
            return
        version = int(found["reported_version"])
        if version < known.seen or found["desired_version"] < known.desired:
            await self._meet_again()
        elif version > known.seen:
            await self._keep_leaf(own, lambda old: evolve(old, seen=max(version, old.seen)))

    async def _meet_again(self) -> None:
        """The core is older than it was: compares all twins, and tells what it may have lost."""
        _log.warning("The core has an older state than it had: twins are compared, and alerts told, again")
        self._leaves.again()
        await self._leaves.look()
        for device in (self._leaves.gateway, *self._leaves.known()):
            await self._compared(device)
        await self._storage.commit(Commit(blobs={_ALERTS: None}))
        self._all_again = True

    async def _compared(self, device: str) -> None:
        found = await self._at_core(device)
        if found is None:
            return
        if found["desired_version"] != (await self._leaf(device)).desired:
            await self._take_over(device, found["desired_version"], found["desired"], replace=True)
        there, version = found["reported"], int(found["reported_version"])
        await self._keep_leaf(device, lambda old: evolve(old, reported=there, seen=version))
        await self._tell_report(device)

    async def _at_core(self, device: str) -> Mapping[str, Any] | None:
        """A twin as the core has it; None where it refuses."""
        reply = await self._link.request(messages.TWIN_GET, subject=self._subject(device))
        return cast("Mapping[str, Any] | None", reply.body)

    async def _handle(self, entries: Sequence[FeedEntry]) -> bool:
        events = [event for entry in entries for event in entry.events]
        for device in dict.fromkeys(event.subject for event in events if event.type == TWIN_REPORTED):
            await self._tell_report(device)
        for device in dict.fromkeys(event.subject for event in events if event.type == TWIN_ACKNOWLEDGED):
            await self._tell_acknowledged(device)
        for command in dict.fromkeys(event.subject for event in events if _is_about(event, Subject.COMMAND)):
            await self._tell_command(command)
        for event in events:
            if event.type == OFFER_ANSWERED:
                await self._firmware.told(event.subject, event.data["status"])
        ids = dict.fromkeys(event.subject for event in events if event.type == ANOMALY_FOUND)
        found = [await self._anomalies.get(each) for each in ids]
        await self._tell_alerts([each for each in found if each is not None])
        return bool(ids)

    async def _leaf(self, device: str) -> LeafState:
        return await self._leaf_states.get(device) or LeafState(device=device)

    async def _tell_report(self, device: str) -> None:
        if await self._leaves.announced(device):
            return
        known = await self._leaf(device)
        document = (await self._twins.get(device)).reported.document
        patch = diff_patch(known.reported, document)
        if not patch:
            return
        reply = await self._link.send(messages.TWIN_REPORT, patch, subject=self._subject(device))
        if reply.error is not None:
            _log.warning("The core refuses the report of %s: %s", device, reply.error.get("detail"))
            return
        self.counts["reports"] += 1
        seen = reply.version or 0  # not every protocol tells it; :meth:`compare` asks
        self._is_older = self._is_older or 0 < seen <= known.seen
        await self._keep_leaf(device, lambda old: evolve(old, reported=document, seen=max(seen, old.seen)))

    async def _keep_leaf(self, device: str, change: Any) -> None:
        await self._leaf_states.compare_and_set(lambda: self._leaf(device), lambda old: (change(old), []), key=device)

    async def _tell_acknowledged(self, device: str) -> None:
        known, twin = await self._leaf(device), await self._twins.get(device)
        if not known.desired or twin.acknowledged < known.here:
            return
        body = {"version": known.desired, "refused": dict(twin.refused)}
        await self._link.send(messages.TWIN_ACK, body, subject=self._subject(device))

    async def _tell_command(self, command: str) -> None:
        of_core = await self._core_commands.get(command)
        if of_core is None:
            return
        try:
            here = await self._commands.get(command)
        except NotFound:
            return
        status = _TOLD_AS.get(here.state)
        if status is None:
            return
        body = _result(here, status)
        reply = await self._link.send(
            messages.COMMAND_RESULT, body, subject=self._subject(here.device), target=of_core.at_core
        )
        if reply.error is not None:
            _log.warning("The core refuses the result of command %s: %s", of_core.at_core, reply.error.get("detail"))
        if here.state in FINISHED:
            self.counts["results"] += 1
            await self._storage.commit(self._core_commands.removing(of_core))

    async def _tell_alerts(self, alerts: Sequence[Anomaly]) -> None:
        by_device: dict[str, list[Anomaly]] = {}
        for each in alerts:
            by_device.setdefault(each.device, []).append(each)
        for device, found in by_device.items():
            if await self._leaves.announced(device):
                continue
            for at in range(0, len(found), _ALERTS_TOGETHER):
                part = found[at : at + _ALERTS_TOGETHER]
                body = [_alert(each) for each in part]
                for some, reply in await send_all(self._link, messages.EVENTS, body, subject=self._subject(device)):
                    if reply.error is not None:
                        _log.warning("The core refuses alerts of %s: %s", device, reply.error.get("detail"))
                    self.counts["alerts"] += len(some)
        if alerts:
            newest = max(each.found for each in alerts)
            await self._storage.commit(Commit(blobs={_ALERTS: b"%d" % newest}))

    def _subject(self, device: str) -> str | None:
        return None if device == self._leaves.gateway else device

    # --- from the core -------------------------------------------------------------------------------------------

    async def heard(self, downlink: Downlink) -> None:
        """Takes a downlink for a leaf; what cannot be taken is logged, and refused to the core where it can be."""
        try:
            for _ in range(ATTEMPTS):
                try:
                    await self._take(downlink)
                except VersionConflict:  # this side has changed the same meanwhile
                    continue
                return
        except (FleetError, OSError) as error:
            _log.warning("%s for %s cannot be taken: %s", downlink.type, downlink.subject, error)

    async def _take(self, downlink: Downlink) -> None:
        match downlink.type:
            case messages.TWIN_DESIRED:
                await self._desired(downlink.subject, cast("Mapping[str, Any]", downlink.body))
            case messages.COMMAND:
                await self._command(downlink.subject, cast("Mapping[str, Any]", downlink.body))
            case messages.FIRMWARE if downlink.subject == self._leaves.gateway:
                self._agent(cast("Mapping[str, Any]", downlink.body))
            case messages.FIRMWARE:
                await self._firmware.heard(downlink.subject, cast("Mapping[str, Any]", downlink.body))
            case messages.COMMAND_CANCEL:
                await self._cancel(str(downlink.target or downlink.body.get("id")))

    def on_own_firmware(self, callback: Callable[[Mapping[str, object]], None]) -> None:
        """Calls ``callback(body)`` with each firmware offer to the gateway itself, and each withdrawal."""
        self._agent = callback

    def on_ours(self, callback: Callable[[Mapping[str, object]], Awaitable[None]]) -> None:
        """Awaits ``callback(section)`` with what the core itself wants of the gateway: ``desired.fleetcore``."""
        self._ours = callback

    async def _desired(self, device: str, change: Mapping[str, Any]) -> None:
        known = await self._leaf(device)
        if 0 < change["version"] <= known.desired:
            return
        if change["since"] in (0, known.desired):
            await self._take_over(device, change["version"], change["patch"], replace=change["since"] == 0)
        elif (found := await self._at_core(device)) is not None:  # something between is missing
            await self._take_over(device, found["desired_version"], found["desired"], replace=True)

    async def _take_over(self, device: str, version: int, patch: Mapping[str, Any], *, replace: bool) -> None:
        ours = patch.get(OURS)
        if device == self._leaves.gateway and isinstance(ours, Mapping):
            await self._ours(ours)
        rest = {name: value for name, value in patch.items() if name != OURS}
        twin = await self._twins.desire(device, rest, replace=replace, actor=ACTOR, reason="as at the core")
        self.counts["desired"] += 1
        await self._keep_leaf(device, lambda old: evolve(old, desired=version, here=twin.desired.version))
        await self._tell_acknowledged(device)  # a leaf may have been faster than the line above

    async def _command(self, device: str, body: Mapping[str, Any]) -> None:
        if body.get("cancel"):
            await self._cancel(str(body["id"]))
            return
        key, now = f"{ACTOR}/{body['id']}", self._clock.now_ms()
        known = await self._commands.keyed(device, key)
        if known is not None:
            await self._remember(known.id, str(body["id"]))
            return  # the core asks again: it may have lost the result
        within_s = body["expires_in_ms"] / 1000
        result_s = max(within_s, (parse_time(body["result_by"]) - now) / 1000)
        if within_s <= 0:
            return
        try:
            sent = await self._commands.send(
                device, body["name"], body["args"], lane=body["lane"], respond=body["respond"],
                deliver_within_s=within_s, execute_within_s=within_s, result_within_s=result_s, idempotency_key=key,
                actor=ACTOR, reason="it was given at the core",
            )  # fmt: skip
        except FleetError as error:
            refused = {"status": "rejected", "code": error.code, "reason": error.message}
            await self._link.send(
                messages.COMMAND_RESULT, refused, subject=self._subject(device), target=str(body["id"])
            )
            return
        self.counts["commands"] += 1
        await self._remember(sent.id, str(body["id"]))

    async def _remember(self, command: str, at_core: str) -> None:
        if await self._core_commands.get(command) is None:
            await self._storage.commit(self._core_commands.making([CoreCommand(id=command, at_core=at_core)]))
        await self._tell_command(command)

    async def _cancel(self, at_core: str) -> None:
        async for each in self._core_commands.iterate():
            if each.at_core == at_core:
                await self._commands.cancel(each.id, actor=ACTOR, reason="it was cancelled at the core")


async def _nothing(_section: Mapping[str, object]) -> None:
    return


def _is_about(event: Event, subject: Subject) -> bool:
    known = CORE.get(event.type)
    return known is not None and known.subject is subject


def _result(command: Command, status: str) -> dict[str, object]:
    body: dict[str, object] = {"status": status}
    if command.progress is not None:
        body["progress"] = command.progress
    if command.output is not None:
        body["output"] = command.output
    code = command.code or (command.state.value if command.state.value != status else None)
    if code is not None:
        body["code"] = code
    if command.reason is not None:
        body["reason"] = command.reason
    if command.finished_at is not None:
        body["time"] = format_time(command.finished_at)
    return body


def _alert(anomaly: Anomaly) -> dict[str, object]:
    body: dict[str, object] = {
        "detector": anomaly.detector,
        "metric": anomaly.metric,
        "time": anomaly.time,
        "score": anomaly.score,
        "severity": anomaly.severity.value,
        "text": anomaly.explanation,
    }
    if anomaly.observed is not None:
        body["value"] = anomaly.observed
    if anomaly.expected is not None:
        body["expected"] = anomaly.expected
    return body
