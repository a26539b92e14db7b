"""Firmware campaigns: one release for many devices, offered to all at once, each device tracked to its end.

The commits that change an execution count the devices in each state, so no step of a campaign costs more with the
number of its devices.
"""

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import cast

from attrs import evolve

from fleetcore import threads
from fleetcore.errors import Conflict, FleetError, NotFound, Refused
from fleetcore.fleet.fetch import check_url, fetch
from fleetcore.fleet.repository import Pairs, Repository
from fleetcore.fleet.update_policy import Target, UpdatePolicy
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.storage import Storage
from fleetcore.interfaces.waits import end_tasks
from fleetcore.model.days import DAY_MS
from fleetcore.model.device import Lifecycle
from fleetcore.model.firmware import (
    EXECUTION_ENDS,
    PROGRESS_ORDER,
    SHOWN_TARGETS,
    Campaign,
    CampaignState,
    Execution,
    ExecutionState,
)
from fleetcore.model.message import Accepted, Downlink, Handler, MessageType, Outcome, Rejected, Waiting
from fleetcore.model.names import check_device_id, check_label, check_version
from fleetcore.model.store import ArtifactInfo, Commit, Event
from fleetcore.wire import messages
from fleetcore.wire.bodies import check_ahead
from fleetcore.wire.replies import rejection

#: The reason with which executions, commands and sessions of a retired device end.
DEVICE_RETIRED = "device_retired"
#: The largest artifact that is fetched or accepted.
ARTIFACT_BYTES = 1 << 30
#: How long a withdrawal is repeated to a device that does not react to it: a week.
WITHDRAWN_MS = 7 * DAY_MS
#: How many devices are examined, or executions are ended, concurrently.
_TOGETHER = 200
#: The index entry of campaigns that a restart has to examine.
_UNSETTLED = ("unsettled", "yes")


def _space(campaign: str) -> str:
    return f"campaign/{campaign}"


def _campaign_refs(campaign: Campaign) -> Pairs:
    unsettled = campaign.state is CampaignState.RUNNING or campaign.aborting
    return [("state", campaign.state), *([_UNSETTLED] if unsettled else [])]


def _execution_refs(execution: Execution) -> Pairs:
    refs = [("campaign", execution.campaign), ("device", execution.device)]
    if execution.state not in EXECUTION_ENDS:
        return [*refs, ("open", execution.device)]
    return [*refs, ("withdrawn", execution.device)] if execution.withdrawn else refs


class Campaigns:
    """Makes campaigns, sends offers and handles the reports of devices."""

    def __init__(self, storage: Storage, clock: Clock, update_policy: UpdatePolicy, *, may_fetch: bool) -> None:
        self._storage, self._clock, self._may_fetch = storage, clock, may_fetch
        self._update_policy = update_policy
        self.records = Repository(storage, "campaign", Campaign, refs=_campaign_refs)
        self.executions = Repository(
            storage,
            "execution",
            Execution,
            refs=_execution_refs,
            counted=lambda execution: (_space(execution.campaign), execution.state.value),
        )
        self._listeners: list[Callable[[str], None]] = []
        self._withdrawn: list[Callable[[str, str], None]] = []
        #: How often a device left: data of devices read before that is read again.
        self._departures = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def handlers(self) -> Mapping[MessageType, Handler]:
        """The handlers for devices' reports about updates."""
        return {messages.FIRMWARE_STATUS: lambda request, body: self.status(request.subject, body)}

    @property
    def waiting(self) -> Mapping[MessageType, Waiting]:
        """What is pending for a device."""
        return {messages.FIRMWARE: Waiting(read=self._firmware, count=self._count, unfinished=self._unfinished)}

    async def _firmware(self, device: str, _after: int) -> Mapping[str, object] | None:
        """The offer for a device, or the withdrawal of one that it has seen (wire.md §10)."""
        return await self.offer(device) or await self._withdrawal(device)

    async def _withdrawal(self, device: str) -> Mapping[str, object] | None:
        """The newest withdrawn offer, until the device reports anything about it."""
        since = self._clock.now_ms() - WITHDRAWN_MS
        found = [past for past in await self.executions.find(ref=("withdrawn", device)) if past.changed >= since]
        if not found:
            return None
        return {"offer": None, "cancel": max(found, key=lambda past: (past.changed, past.id)).id}

    async def _count(self, device: str) -> int:
        open_or_not = await self.open_execution(device) or await self._withdrawal(device)
        return 0 if open_or_not is None else 1

    async def _unfinished(self, device: str) -> Sequence[Downlink]:
        body = await self._firmware(device, 0)
        return [] if body is None else [Downlink(type=messages.FIRMWARE, subject=device, body=body)]

    def on_offer(self, callback: Callable[[str], None]) -> None:
        """Calls ``callback(device)`` whenever the device has a new offer."""
        self._listeners.append(callback)

    def on_withdrawn(self, callback: Callable[[str, str], None]) -> None:
        """Calls ``callback(device, execution)`` whenever an offer is withdrawn."""
        self._withdrawn.append(callback)

    async def add_artifact(self, content: bytes | AsyncIterator[bytes], *, sha256: str | None = None) -> ArtifactInfo:
        """Stores an artifact's bytes, addressed by their SHA-256."""

        async def once(data: bytes) -> AsyncIterator[bytes]:
            yield data

        stream = once(content) if isinstance(content, bytes) else content
        return await self._storage.put_artifact(stream, sha256=sha256, limit_bytes=ARTIFACT_BYTES)

    async def create(
        self,
        campaign: str,
        release: str,
        devices: Sequence[str],
        url: str,
        *,
        sha256: str | None = None,
        size: int | None = None,
        manifest: Mapping[str, object] | None = None,
        allow_downgrade: bool = False,
        actor: str = "system",
        reason: str = "",
    ) -> Campaign:
        """Makes a campaign. With a digest it runs at once; without, the URL is first fetched once, hashed and pinned.

        Until it is pinned it stays in ``draft`` with code ``artifact_unpinned``, without an error. A manifest names
        digest and size, and is checked for every device before anything is sent.

        Raises:
            Conflict: ``already_exists``.
            Refused: an invalid name, digest, size or device id; no devices; no URL for an image that is not stored;
                ``url_forbidden``; and as :meth:`UpdatePolicy.authorize`.
            NotFound: a device is not registered.
            Conflict: ``illegal_transition``, a device is retired.
        """
        check_label(campaign, "campaign")
        check_version(release)
        if url:
            check_url(url)
        targets = tuple(dict.fromkeys(check_device_id(device) for device in devices))
        if not targets:
            raise Refused("A campaign needs at least one device", remedy="Name the devices to update")
        departures = self._departures
        known = [
            target
            for at in range(0, len(targets), _TOGETHER)
            for target in await asyncio.gather(*(self._target(device) for device in targets[at : at + _TOGETHER]))
        ]
        if sha256 is not None and (len(sha256) != 64 or set(sha256) - set("0123456789abcdef")):
            raise Refused("A SHA-256 is 64 lower-case hex digits", remedy="Use the output of sha256sum")
        if size is not None and size < 0:
            raise Refused("A size in bytes must not be negative")
        judged = self._update_policy.authorize(
            manifest, release=release, sha256=sha256, size=size, targets=known, allow_downgrade=allow_downgrade
        )
        if judged is not None:
            sha256, size = judged[0].sha256, judged[0].size
        if sha256 is not None and (size is None or not url):
            stored_image = await self._storage.artifact(sha256)
            size = stored_image.size_bytes if stored_image and size is None else size
            if stored_image is None and not url:
                raise Refused(f"The image {sha256} is not stored", remedy="Upload it, or give its URL", sha256=sha256)
        if sha256 is None and not url:
            raise Refused("A campaign needs a URL, a digest or a manifest")
        pinned = sha256 is not None and size is not None
        now = self._clock.now_ms()
        record = Campaign(
            id=campaign,
            release=release,
            url=url,
            targets=targets[:SHOWN_TARGETS],
            total=len(targets),
            state=CampaignState.RUNNING if pinned else CampaignState.DRAFT,
            sha256=sha256,
            size=size,
            manifest=manifest,
            manifest_sha256=None if judged is None else judged[0].digest,
            seq=None if judged is None else judged[0].seq,
            trust=None if judged is None else judged[1],
            allow_downgrade=allow_downgrade,
            code=None if pinned else "artifact_unpinned",
            created=now,
        )
        event = Event(
            type=f"campaign.{record.state}",
            subject=campaign,
            time=now,
            actor=actor,
            reason=reason,
            data={
                "release": release,
                "targets": len(targets),
                "manifest_sha256": record.manifest_sha256,
                "trust": record.trust,
                "allow_downgrade": allow_downgrade,
            },
        )
        try:
            stored = await self.records.create(record, [event], self._waiting(campaign, targets, now))
        except Conflict as error:
            raise Conflict(
                f"Campaign {campaign!r} exists already", remedy="Choose another name", campaign=campaign
            ) from error
        await self._end_departed(targets, departures)
        if pinned:
            self._tell(targets)
        elif self._may_fetch:
            task = asyncio.create_task(self._pin(stored), name=f"pin {campaign}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return stored

    async def _target(self, device: str) -> Target:
        """A device, with its model and firmware where known; raises NotFound, or Conflict for a retired one."""
        record = await self._storage.get("device", device)
        if record is None:
            raise NotFound(f"Device {device!r} does not exist", remedy="Register it first", device=device)
        if record.body["lifecycle"] == Lifecycle.RETIRED:
            raise Conflict(f"Device {device!r} is retired", code="illegal_transition", device=device)
        twin = await self._storage.get("twin", device)
        reported = twin.body.get("reported") if twin is not None else None
        document = reported.get("document") if isinstance(reported, Mapping) else None
        firmware = document.get("firmware") if isinstance(document, Mapping) else None
        target = Target.of(device, record.body.get("model"), firmware)
        if target.highest_seq is None:
            # It does not report it; the last version that it reported as installed counts.
            done = [past.campaign for past in await self.of_device(device) if past.state is ExecutionState.SUCCEEDED]
            known = [past.seq for past in [await self.records.get(name) for name in done] if past is not None]
            target = evolve(target, highest_seq=max((seq for seq in known if seq is not None), default=None))
        return target

    async def _takes_part(self, device: str) -> bool:
        record = await self._storage.get("device", device)
        return record is not None and record.body["lifecycle"] != Lifecycle.RETIRED

    async def _end_departed(self, devices: Iterable[str], departures: int) -> None:
        """Ends the new executions of devices that left while they were made; ``departures`` was counted before."""
        if departures != self._departures:
            for device in devices:
                if not await self._takes_part(device):
                    await self.leave(device, DEVICE_RETIRED)

    def _waiting(self, campaign: str, devices: Iterable[str], now: int) -> Commit:
        return self.executions.making(
            Execution(id=f"{campaign}:{device}", campaign=campaign, device=device, changed=now) for device in devices
        )

    def _tell(self, devices: Iterable[str]) -> None:
        for device in devices:
            for callback in self._listeners:
                callback(device)

    async def _pin(self, campaign: Campaign) -> None:
        try:
            info = await self._storage.put_artifact(
                _in_thread(campaign.url), sha256=campaign.sha256, limit_bytes=ARTIFACT_BYTES
            )
            await self.start(
                campaign.id, sha256=info.sha256, size=info.size_bytes, reason="artifact fetched and pinned"
            )
        except FleetError as error:
            reason = str(error)
            await self.records.change(
                campaign.id,
                lambda old: (evolve(old, reason=reason), []) if old.state is CampaignState.DRAFT else None,
            )

    async def start(
        self, campaign: str, *, sha256: str, size: int, actor: str = "system", reason: str = ""
    ) -> Campaign:
        """Pins a draft's artifact and runs the campaign; one that is no longer a draft stays as it is."""
        now = self._clock.now_ms()
        departures = self._departures
        waiting: Sequence[str] = ()

        async def load() -> Campaign:
            nonlocal waiting
            found = await self.get(campaign)
            # Drafts of releases before 0.2 do not have executions yet; nor do those whose devices were all erased
            # since.
            made = found.state is not CampaignState.DRAFT or await self.counts(campaign)
            waiting = () if made else [device for device in found.targets if await self._takes_part(device)]
            return found

        def step(old: Campaign) -> tuple[Campaign, list[Event]] | None:
            if old.state is not CampaignState.DRAFT:
                return None
            new = evolve(old, state=CampaignState.RUNNING, sha256=sha256, size=size, code=None, reason=None)
            return new, [Event(type="campaign.running", subject=campaign, time=now, actor=actor, reason=reason)]

        started = await self.records.compare_and_set(
            load, step, lambda _old, _new: self._waiting(campaign, waiting, now)
        )
        if started.state is not CampaignState.RUNNING:
            return started
        await self._end_departed(waiting, departures)
        async for execution in self.executions.iterate(ref=("campaign", campaign)):
            self._tell([execution.device])
        await self._finish(campaign)
        return await self.get(campaign)

    async def get(self, campaign: str) -> Campaign:
        """The campaign; raises NotFound."""
        return await self.records.need(campaign)

    async def counts(self, campaign: str) -> Mapping[str, int]:
        """The number of a campaign's devices in each state, without those that were erased since."""
        return await self._storage.counters(_space(campaign))

    async def devices(self, campaign: Campaign) -> AsyncIterator[str]:
        """The devices of a campaign; of a very large one, without those that were erased since."""
        if len(campaign.targets) == campaign.total:
            for device in campaign.targets:
                yield device
            return
        async for execution in self.executions.iterate(ref=("campaign", campaign.id)):
            yield execution.device

    async def execution(self, campaign: str, device: str) -> Execution | None:
        """One device's state in a campaign, or None."""
        return await self.executions.get(f"{campaign}:{device}")

    async def of_device(self, device: str) -> Sequence[Execution]:
        """The state of every campaign on one device."""
        return await self.executions.find(ref=("device", device))

    async def abort(self, campaign: str, *, actor: str = "system", reason: str = "") -> Campaign:
        """Cancels the executions that have not started; devices that have started continue and are still tracked.

        From the first commit on nothing more is offered. If it is interrupted, the rest resumes at the next opening.
        """
        now = self._clock.now_ms()
        event = Event(type="campaign.aborted", subject=campaign, time=now, actor=actor, reason=reason)

        def step(old: Campaign) -> tuple[Campaign, list[Event]] | None:
            if old.state not in (CampaignState.DRAFT, CampaignState.RUNNING, CampaignState.PAUSED):
                return None
            return evolve(old, state=CampaignState.ABORTED, finished_at=now, aborting=True), [event]

        return await self._cancel_rest(await self.records.change(campaign, step))

    async def _cancel_rest(self, campaign: Campaign) -> Campaign:
        """Ends the executions of an aborted campaign that have not started; repeats nothing where they have ended."""
        if not campaign.aborting:
            return campaign
        after: str | None = None
        while True:
            page = await self.executions.page(ref=("campaign", campaign.id), after=after, limit=_TOGETHER)
            await asyncio.gather(
                *(self._end(execution, ExecutionState.CANCELLED, "aborted", begun=False) for execution in page.items)
            )
            after = page.after
            if after is None:
                break
        return await self.records.change(
            campaign.id, lambda old: (evolve(old, aborting=False), []) if old.aborting else None
        )

    async def _end(
        self, execution: Execution, state: ExecutionState, code: str, *, begun: bool, actor: str = "system"
    ) -> None:
        """Ends an execution by the server's decision; ``begun`` includes one that a device has started."""
        now = self._clock.now_ms()
        seen = ExecutionState.WAITING

        def ends(old: Execution) -> bool:
            until = PROGRESS_ORDER[ExecutionState.SUCCEEDED] if begun else PROGRESS_ORDER[ExecutionState.ACCEPTED]
            return PROGRESS_ORDER[old.state] < until

        def step(old: Execution) -> tuple[Execution, list[Event]] | None:
            nonlocal seen
            seen = old.state
            if not ends(old):
                return None
            data = {"campaign": old.campaign, "device": old.device, "code": code}
            event = Event(type=f"execution.{state}", subject=old.id, time=now, actor=actor, data=data)
            return evolve(old, state=state, code=code, changed=now, withdrawn=seen is not ExecutionState.WAITING), [
                event
            ]

        if not ends(execution):
            return
        await self.executions.change(execution.id, step)
        if seen is not ExecutionState.WAITING and seen not in EXECUTION_ENDS:
            for callback in self._withdrawn:
                callback(execution.device, execution.id)

    async def leave(self, device: str, code: str, *, actor: str = "system") -> None:
        """Removes a device from all campaigns: its open executions are cancelled, and campaigns continue without it.

        May be repeated.
        """
        self._departures += 1
        for execution in await self.executions.find(ref=("open", device)):
            await self._end(execution, ExecutionState.CANCELLED, code, begun=True, actor=actor)
            await self._finish(execution.campaign)

    async def load(self) -> None:
        """Completes campaigns that a crash interrupted between an execution's end and the campaign's."""
        async for campaign in self.records.iterate(ref=_UNSETTLED):
            await self._cancel_rest(campaign)
            await self._finish(campaign.id)

    async def open_execution(self, device: str) -> tuple[Campaign, Execution] | None:
        """The device's current execution: that of the oldest campaign, by creation and name."""
        found: list[tuple[Campaign, Execution]] = []
        for execution in await self.executions.find(ref=("open", device)):
            campaign = await self.records.get(execution.campaign)
            if campaign is not None and campaign.sha256 is not None and (_begun(execution) or _offers(campaign)):
                found.append((campaign, execution))
        return min(found, key=lambda pair: (pair[0].created, pair[0].id), default=None)

    async def offer(self, device: str) -> dict[str, object] | None:
        """The wire's offer for the device (wire.md §10), or None, also for a device that has left.

        Sending it makes a waiting execution ``offered``.
        """
        while True:
            pair = await self.open_execution(device)
            if pair is None:
                return None
            campaign, execution = pair
            try:
                target = await self._target(device)
            except (NotFound, Conflict):
                return None  # the device has left: its retirement ends its open executions
            begun = _begun(execution)
            code = None if begun else self._update_policy.refusal(campaign, target)
            if code is None:
                break
            if code == "trust_expired":
                return None
            await self._end(execution, ExecutionState.REJECTED, code, begun=False)
            await self._finish(campaign.id)
        # A device may finish a started update, so its assignment is not renewed meanwhile.
        if execution.state is ExecutionState.WAITING or not (
            begun or self._update_policy.is_valid(campaign, execution)
        ):
            now = self._clock.now_ms()

            def step(old: Execution) -> tuple[Execution, list[Event]] | None:
                new = old if self._update_policy.is_valid(campaign, old) else self._update_policy.renewed(old)
                if old.state is ExecutionState.WAITING:
                    new = evolve(new, state=ExecutionState.OFFERED, changed=now)
                return None if new is old or old.state in EXECUTION_ENDS else (new, [])

            try:
                execution = await self.executions.change(execution.id, step)
            except NotFound:
                return None  # erased meanwhile
            if execution.state in EXECUTION_ENDS:
                return await self.offer(device)  # aborted meanwhile; another campaign may have an offer
        known = await self._storage.artifact(cast("str", campaign.sha256)) is not None
        offer: dict[str, object] = {
            "execution": execution.id,
            "campaign": campaign.id,
            "attempt": execution.attempt,
            "version": campaign.release,
            "component": campaign.component,
            "size": campaign.size,
            "sha256": campaign.sha256,
            "install": "now",
        }
        if campaign.url:
            offer["url"] = campaign.url
        if known:
            offer["path"] = f"/device/v1/artifacts/{campaign.sha256}"
        if campaign.manifest is not None:
            offer |= self._update_policy.offer_members(campaign, execution, target)
        return {"offer": offer}

    async def status(self, device: str, body: messages.FirmwareStatus) -> Outcome:
        """Handles a device's report about its execution; states may be skipped, never go back (wire.md §10)."""
        state = ExecutionState(body.state)
        now = self._clock.now_ms()
        until = int(body.until) if state is ExecutionState.DEFERRED and body.until is not None else None
        try:
            check_ahead(until, "until", now)
        except Refused as error:
            return rejection(error)
        if state is ExecutionState.DEFERRED and until is None:
            return Rejected(code="schema_invalid", reason="deferred requires until, a time", pointer="/until")
        progress, bytes_so_far, version = body.progress, body.bytes, body.version
        code, reason = body.code, body.reason
        execution = await self.executions.get(body.execution)
        if execution is None or execution.device != device:
            return Rejected(code="execution_unknown", reason="This device has no such execution")
        campaign = await self.get(execution.campaign)
        if state is ExecutionState.SUCCEEDED and version != campaign.release:
            return Rejected(code="version_mismatch", reason=f"The offer is {campaign.release}", pointer="/version")
        refusal: list[Rejected] = []

        def step(old: Execution) -> tuple[Execution, list[Event]] | None:
            refusal.clear()
            if old.withdrawn:
                # The device knows: the withdrawal is not sent again.
                if state is not old.state:
                    refusal.append(_not_to(old, state))
                return evolve(old, withdrawn=False), []
            if old.state is state and (old.state in EXECUTION_ENDS or state is not ExecutionState.DOWNLOADING):
                return None
            if old.state in EXECUTION_ENDS or PROGRESS_ORDER[state] < PROGRESS_ORDER[old.state]:
                refusal.append(_not_to(old, state))
                return None
            new = evolve(
                old,
                state=state,
                progress=progress,
                bytes=old.bytes if bytes_so_far is None else bytes_so_far,
                code=code,
                reason=reason,
                until=until,
                reported_version=old.reported_version if version is None else version,
                changed=now,
            )
            data = {"campaign": old.campaign, "device": device}
            return new, [Event(type=f"execution.{state}", subject=old.id, time=now, actor=device, data=data)]

        changed = await self.executions.change(execution.id, step)
        if refusal:
            return refusal[0]
        if changed.state in EXECUTION_ENDS:
            await self._finish(campaign.id)
            for callback in self._listeners:
                callback(device)
        return Accepted()

    async def _finish(self, campaign: str) -> None:
        """Ends a running campaign once no device is in progress. Only a device that succeeded counts as updated."""
        counts = await self.counts(campaign)
        if any(state not in EXECUTION_ENDS for state in map(ExecutionState, counts)):
            return
        updated = counts.get(ExecutionState.SUCCEEDED, 0)
        state = CampaignState.SUCCEEDED if updated else CampaignState.FAILED
        now = self._clock.now_ms()

        def step(old: Campaign) -> tuple[Campaign, list[Event]] | None:
            if old.state is not CampaignState.RUNNING:
                return None
            erased = old.total - sum(counts.values())
            others = {**{name: count for name, count in counts.items() if name != "succeeded"}, "erased": erased}
            rest = ", ".join(f"{count} {name}" for name, count in others.items() if count)
            reason = f"{updated} of {old.total} devices updated" + (f": {rest}" if rest else "")
            event = Event(type=f"campaign.{state}", subject=campaign, time=now, reason=reason)
            return evolve(old, state=state, reason=reason, finished_at=now), [event]

        await self.records.change(campaign, step)

    async def close(self) -> None:
        """Ends fetches in progress; their campaigns stay in draft."""
        await end_tasks(*self._tasks)


def _not_to(execution: Execution, state: ExecutionState) -> Rejected:
    return Rejected(code="illegal_transition", reason=f"The execution is {execution.state} and cannot go to {state}")


def _begun(execution: Execution) -> bool:
    return PROGRESS_ORDER[execution.state] >= PROGRESS_ORDER[ExecutionState.ACCEPTED]


def _offers(campaign: Campaign) -> bool:
    return campaign.state is CampaignState.RUNNING


async def _in_thread(url: str) -> AsyncIterator[bytes]:
    """Runs the blocking fetch in a daemon thread, at most two pieces ahead; an abandoned one ends at its next piece."""
    pieces: queue.Queue[bytes | BaseException | None] = queue.Queue(maxsize=2)
    stop = threading.Event()

    def put(piece: bytes | BaseException | None) -> None:
        while not stop.is_set():
            try:
                pieces.put(piece, timeout=0.5)
            except queue.Full:
                continue
            return

    def run() -> None:
        try:
            for piece in fetch(url, ARTIFACT_BYTES):
                put(piece)
                if stop.is_set():
                    return
            put(None)
        except BaseException as error:  # noqa: BLE001 - it is raised again where it can be awaited
            put(error)

    threads.stop_at_exit(stop.set)
    threads.start(threading.Thread(target=run, name=f"fetch {url[:40]}", daemon=True), threads.PLUGIN_EXIT_S)
    try:
        while True:
            piece = await asyncio.to_thread(_get, pieces, stop)
            if piece is None:
                return
            if isinstance(piece, BaseException):
                raise piece
            yield piece
    finally:
        stop.set()


def _get(pieces: "queue.Queue[bytes | BaseException | None]", stop: threading.Event) -> bytes | BaseException | None:
    while not stop.is_set():
        try:
            return pieces.get(timeout=0.5)
        except queue.Empty:
            continue
    return None
