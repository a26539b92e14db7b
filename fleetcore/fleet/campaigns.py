"""Firmware campaigns: one release for many devices, in waves, each device tracked to its end.

:mod:`fleetcore.rollout.campaigns` decides what a campaign does next; here its decisions are stored and done.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence

from attrs import evolve
from msgspec.structs import replace

from fleetcore.errors import Conflict, FleetError, NotAuthorised, Refused
from fleetcore.fleet.builds import Builds, model_names
from fleetcore.fleet.eligibility import check_eligibility
from fleetcore.fleet.fetch import check_url, fetch_in_thread
from fleetcore.fleet.health_gates import HealthGates
from fleetcore.fleet.releases import Releases
from fleetcore.fleet.search import Search
from fleetcore.fleet.targets import Selected, Targets
from fleetcore.fleet.update_policy import Target, UpdatePolicy
from fleetcore.fleet.updates import ABORTED, DEVICE_RETIRED, TOGETHER, UNSETTLED, Updates, is_begun, may_be_offered
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.storage import Storage
from fleetcore.interfaces.waits import end_tasks
from fleetcore.model.edge import is_function
from fleetcore.model.firmware import (
    EXECUTION_FAILURES,
    PROGRESS_ORDER,
    SHOWN_TARGETS,
    Campaign,
    CampaignState,
    Execution,
    ExecutionState,
    FirmwareImage,
)
from fleetcore.model.names import check_device_id, check_label, check_version
from fleetcore.model.rollout import AT_ONCE, OnFailure, Rollout
from fleetcore.model.store import ArtifactInfo, Commit, Event
from fleetcore.query.fitting import parse_new
from fleetcore.rollout.campaigns import (
    EXECUTED,
    Begin,
    CampaignEffect,
    Counts,
    Expire,
    Finish,
    Place,
    Reason,
    Stop,
    decide,
    finished_as,
    first_state,
    has_places,
)
from fleetcore.rollout.gate import begun_anew
from fleetcore.rollout.report import Report, Reporter
from fleetcore.rollout.steps import at_step, installed_by, members_of
from fleetcore.rollout.turns import turn_digits
from fleetcore.rollout.waves import wave_sizes
from fleetcore.wire.manifest import peek_manifest

#: The largest artifact that is fetched or accepted.
ARTIFACT_BYTES = 1 << 30
#: The state of a campaign that stops by itself.
_STOPPED = {
    OnFailure.PAUSE: CampaignState.PAUSED,
    OnFailure.ABORT: CampaignState.ABORTED,
    OnFailure.ROLL_BACK: CampaignState.ROLLED_BACK,
}
#: States in which a device has the new version, or may have it.
_MAY_RUN_IT = frozenset(
    {
        ExecutionState.INSTALLING,
        ExecutionState.REBOOTING,
        ExecutionState.UNKNOWN,
        ExecutionState.SUCCEEDED,
        ExecutionState.TIMED_OUT,
    }
)
#: States of campaigns that have not begun, and of all that have not ended.
NOT_BEGUN = (CampaignState.DRAFT, CampaignState.AWAITING_APPROVAL, CampaignState.SCHEDULED)
UNFINISHED = (*NOT_BEGUN, CampaignState.RUNNING, CampaignState.PAUSED)
#: A campaign gives so many places before it looks at its devices again.
_PLACES = 10_000


class Campaigns:
    """Makes campaigns and drives them.

    Attributes:
        records, executions: the stored campaigns, and their executions.
    """

    def __init__(
        self, storage: Storage, clock: Clock, update_policy: UpdatePolicy, updates: Updates, gates: HealthGates,
        search: Search, releases: Releases, *, may_fetch: bool, approve_above: int | None = None,
    ) -> None:  # fmt: skip
        self._approve_above = approve_above
        self._storage, self._clock, self._may_fetch = storage, clock, may_fetch
        self._update_policy, self._updates, self._gates = update_policy, updates, gates
        self._releases, self._builds = releases, Builds(storage, clock)
        self._targets = Targets(search, updates, clock)
        self.records, self.executions = updates.campaigns, updates.records
        self._tasks: set[asyncio.Task[None]] = set()
        #: Campaigns that are driven now → whether something has changed since.
        self._driven: dict[str, bool] = {}
        updates.on_moved(self.drive)

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
        devices: Sequence[str] = (),
        url: str = "",
        *,
        where: str = "",
        continuous: bool = False,
        sha256: str | None = None,
        size: int | None = None,
        manifest: Mapping[str, object] | None = None,
        allow_downgrade: bool = False,
        rollout: Rollout = AT_ONCE,
        rollback: FirmwareImage | None = None,
        hold: bool = False,
        starts_at: int | None = None,
        approval: bool = False,
        config: Mapping[str, object] | None = None,
        actor: str = "system",
        reason: str = "",
    ) -> Campaign:
        """Makes a campaign. With a digest it runs at once; without, the URL is first fetched once, hashed and pinned.

        Its devices are named, or selected by a query. Those of a query are not checked here but at the offer; with
        ``continuous`` later ones join as long as the campaign runs, and those that wait leave with the query.

        It begins at ``starts_at`` (ms since the epoch); with ``approval``, or for more devices than the configuration
        says, once another person approves it. With ``hold`` it is then paused, with code ``held``, until it is resumed.
        Until it is pinned it stays in ``draft``, with code ``artifact_unpinned`` and without an error. A manifest names
        digest and size, and is checked for every device before anything is sent.

        A function goes to gateways, with ``config`` as its configuration. Its rollback needs no version: by default it
        brings back what each gateway had before, which is checked too.

        Raises:
            Conflict: ``already_exists``; ``version_rebuilt``, another image has that version.
            Refused: an invalid name, digest, size, wave or device id; no devices; no URL for an image that is not
                stored; ``url_forbidden``; and as :meth:`UpdatePolicy.authorize`.
            NotFound: a device is not registered.
            Conflict: ``illegal_transition``, a device is retired.
        """
        check_label(campaign, "campaign")
        check_version(release)
        if url:
            check_url(url)
        selected = await self._selected(devices, where, continuous=continuous)
        targets = tuple(selected.devices)
        departures = self._updates.departures
        known = () if where else await self._known(targets)
        before, reached = await self._before(manifest, known, allow_downgrade=allow_downgrade)
        image = await self._image(
            FirmwareImage(release=release, url=url, sha256=sha256, size=size, manifest=manifest),
            reached, allow_downgrade=allow_downgrade,
        )  # fmt: skip
        if rollback is not None:
            rollback = await self._way_back(rollback, image)
        elif OnFailure.ROLL_BACK in rollout.actions and not is_function(image.component):
            raise Refused(
                "A campaign that is to roll back by itself needs a version to roll back to",
                remedy="Give the release that its devices are to get back",
            )
        if config is not None and not is_function(image.component):
            raise Refused("Only a function has a configuration", pointer="/config")
        await self._updates.check_functions(targets if known else (), (*before, image), rollback)
        wave_sizes(rollout.waves, max(1, len(targets)))
        check_eligibility(rollout.eligibility)
        now = self._clock.now_ms()
        record = Campaign(
            id=campaign,
            targets=targets[:SHOWN_TARGETS],
            total=len(targets),
            where=where,
            continuous=continuous,
            adding=bool(where),
            turn_digits=turn_digits(len(targets)),
            held=hold,
            starts_at=starts_at,
            approval=approval or self._is_large(len(targets), continuous=continuous),
            by=actor,
            config=config,
            allow_downgrade=allow_downgrade,
            rollout=rollout,
            rollback=rollback,
            before=before,
            created=now,
            **members_of(image),
        )
        state, code = first_state(record, now)
        record = replace(record, state=state, code=code)
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
        made = Commit() if where else self._updates.making(record, targets, now)
        for used in (image, rollback):
            if used is not None and used.sha256 is not None:
                models = model_names(selected.models if where else (target.model for target in known))
                names = models if used.manifest is None else {peek_manifest(used.manifest).name}
                made += await self._builds.making(names, used.release, used.sha256, made)
        try:
            stored = await self.records.create(record, [event], made)
        except Conflict as error:
            raise Conflict(
                f"Campaign {campaign!r} exists already", remedy="Choose another name", campaign=campaign
            ) from error
        stored = await self._cancel_rest(await self._targets.complete(stored, targets))
        await self._end_departed(targets, departures)
        if stored.state is CampaignState.DRAFT and self._may_fetch:
            self._spawn(self._pin(stored), f"pin {campaign}")
        return await self._begun(stored)

    def _is_large(self, count: int, *, continuous: bool) -> bool:
        """Whether the configuration asks for an approval; any number of devices may join a continuous campaign."""
        return self._approve_above is not None and (continuous or count > self._approve_above)

    async def _begun(self, campaign: Campaign) -> Campaign:
        """A campaign that made no offers yet may have begun: its devices get their offers or places."""
        self._updates.begin(campaign.id)
        if campaign.state is not CampaignState.RUNNING:
            return campaign
        if not has_places(campaign.rollout):
            async for page in self._updates.pages(campaign):
                self._updates.tell(each.device for each in page)
        await self.drive(campaign.id)
        return await self.get(campaign.id)

    async def clone(
        self, campaign: Campaign, id: str, *, failed: bool = False, hold: bool = False, actor: str = "system",
        reason: str = "",
    ) -> Campaign:  # fmt: skip
        """Makes a campaign as another one, for its devices or, with ``failed``, those that it has not updated.

        Raises:
            Conflict: ``artifact_unpinned``, it is a draft; and as :meth:`create`.
            Refused: no device is left; and as :meth:`create`.
        """
        if campaign.sha256 is None:
            raise Conflict(
                f"The image of {campaign.id!r} is not pinned yet", code="artifact_unpinned", campaign=campaign.id
            )
        by_query = bool(campaign.where) and not failed
        devices = [] if by_query else [
            each.device
            async for each in self.executions.iterate(ref=("campaign", campaign.id))
            if not (failed and each.state in (ExecutionState.SUCCEEDED, ExecutionState.SKIPPED))
            and await self._updates.takes_part(each.device)
        ]  # fmt: skip
        return await self.create(
            id, campaign.release, devices, campaign.url, where=campaign.where if by_query else "",
            continuous=campaign.continuous and by_query, sha256=campaign.sha256, size=campaign.size,
            manifest=campaign.manifest, allow_downgrade=campaign.allow_downgrade, rollout=campaign.rollout,
            rollback=campaign.rollback, hold=hold, approval=campaign.approval, config=campaign.config, actor=actor,
            reason=reason,
        )  # fmt: skip

    async def _selected(self, devices: Sequence[str], where: str, *, continuous: bool) -> Selected:
        """The devices of a new campaign."""
        if bool(devices) is bool(where):
            raise Refused("A campaign needs devices or a query", remedy="Name the devices to update, or give a query")
        if continuous and not where:
            raise Refused("A continuous campaign needs a query", pointer="/continuous")
        if not where:
            return Selected(tuple(dict.fromkeys(check_device_id(device) for device in devices)))
        parse_new(where)
        selected = await self._targets.select(where)
        if not selected.devices and not continuous:
            raise Refused(f"{where!r} selects no device", remedy="Try the query: fleetcore device list --where")
        return selected

    async def _known(self, devices: Sequence[str]) -> Sequence[Target]:
        """Named devices, with model and firmware."""
        return [
            target
            for at in range(0, len(devices), TOGETHER)
            for target in await asyncio.gather(
                *(self._updates.target(device) for device in devices[at : at + TOGETHER])
            )
        ]

    async def _before(
        self, manifest: object, devices: Sequence[Target], *, allow_downgrade: bool
    ) -> tuple[tuple[FirmwareImage, ...], Sequence[Target]]:
        """What devices need before a manifest's image; and named devices as they are once they have it.

        Raises:
            Refused: ``requires_unmet``; ``manifest_expired`` of one of them; and as :meth:`_image`.
        """
        if manifest is None:
            return (), devices
        images = []
        for release in await self._releases.before(peek_manifest(manifest)):
            lacking = [each for each in devices if each.needs(release.image)]
            images.append(await self._image(release.image, lacking, allow_downgrade=allow_downgrade))
            devices = [each.having(images[-1]) for each in devices]
        return tuple(images), devices

    async def _image(self, image: FirmwareImage, targets: Sequence[Target], *, allow_downgrade: bool) -> FirmwareImage:
        """An image with the digest and size of its manifest, or of the stored artifact.

        Raises:
            Refused: as :meth:`create`.
        """
        sha256, size = image.sha256, image.size
        if sha256 is not None and (len(sha256) != 64 or set(sha256) - set("0123456789abcdef")):
            raise Refused("A SHA-256 is 64 lower-case hex digits", remedy="Use the output of sha256sum")
        if size is not None and size < 0:
            raise Refused("A size in bytes must not be negative")
        judged = self._update_policy.authorize(
            image.manifest, release=image.release, sha256=sha256, size=size, targets=targets,
            allow_downgrade=allow_downgrade,
        )  # fmt: skip
        if judged is not None:
            sha256, size = judged[0].sha256, judged[0].size
        if sha256 is not None and (size is None or not image.url):
            stored_image = await self._storage.artifact(sha256)
            size = stored_image.size_bytes if stored_image and size is None else size
            if stored_image is None and not image.url:
                raise Refused(f"The image {sha256} is not stored", remedy="Upload it, or give its URL", sha256=sha256)
        if sha256 is None and not image.url:
            raise Refused("A campaign needs a URL, a digest or a manifest")
        return evolve(
            image, sha256=sha256, size=size,
            component=image.component if judged is None else judged[0].component,
            manifest_sha256=None if judged is None else judged[0].digest,
            seq=None if judged is None else judged[0].seq,
            trust=None if judged is None else judged[1],
        )  # fmt: skip

    async def _way_back(self, rollback: FirmwareImage, image: FirmwareImage) -> FirmwareImage:
        """The image of a rollback, checked: it has to be stored or pinned now, and devices have to accept it."""
        check_version(rollback.release)
        found = await self._image(rollback, (), allow_downgrade=True)
        if found.component != image.component:
            raise Refused(
                f"The campaign is for the component {image.component!r}, and {found.release} for {found.component!r}",
                code="rollback_refused", remedy="Roll back to a release of the same component",
            )  # fmt: skip
        if found.sha256 is None or found.size is None:
            raise Refused("What a rollback installs has to be known before", remedy="Give its digest and size")
        if is_function(image.component) and image.manifest is not None and found.manifest is not None:
            least = peek_manifest(image.manifest).min_seq
            if (found.seq or 0) < least:
                raise Refused(
                    f"{image.release} lets no gateway go below seq {least}, and {found.release} has {found.seq}",
                    code="rollback_refused", remedy="Sign the old module again under a higher seq",
                )  # fmt: skip
        elif image.seq is not None and (found.seq or 0) < image.seq:
            raise Refused(
                f"Devices with seq {image.seq} accept no lower one, and {found.release} has {found.seq or 'none'}",
                code="rollback_refused", remedy="Sign the old image again under a higher seq",
            )  # fmt: skip
        return found

    def _spawn(self, work: Coroutine[object, object, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tell_waiting(self, campaign: Campaign) -> None:
        """Tells the devices of a resumed campaign that got no offer while it was paused."""
        async for execution in self.executions.iterate(ref=("campaign", campaign.id)):
            if not is_begun(execution) and may_be_offered(campaign, execution):
                self._updates.tell([execution.device])

    def _tell_all(self, rollout: Rollout, devices: Iterable[str]) -> None:
        """Tells devices of their offers, where they need no place first."""
        if not has_places(rollout):
            self._updates.tell(devices)

    async def _end_departed(self, devices: Iterable[str], departures: int) -> None:
        """Ends the new executions of devices that left while they were made; ``departures`` was counted before."""
        if departures != self._updates.departures:
            for device in devices:
                if not await self._updates.takes_part(device):
                    await self._updates.leave(device, DEVICE_RETIRED)

    async def _pin(self, campaign: Campaign) -> None:
        try:
            info = await self._storage.put_artifact(
                fetch_in_thread(campaign.url, ARTIFACT_BYTES), sha256=campaign.sha256, limit_bytes=ARTIFACT_BYTES
            )
            await self.start(
                campaign.id, sha256=info.sha256, size=info.size_bytes, reason="artifact fetched and pinned"
            )
        except FleetError as error:
            reason = str(error)
            await self.records.change(
                campaign.id,
                lambda old: (replace(old, reason=reason), []) if old.state is CampaignState.DRAFT else None,
            )

    async def start(
        self, campaign: str, *, sha256: str, size: int, actor: str = "system", reason: str = ""
    ) -> Campaign:
        """Pins a draft's artifact and runs the campaign; one that is no longer a draft stays as it is.

        Raises:
            Conflict: ``version_rebuilt``, another image has that version.
        """
        now = self._clock.now_ms()
        departures = self._updates.departures
        waiting: Sequence[str] = ()
        built = Commit()
        begins = False

        async def load() -> Campaign:
            nonlocal waiting, built
            found = await self.get(campaign)
            # Drafts of releases before 0.2 do not have executions yet; nor do those whose devices were all erased
            # since.
            made = found.state is not CampaignState.DRAFT or (await self.counts(campaign)).total
            if found.state is CampaignState.DRAFT:
                names = await self._builds.of_devices(found.targets)
                built = await self._builds.making(names, found.release, sha256)
            waiting = () if made else [device for device in found.targets if await self._updates.takes_part(device)]
            return found

        def step(old: Campaign) -> tuple[Campaign, list[Event]] | None:
            if old.state is not CampaignState.DRAFT:
                return None
            nonlocal begins
            begins = True
            return self._next(replace(old, sha256=sha256, size=size, reason=None), now, actor, reason)

        started = await self.records.compare_and_set(
            load, step, lambda _old, new: built + self._updates.making(new, waiting, now)
        )
        await self._end_departed(waiting, departures)
        return await self._begun(started) if begins else started

    async def approve(self, campaign: str, *, actor: str = "system", reason: str = "") -> Campaign:
        """Approves a campaign that waits for it: it begins, or is scheduled. Again, nothing changes.

        Raises:
            Conflict: ``illegal_transition``, it does not wait for approval.
            NotAuthorised: ``second_person_required``, the same person made it.
        """
        now = self._clock.now_ms()
        begins = False

        def step(old: Campaign) -> tuple[Campaign, list[Event]] | None:
            nonlocal begins
            begins = False
            if old.approved_by is not None:
                return None
            if old.state is not CampaignState.AWAITING_APPROVAL:
                raise Conflict(
                    f"The campaign {campaign!r} is {old.state} and waits for no approval", code="illegal_transition",
                    campaign=campaign,
                )  # fmt: skip
            if _person(actor) == _person(old.by):
                raise NotAuthorised(
                    f"{_person(actor)} made the campaign {campaign!r}", code="second_person_required",
                    remedy="Another person has to approve it", campaign=campaign,
                )  # fmt: skip
            begins = True
            # Its time does not pass while it waits for the approval.
            approved = replace(old, approved_by=actor, starts_at=max(old.starts_at or 0, now))
            return self._next(approved, now, actor, reason)

        approved = await self.records.change(campaign, step)
        return await self._begun(approved) if begins else approved

    async def _start_scheduled(self, campaign: Campaign) -> None:
        now = self._clock.now_ms()
        begins = False

        def step(old: Campaign) -> tuple[Campaign, list[Event]] | None:
            nonlocal begins
            begins = False
            if old.state is not CampaignState.SCHEDULED or first_state(old, now)[0] is CampaignState.SCHEDULED:
                return None
            begins = True
            return self._next(old, now, "system", "its time has come")

        started = await self.records.change(campaign.id, step)
        if begins:
            await self._begun(started)

    def _next(self, campaign: Campaign, now: int, actor: str, reason: str) -> tuple[Campaign, list[Event]]:
        """The campaign in the state that follows, and the event of it."""
        state, code = first_state(campaign, now)
        event = Event(type=f"campaign.{state}", subject=campaign.id, time=now, actor=actor, reason=reason)
        return replace(campaign, state=state, code=code), [event]

    async def get(self, campaign: str) -> Campaign:
        """The campaign; raises NotFound."""
        return await self.records.need(campaign)

    async def counts(self, campaign: str) -> Counts:
        """The devices of a campaign in each state and wave, without those that were erased since."""
        return await self._updates.counts(campaign)

    async def report(self, campaign: Campaign) -> Report:
        """What became of a campaign's devices, by one pass over its executions."""
        reporter = Reporter()
        async for page in self._updates.pages(campaign):
            failed = [each.device for each in page if each.state in EXECUTION_FAILURES]
            records = await self._storage.get_many("device", failed) if failed else {}
            for each in page:
                record = records.get(each.device)
                model = None if record is None else record.body.get("model")
                reporter.add(each, model if isinstance(model, str) else "")
        return reporter.report(self._clock.now_ms())

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

    async def pause(self, campaign: str, *, actor: str = "system", reason: str = "") -> Campaign:
        """Makes no new offers until the campaign is resumed; devices that have begun go on.

        Raises:
            Conflict: ``illegal_transition``, it does not run.
        """
        return await self._become(campaign, CampaignState.PAUSED, (CampaignState.RUNNING,), actor, reason)

    async def resume(self, campaign: str, *, actor: str = "system", reason: str = "") -> Campaign:
        """Goes on with a paused campaign: its present failures are accepted, and limits count the later ones.

        Raises:
            Conflict: ``illegal_transition``, it is not paused.
        """
        counts = await self.counts(campaign)

        def accepted(old: Campaign) -> Campaign:
            return replace(
                old, state=CampaignState.RUNNING, code=None, reason=None, accepted_wave=old.wave,
                accepted={state.value: count for state, count in counts.states.items() if state in EXECUTED},
                gate_score=begun_anew(old.gate_score) if old.code == Reason.HEALTH_GATE else old.gate_score,
            )  # fmt: skip

        resumed = await self._become(campaign, CampaignState.RUNNING, (CampaignState.PAUSED,), actor, reason, accepted)
        self._spawn(self._tell_waiting(resumed), f"tell {campaign}")
        await self.drive(campaign)
        return await self.get(campaign)

    async def _become(
        self, campaign: str, state: CampaignState, before: Sequence[CampaignState], actor: str, reason: str,
        change: Callable[[Campaign], Campaign] | None = None,
    ) -> Campaign:  # fmt: skip
        now = self._clock.now_ms()

        def step(old: Campaign) -> tuple[Campaign, list[Event]] | None:
            if old.state is state:
                return None
            if old.state not in before:
                raise Conflict(
                    f"The campaign {campaign!r} is {old.state}, not {before[0]}", code="illegal_transition",
                    campaign=campaign,
                )  # fmt: skip
            event = Event(type=f"campaign.{state}", subject=campaign, time=now, actor=actor, reason=reason)
            return (replace(old, state=state) if change is None else change(old)), [event]

        return await self.records.change(campaign, step)

    async def abort(self, campaign: str, *, force: bool = False, actor: str = "system", reason: str = "") -> Campaign:
        """Cancels the executions that have not started; with ``force`` also those under way, whose devices are told.

        From the first commit on nothing more is offered. If it is interrupted, the rest resumes at the next opening.
        """
        now = self._clock.now_ms()
        event = Event(type="campaign.aborted", subject=campaign, time=now, actor=actor, reason=reason)

        def step(old: Campaign) -> tuple[Campaign, list[Event]] | None:
            if old.state in UNFINISHED:
                aborted = replace(old, state=CampaignState.ABORTED, finished_at=now, aborting=True, forced=force)
                return aborted, [event]
            if old.state is CampaignState.ABORTED and force and not old.forced:
                return replace(old, aborting=True, forced=True), [event]
            return None

        return await self._cancel_rest(await self.records.change(campaign, step))

    async def roll_back(self, campaign: str, *, actor: str = "system", reason: str = "") -> Campaign:
        """Brings the devices back to the version before, with a campaign of its own: ``NAME-rollback``.

        Devices that have not begun to install are cancelled. All that have, or may have, the new version get an offer.
        If it is interrupted, the rest resumes at the next opening.

        Raises:
            Conflict: ``illegal_transition``, nothing is known to go back to, or it is a draft.
        """
        now = self._clock.now_ms()

        def step(old: Campaign) -> tuple[Campaign, list[Event]] | None:
            if old.state is CampaignState.ROLLED_BACK:
                return None
            if (old.rollback is None and not is_function(old.component)) or old.state in NOT_BEGUN:
                raise Conflict(
                    f"The campaign {campaign!r} has no version to roll back to", code="illegal_transition",
                    remedy="Start a campaign that installs the version before", campaign=campaign,
                )  # fmt: skip
            new = replace(old, state=CampaignState.ROLLED_BACK, finished_at=now, aborting=True)
            event = Event(type="campaign.rolled_back", subject=campaign, time=now, actor=actor, reason=reason)
            return new, [event]

        return await self._cancel_rest(await self.records.change(campaign, step))

    async def _bring_back(self, campaign: Campaign) -> None:
        """Makes the campaign of a rollback, unless it was made before a crash.

        Without a version to go back to, gateways get back the entries that they had.
        """
        if campaign.rollback is None:
            async for page in self._updates.pages(campaign):
                for execution in page:
                    if _may_run_it(campaign, execution):
                        await self._updates.take_back(campaign, execution)
            return
        devices = [
            execution.device
            async for execution in self.executions.iterate(ref=("campaign", campaign.id))
            if _may_run_it(campaign, execution) and await self._updates.takes_part(execution.device)
        ]
        if not devices:
            return
        name, now = f"{campaign.id}-rollback", self._clock.now_ms()
        record = Campaign(
            id=name, targets=tuple(devices[:SHOWN_TARGETS]), total=len(devices), state=CampaignState.RUNNING,
            allow_downgrade=True, rolls_back=campaign.id, created=now, turn_digits=turn_digits(len(devices)),
            rollout=Rollout(priority=campaign.rollout.priority + 1, retries=campaign.rollout.retries),
            **members_of(campaign.rollback),
        )  # fmt: skip
        data = {"release": record.release, "targets": len(devices)}
        reason = f"{campaign.id} is rolled back"
        event = Event(type="campaign.running", subject=name, time=now, reason=reason, data=data)
        departures = self._updates.departures
        try:
            await self.records.create(record, [event], self._updates.making(record, devices, now))
        except Conflict:
            return
        await self._end_departed(devices, departures)
        self._tell_all(record.rollout, devices)

    async def _cancel_rest(self, campaign: Campaign) -> Campaign:
        """Ends the executions of a stopped campaign; repeats nothing where they have ended."""
        if not campaign.aborting:
            return campaign
        self._forget(campaign.id)
        await self._end_each(campaign, lambda each: _is_cancelled(campaign, each), ExecutionState.CANCELLED, ABORTED)
        if campaign.state is CampaignState.ROLLED_BACK:
            await self._bring_back(campaign)
        return await self.records.change(
            campaign.id, lambda old: (replace(old, aborting=False), []) if old.aborting else None
        )

    async def load(self) -> None:
        """Completes what a crash interrupted between an execution's end and the campaign's."""
        async for unsettled in self.records.iterate(ref=UNSETTLED):
            campaign = await self._targets.complete(unsettled)
            await self._cancel_rest(campaign)
            await self.drive(campaign.id)

    async def tick(self) -> None:
        """Does what is due, and drives the running campaigns."""
        await self._updates.tick()
        await self._gates.tick()
        async for campaign in self.records.iterate(ref=("state", CampaignState.SCHEDULED)):
            await self._start_scheduled(campaign)
        async for campaign in self.records.iterate(ref=("state", CampaignState.RUNNING)):
            await self._targets.follow(campaign)
            await self.drive(campaign.id)
            await self._updates.remind(campaign)

    async def drive(self, campaign: str) -> None:
        """Does what a campaign's devices allow now: gives places, begins a wave, stops, or ends it.

        Callers during it make it look once more.
        """
        if campaign in self._driven:
            self._driven[campaign] = True
            return
        self._driven[campaign] = True
        try:
            while self._driven[campaign]:
                self._driven[campaign] = False
                if await self._drive(campaign):
                    self._driven[campaign] = True
        finally:
            del self._driven[campaign]

    async def _drive(self, campaign: str) -> bool:
        """One decision; whether there may be more to do."""
        found = await self.records.get(campaign)
        if found is None or found.state is not CampaignState.RUNNING:
            return False
        # In this order: a device that has just succeeded is observed already.
        counts, now = await self.counts(campaign), self._clock.now_ms()
        counts = evolve(counts, observing=await self._gates.observing(found))
        places = self._updates.places_left(found, counts)
        driven, effects = decide(found, counts, now, places)
        if driven is found and not effects:
            return False

        def step(old: Campaign) -> tuple[Campaign, list[Event]] | None:
            nonlocal effects
            new, effects = decide(old, counts, now, places)
            new, events = _stopped(new, effects, counts, now)
            return None if new is old else (new, events)

        driven = await self.records.change(campaign, step)
        again = False
        for effect in effects:
            match effect:
                case Place(count):
                    given = await self._updates.place(driven, min(count, _PLACES))
                    again = again or 0 < given < count
                case Begin():
                    again = True
                case Expire():
                    await self._end_each(
                        driven, lambda each: each.state is ExecutionState.WAITING, ExecutionState.TIMED_OUT, "too_late"
                    )
                case Stop(OnFailure.ABORT | OnFailure.ROLL_BACK):
                    await self._cancel_rest(driven)
                case _:
                    pass
        if driven.finished_at is not None:
            self._forget(campaign)
        return again

    def _forget(self, campaign: str) -> None:
        """A campaign has ended: what is in memory of it goes."""
        self._updates.forget(campaign)
        self._targets.forget(campaign)

    async def _end_each(
        self, campaign: Campaign, wanted: Callable[[Execution], bool], state: ExecutionState, code: str
    ) -> None:
        """Ends the executions of a campaign that are wanted, page by page."""
        async for page in self._updates.pages(campaign):
            ended = filter(wanted, page)
            await asyncio.gather(*(self._updates.end(campaign, each, state, code) for each in ended))

    async def close(self) -> None:
        """Ends fetches in progress, whose campaigns stay in draft, and other tasks."""
        await end_tasks(*self._tasks)


def _person(actor: str) -> str:
    """The name of an actor, without its front end: ``ana`` of ``library:ana``."""
    return actor.rpartition(":")[2]


def _may_run_it(campaign: Campaign, execution: Execution) -> bool:
    """Whether a device has the new version, or may have it: also from an attempt that another one was to follow.

    So does a device that got one of the versions on the way from the campaign.
    """
    cancelled = execution.state is ExecutionState.CANCELLED
    may = execution.state in _MAY_RUN_IT or (cancelled and execution.failed_as is ExecutionState.TIMED_OUT)
    if may and at_step(campaign, execution).component == campaign.component:
        return True
    return any(image.component == campaign.component for image in installed_by(campaign, execution))


def _is_cancelled(campaign: Campaign, execution: Execution) -> bool:
    """Whether a stopped campaign cancels an execution: not what is under way, unless it only holds the image.

    A rollback waits for devices that install.
    """
    if campaign.forced:
        return True
    if campaign.state is CampaignState.ROLLED_BACK:
        return PROGRESS_ORDER[execution.state] < PROGRESS_ORDER[ExecutionState.INSTALLING]
    return not is_begun(execution) or execution.held


def _stopped(
    campaign: Campaign, effects: Iterable[CampaignEffect], counts: Counts, now: int
) -> tuple[Campaign, list[Event]]:
    """The campaign after its decisions, and the events of them."""
    events: list[Event] = []
    for effect in effects:
        match effect:
            case Stop(action, code, reason):
                campaign = replace(campaign, state=_STOPPED[action], code=code, reason=reason)
                if action is not OnFailure.PAUSE:
                    campaign = replace(campaign, finished_at=now, aborting=True)
                events.append(_event(campaign, f"campaign.{campaign.state}", now, reason, {"code": code.value}))
            case Finish(reason):
                state = finished_as(counts)
                campaign = replace(campaign, state=state, reason=reason, finished_at=now)
                events.append(_event(campaign, f"campaign.{state}", now, reason, {}))
            case Begin(wave, devices):
                size = {} if devices is None else {"devices": devices}
                events.append(_event(campaign, "campaign.wave", now, "", {"wave": wave, **size}))
            case _:
                pass
    return campaign, events


def _event(campaign: Campaign, type: str, now: int, reason: str, data: Mapping[str, object]) -> Event:
    return Event(type=type, subject=campaign.id, time=now, reason=reason, data=dict(data))
