"""Firmware campaigns: one release for many devices, offered to all at once, each device followed to its end."""

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import cast

from attrs import evolve

from fleetcore import threads
from fleetcore.errors import Conflict, FleetError, NotFound, Refused
from fleetcore.fleet.assigning import Assigning, Target
from fleetcore.fleet.fetch import check_url, fetch
from fleetcore.fleet.repository import Pairs, Repository
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.storage import ArtifactInfo, Storage
from fleetcore.model.firmware import (
    EXECUTION_ENDS,
    PROGRESS_ORDER,
    Campaign,
    CampaignState,
    Execution,
    ExecutionState,
)
from fleetcore.model.message import Accepted, Outcome, Rejected
from fleetcore.model.names import check_device_id, check_label
from fleetcore.model.store import Commit, Event, Put
from fleetcore.wire import uplink_body

#: The largest artifact that is fetched or taken in.
ARTIFACT_BYTES = 1 << 30
#: Of a version that a device reports.
_VERSION_CHARACTERS = 128
_REPORTABLE = frozenset(PROGRESS_ORDER) - {
    ExecutionState.WAITING,
    ExecutionState.OFFERED,
    ExecutionState.UNKNOWN,
    ExecutionState.TIMED_OUT,
    ExecutionState.SKIPPED,
}
_BAD_ENDS = EXECUTION_ENDS - {ExecutionState.SUCCEEDED, ExecutionState.CANCELLED, ExecutionState.SKIPPED}


def _execution_refs(execution: Execution) -> Pairs:
    refs = [("campaign", execution.campaign), ("device", execution.device)]
    return refs if execution.state in EXECUTION_ENDS else [*refs, ("open", execution.device)]


class Campaigns:
    """Makes campaigns, hands out offers and takes in what devices say about them."""

    def __init__(self, storage: Storage, clock: Clock, assigning: Assigning, *, may_fetch: bool) -> None:
        self._storage, self._clock, self._may_fetch = storage, clock, may_fetch
        self._assigning = assigning
        self._campaigns = Repository(storage, "campaign", Campaign)
        self._executions = Repository(storage, "execution", Execution, refs=_execution_refs)
        self._listeners: list[Callable[[str], None]] = []
        self._withdrawn: list[Callable[[str, str], None]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def on_offer(self, callback: Callable[[str], None]) -> None:
        """``callback(device)`` whenever the device has a new offer."""
        self._listeners.append(callback)

    def on_withdrawn(self, callback: Callable[[str, str], None]) -> None:
        """``callback(device, execution)`` whenever an offer is taken back."""
        self._withdrawn.append(callback)

    async def add_artifact(self, content: bytes | AsyncIterator[bytes], *, sha256: str | None = None) -> ArtifactInfo:
        """Takes an artifact's bytes in, addressed by their SHA-256."""

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
        """Makes a campaign. With a digest it runs at once; without, the URL is fetched once, hashed and pinned first.

        Until it is pinned it stays in ``draft`` with code ``artifact_unpinned``; nothing is raised for that. A manifest
        names digest and size, and is judged for every device before anything is sent.

        Raises:
            Conflict: ``already_exists``.
            Refused: a name, digest, size or device id that is none; no devices; no URL for an image that is not here;
                ``url_forbidden``; what :meth:`Assigning.judge` refuses.
            NotFound: a device is not registered.
        """
        check_label(campaign, "campaign")
        check_label(release, "version")
        if url:
            check_url(url)
        targets = tuple(dict.fromkeys(check_device_id(device) for device in devices))
        if not targets:
            raise Refused("A campaign needs at least one device", remedy="Name the devices to update")
        known = [await self._target(device, judged=manifest is not None) for device in targets]
        if sha256 is not None and (len(sha256) != 64 or set(sha256) - set("0123456789abcdef")):
            raise Refused("A SHA-256 is 64 lower-case hex digits", remedy="Take the output of sha256sum")
        if size is not None and size < 0:
            raise Refused("A size in bytes is not negative")
        judged = self._assigning.judge(
            manifest, release=release, sha256=sha256, size=size, targets=known, allow_downgrade=allow_downgrade
        )
        if judged is not None:
            sha256, size = judged[0].sha256, judged[0].size
        if sha256 is not None and (size is None or not url):
            stored_image = await self._storage.artifact(sha256)
            size = stored_image.size_bytes if stored_image and size is None else size
            if stored_image is None and not url:
                raise Refused(f"The image {sha256} is not here", remedy="Upload it, or give its URL", sha256=sha256)
        if sha256 is None and not url:
            raise Refused("A campaign needs a URL, a digest or a manifest")
        pinned = sha256 is not None and size is not None
        now = self._clock.now_ms()
        record = Campaign(
            id=campaign,
            release=release,
            url=url,
            targets=targets,
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
            stored = await self._campaigns.create(record, [event], self._waiting(record, now) if pinned else ())
        except Conflict as error:
            raise Conflict(
                f"Campaign {campaign!r} exists already", remedy="Choose another name", campaign=campaign
            ) from error
        if pinned:
            self._offer_all(stored)
        elif self._may_fetch:
            task = asyncio.create_task(self._pin(stored), name=f"pin {campaign}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return stored

    async def _target(self, device: str, *, judged: bool) -> Target:
        """A device, with what is known of its model and firmware where that is judged; raises NotFound."""
        record = await self._storage.get("device", device)
        if record is None:
            raise NotFound(f"There is no device {device!r}", remedy="Register it first", device=device)
        if not judged:
            return Target(device=device)
        twin = await self._storage.get("twin", device)
        reported = twin.body.get("reported") if twin is not None else None
        document = reported.get("document") if isinstance(reported, Mapping) else None
        firmware = document.get("firmware") if isinstance(document, Mapping) else None
        target = Target.of(device, record.body.get("model"), firmware)
        if target.highest_seq is None:
            # It does not say; what it reported to have installed counts.
            done = [one.campaign for one in await self.of_device(device) if one.state is ExecutionState.SUCCEEDED]
            known = [one.seq for one in [await self._campaigns.get(name) for name in done] if one is not None]
            target = evolve(target, highest_seq=max((seq for seq in known if seq is not None), default=None))
        return target

    def _waiting(self, campaign: Campaign, now: int) -> tuple[Put, ...]:
        return tuple(
            self._executions.put(
                Execution(id=f"{campaign.id}:{device}", campaign=campaign.id, device=device, changed=now), expect=0
            )
            for device in campaign.targets
        )

    def _offer_all(self, campaign: Campaign) -> None:
        for device in campaign.targets:
            for callback in self._listeners:
                callback(device)

    async def _pin(self, campaign: Campaign) -> None:
        try:
            info = await self._storage.put_artifact(
                _in_thread(campaign.url), sha256=campaign.sha256, limit_bytes=ARTIFACT_BYTES
            )
        except FleetError as error:
            reason = str(error)
            await self._campaigns.change(campaign.id, lambda old: (evolve(old, reason=reason), []))
            return
        await self.start(campaign.id, sha256=info.sha256, size=info.size_bytes, reason="artifact fetched and pinned")

    async def start(
        self, campaign: str, *, sha256: str, size: int, actor: str = "system", reason: str = ""
    ) -> Campaign:
        """Pins a draft's artifact and runs it; a running campaign stays as it is."""
        now = self._clock.now_ms()
        old = await self.get(campaign)
        if old.state is not CampaignState.DRAFT:
            return old
        new = evolve(old, state=CampaignState.RUNNING, sha256=sha256, size=size, code=None, reason=None)
        event = Event(type="campaign.running", subject=campaign, time=now, actor=actor, reason=reason)
        await self._storage.commit(
            Commit(puts=(self._campaigns.put(new, expect=old.version), *self._waiting(new, now)), events=(event,))
        )
        self._offer_all(new)
        return await self.get(campaign)

    async def get(self, campaign: str) -> Campaign:
        """The campaign; raises NotFound."""
        return await self._campaigns.need(campaign)

    async def list(self) -> list[Campaign]:
        """All campaigns by name."""
        return await self._campaigns.find()

    async def executions(self, campaign: str) -> Sequence[Execution]:
        """Each device's state, by device."""
        return sorted(await self._executions.find(ref=("campaign", campaign)), key=lambda one: one.device)

    async def of_device(self, device: str) -> Sequence[Execution]:
        """Every campaign's state on one device."""
        return await self._executions.find(ref=("device", device))

    async def abort(self, campaign: str, *, actor: str = "system", reason: str = "") -> Campaign:
        """Cancels what has not begun; devices that are under way go on and are still followed."""
        now = self._clock.now_ms()
        begun = PROGRESS_ORDER[ExecutionState.ACCEPTED]
        for execution in await self.executions(campaign):
            if PROGRESS_ORDER[execution.state] < begun:
                await self._executions.change(
                    execution.id,
                    lambda old: (
                        (evolve(old, state=ExecutionState.CANCELLED, changed=now, code="aborted"), [])
                        if PROGRESS_ORDER[old.state] < begun
                        else None
                    ),
                )
                for callback in self._withdrawn:
                    callback(execution.device, execution.id)
        event = Event(type="campaign.aborted", subject=campaign, time=now, actor=actor, reason=reason)

        def step(old: Campaign) -> tuple[Campaign, list[Event]] | None:
            if old.state not in (CampaignState.DRAFT, CampaignState.RUNNING, CampaignState.PAUSED):
                return None
            return evolve(old, state=CampaignState.ABORTED, finished_at=now), [event]

        return await self._campaigns.change(campaign, step)

    async def open_execution(self, device: str) -> tuple[Campaign, Execution] | None:
        """What the device is offered or working on: the oldest campaign's, by creation and name."""
        found: list[tuple[Campaign, Execution]] = []
        for execution in await self._executions.find(ref=("open", device)):
            campaign = await self._campaigns.get(execution.campaign)
            if campaign is not None and campaign.sha256 is not None:
                found.append((campaign, execution))
        return min(found, key=lambda pair: (pair[0].created, pair[0].id), default=None)

    async def offer(self, device: str) -> dict[str, object] | None:
        """The wire's offer for the device (WIRE.md §7), or None; being shown makes a waiting execution ``offered``."""
        while True:
            pair = await self.open_execution(device)
            if pair is None:
                return None
            campaign, execution = pair
            target = await self._target(device, judged=campaign.manifest is not None)
            begun = PROGRESS_ORDER[execution.state] >= PROGRESS_ORDER[ExecutionState.ACCEPTED]
            code = None if begun else self._assigning.refusal(campaign, target)
            if code is None:
                break
            if code == "trust_expired":
                return None
            await self._refuse(execution, code)
        # What a device has begun it may end, so an assignment is not renewed under its hands.
        if execution.state is ExecutionState.WAITING or not (begun or self._assigning.holds(campaign, execution)):
            now = self._clock.now_ms()

            def step(old: Execution) -> tuple[Execution, list[Event]] | None:
                new = old if self._assigning.holds(campaign, old) else self._assigning.renewed(old)
                if old.state is ExecutionState.WAITING:
                    new = evolve(new, state=ExecutionState.OFFERED, changed=now)
                return None if new is old or old.state in EXECUTION_ENDS else (new, [])

            execution = await self._executions.change(execution.id, step)
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
            offer |= self._assigning.members(campaign, execution, target)
        return {"offer": offer}

    async def _refuse(self, execution: Execution, code: str) -> None:
        """Ends an execution whose firmware may not be handed out any more."""
        now = self._clock.now_ms()

        def step(old: Execution) -> tuple[Execution, list[Event]] | None:
            if PROGRESS_ORDER[old.state] >= PROGRESS_ORDER[ExecutionState.ACCEPTED]:
                return None
            event = Event(type="execution.rejected", subject=old.id, time=now, data={"campaign": old.campaign})
            return evolve(old, state=ExecutionState.REJECTED, code=code, changed=now), [event]

        await self._executions.change(execution.id, step)
        await self._finish(execution.campaign)

    async def status(self, device: str, body: object) -> Outcome:
        """A device's word on its execution; states may be skipped, never go back (WIRE.md §7)."""
        if not isinstance(body, Mapping):
            return Rejected(code="schema_invalid", reason="A firmware status is a JSON object")
        name = body.get("execution")
        try:
            state = ExecutionState(cast("str", body.get("state")))
        except ValueError:
            state = ExecutionState.WAITING
        if state not in _REPORTABLE:
            return Rejected(code="schema_invalid", reason="state is no state that a device reports", pointer="/state")
        now = self._clock.now_ms()
        try:
            until = uplink_body.time_ahead(body, "until", now) if state is ExecutionState.DEFERRED else None
            progress = uplink_body.number(body, "progress", 100, "percent")
            bytes_so_far = uplink_body.integer(body, "bytes", "bytes")
            version = uplink_body.text(body, "version", _VERSION_CHARACTERS)
            code, reason = uplink_body.cut_text(body, "code"), uplink_body.cut_text(body, "reason")
        except Refused as error:
            return uplink_body.rejected(error)
        if state is ExecutionState.DEFERRED and until is None:
            return Rejected(code="schema_invalid", reason="deferred needs until, a time", pointer="/until")
        execution = await self._executions.get(name) if isinstance(name, str) else None
        if execution is None or execution.device != device:
            return Rejected(code="execution_unknown", reason="This device has no such execution")
        campaign = await self.get(execution.campaign)
        if state is ExecutionState.SUCCEEDED and version != campaign.release:
            return Rejected(code="version_mismatch", reason=f"The offer is {campaign.release}", pointer="/version")
        refusal: list[Rejected] = []

        def step(old: Execution) -> tuple[Execution, list[Event]] | None:
            refusal.clear()
            if old.state is state and (old.state in EXECUTION_ENDS or state is not ExecutionState.DOWNLOADING):
                return None
            if old.state in EXECUTION_ENDS or PROGRESS_ORDER[state] < PROGRESS_ORDER[old.state]:
                refusal.append(
                    Rejected(code="illegal_transition", reason=f"The execution is {old.state} and cannot go to {state}")
                )
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
            event = Event(
                type=f"execution.{state}", subject=old.id, time=now, actor=device, data={"campaign": old.campaign}
            )
            return new, [event]

        changed = await self._executions.change(execution.id, step)
        if refusal:
            return refusal[0]
        if changed.state in EXECUTION_ENDS:
            await self._finish(campaign.id)
            for callback in self._listeners:
                callback(device)
        return Accepted()

    async def _finish(self, campaign: str) -> None:
        executions = await self.executions(campaign)
        if any(one.state not in EXECUTION_ENDS for one in executions):
            return
        bad = sum(one.state in _BAD_ENDS for one in executions)
        state = CampaignState.FAILED if bad == len(executions) else CampaignState.SUCCEEDED
        now = self._clock.now_ms()
        reason = f"{len(executions) - bad} of {len(executions)} devices updated"

        def step(old: Campaign) -> tuple[Campaign, list[Event]] | None:
            if old.state is not CampaignState.RUNNING:
                return None
            event = Event(type=f"campaign.{state}", subject=campaign, time=now, reason=reason)
            return evolve(old, state=state, reason=reason, finished_at=now), [event]

        await self._campaigns.change(campaign, step)

    async def close(self) -> None:
        """Ends fetches under way; their campaigns stay in draft."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _in_thread(url: str) -> AsyncIterator[bytes]:
    """Runs the blocking fetch in a daemon thread, two pieces ahead at most; an abandoned one ends at its next piece."""
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
