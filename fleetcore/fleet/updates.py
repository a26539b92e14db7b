"""Updates of devices: each device's part of a campaign, from its place in a wave over the offer to its end.

:mod:`fleetcore.rollout.executions` says how an execution moves; here its moves are stored, and their effects done. The
commits that change an execution count the devices in each state and wave, so no step of a campaign costs more with the
number of its devices.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import cast

from attrs import evolve
from msgspec import Struct
from msgspec.structs import replace

from fleetcore.errors import Conflict, NotFound, Refused
from fleetcore.fleet.deltas import offered_deltas
from fleetcore.fleet.desired_functions import OPEN as OPEN_OFFERS
from fleetcore.fleet.desired_functions import DesiredFunctions, image_promise
from fleetcore.fleet.eligibility import EligibilityJudge
from fleetcore.fleet.process_state.last_written import LastWritten
from fleetcore.fleet.repository import Pairs, Repository
from fleetcore.fleet.update_policy import Target, UpdatePolicy
from fleetcore.fleet.update_reports import UNKNOWN, event_of, latest_deferral, problem, refusal
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.storage import Storage
from fleetcore.model.device import Lifecycle
from fleetcore.model.edge import FAILED, Capacity, component_of, entries, function_of, is_function
from fleetcore.model.firmware import (
    EXECUTION_ENDS,
    MAIN,
    PROGRESS_ORDER,
    SHOWN_TARGETS,
    WITHDRAWN_MS,
    Campaign,
    CampaignState,
    Execution,
    ExecutionState,
    FirmwareImage,
)
from fleetcore.model.message import Accepted, Downlink, JointHandler, MessageType, Outcome, Rejected, Waiting
from fleetcore.model.parts import parts
from fleetcore.model.rollout import Retries
from fleetcore.model.store import Commit, Event, Record
from fleetcore.rollout.campaigns import Counts, counter_name, has_places
from fleetcore.rollout.eligibility import Judgement, paused
from fleetcore.rollout.executions import (
    HOLDS,
    UNDER_WAY,
    Consented,
    Due,
    Effect,
    Ended,
    ExecutionEvent,
    Observed,
    Offered,
    Placed,
    Reported,
    Step,
    step,
)
from fleetcore.rollout.gate import begins
from fleetcore.rollout.pacing import WINDOW_S, Pace
from fleetcore.rollout.steps import at_step, first_needed, image_at, installs, is_last, of_offer, offer_name
from fleetcore.rollout.turns import all_turns, digest_of, digits_of, turn
from fleetcore.wire import messages
from fleetcore.wire.times import format_time

#: The reason with which executions, commands and sessions of a retired device end.
DEVICE_RETIRED = "device_retired"
#: The code of executions that a stopped campaign has cancelled.
ABORTED = "aborted"
#: The code of executions of devices that ran the version already.
SAME_VERSION = "same_version"
#: The code of executions whose image was downloaded, and another campaign came first.
SUPERSEDED = "superseded"
#: The version of a function that has failed, in reasons.
_NOTHING = "nothing"
#: Devices without a site are at this one.
NO_SITE = "-"
#: How many executions are changed, or devices examined, concurrently.
TOGETHER = 200
#: So many executions that are due are changed before the other work of a tick.
_DUE = 2000
#: Executions that were changed last are in memory up to this; each takes about so much without its reason.
_REMEMBERED_BYTES, _EXECUTION_BYTES = 64 << 20, 1000
#: Places are given in commits of so many.
_PLACED_TOGETHER = 500


def counters_of(campaign: str) -> str:
    """The space of a campaign's counters."""
    return f"campaign/{campaign}"


def _campaign_refs(campaign: Campaign) -> Pairs:
    unsettled = campaign.state is CampaignState.RUNNING or campaign.aborting or campaign.adding
    return [("state", campaign.state), *([UNSETTLED] if unsettled else [])]


#: The index entry of campaigns that a restart has to examine.
UNSETTLED = ("unsettled", "yes")


def _execution_refs(execution: Execution) -> Pairs:
    refs = [("campaign", execution.campaign), ("device", execution.device)]
    if execution.state in EXECUTION_ENDS:
        if execution.withdrawn:
            refs.append(("withdrawn", execution.device))
        # A device may go back to the version before until it is updated again.
        return [*refs, ("succeeded", execution.device)] if execution.state is ExecutionState.SUCCEEDED else refs
    if execution.state is ExecutionState.WAITING and not execution.wave:
        refs.append(("turn", f"{execution.campaign}/{turn(execution)}"))
    if execution.state is ExecutionState.WAITING and execution.wave:
        refs.append(("placed", execution.campaign))
    if execution.site and execution.state in UNDER_WAY:
        refs.append(_at_site(execution.campaign, execution.site))
    return [*refs, ("open", execution.device)]


def _size(execution: Execution) -> int:
    return _EXECUTION_BYTES + len(execution.reason or "")


def _at_site(campaign: str, site: str) -> tuple[str, str]:
    """The index entry of a campaign's devices at a site that are updated now."""
    return "at_site", f"{len(campaign)}/{campaign}/{site}"  # both may have a slash


class Move(Struct, frozen=True, gc=False):
    """An event of an execution that was just read: who caused it, and an operator's reason."""

    campaign: Campaign
    execution: Execution
    event: ExecutionEvent
    actor: str = "system"
    reason: str = ""


class Updates:
    """Stores the moves of executions, makes offers and handles the reports of devices.

    Attributes:
        campaigns, records: the stored campaigns, and their executions.
    """

    def __init__(
        self, storage: Storage, clock: Clock, update_policy: UpdatePolicy, eligibility: EligibilityJudge,
        functions: DesiredFunctions,
    ) -> None:  # fmt: skip
        self._storage, self._clock, self._update_policy = storage, clock, update_policy
        self._eligibility, self._functions = eligibility, functions
        self.campaigns = Repository(storage, "campaign", Campaign, refs=_campaign_refs)
        self.records = Repository(
            storage,
            "execution",
            Execution,
            refs=_execution_refs,
            due=lambda execution: execution.due,
            counted=lambda execution: (counters_of(execution.campaign), counter_name(execution)),
            last_written=LastWritten(_size, _REMEMBERED_BYTES),
        )
        self._offer_listeners: list[Callable[[str], None]] = []
        self._withdrawal_listeners: list[Callable[[str, str], None]] = []
        self._moved: Callable[[str], Awaitable[None]] = _nothing
        self._observing: Callable[[Campaign, Execution], Commit] = lambda _campaign, _execution: Commit()
        #: How often a device left: data of devices read before that is read again.
        self.departures = 0
        self._paces: dict[str, Pace] = {}
        #: Campaign → the first turn that may have devices without a place.
        self._turns: dict[str, int] = {}
        #: Campaign → where :meth:`remind` goes on.
        self._reminded: dict[str, str | None] = {}
        #: Campaign → the devices that asked in vain since they were told, in that order.
        self._kept_back: dict[str, dict[str, None]] = {}
        #: Offers of campaigns that limit the devices of a site are made one after the other.
        self._at_sites = asyncio.Lock()
        #: Campaign → the places of the last minute.
        self._places: dict[str, Pace] = {}
        self._opened_s = clock.monotonic_s()

    @property
    def handlers(self) -> Mapping[MessageType, JointHandler]:
        """The handlers for devices' reports about updates."""
        return {
            messages.FIRMWARE_STATUS: lambda some: self.statuses([(request.subject, body) for request, body in some])
        }

    @property
    def waiting(self) -> Mapping[MessageType, Waiting]:
        """What is pending for a device."""
        return {messages.FIRMWARE: Waiting(read=self._firmware, count=self._count, unfinished=self._unfinished)}

    def on_offer(self, callback: Callable[[str], None]) -> None:
        """Calls ``callback(device)`` whenever the device may have a new offer."""
        self._offer_listeners.append(callback)

    def on_withdrawn(self, callback: Callable[[str, str], None]) -> None:
        """Calls ``callback(device, execution)`` whenever an offer is withdrawn."""
        self._withdrawal_listeners.append(callback)

    def on_moved(self, callback: Callable[[str], Awaitable[None]]) -> None:
        """Sets what is awaited, with the campaign, after an execution has ended or its return is overdue."""
        self._moved = callback

    def on_observed(self, making: Callable[[Campaign, Execution], Commit]) -> None:
        """Sets what is stored in the commit from which on a health gate observes a device."""
        self._observing = making

    async def counts(self, campaign: str) -> Counts:
        """The devices of a campaign in each state and wave, without those that were erased since."""
        return Counts.of(await self._storage.counters(counters_of(campaign)))

    async def of_device(self, device: str) -> Sequence[Execution]:
        """The state of every campaign on one device."""
        return await self.records.find(ref=("device", device))

    async def pages(self, campaign: Campaign) -> AsyncIterator[Sequence[Execution]]:
        """The executions of a campaign, as many together as are worked on concurrently."""
        ref = ("campaign", campaign.id)
        async for page in parts(
            lambda after: self.records.page(ref=ref, after=after, limit=TOGETHER), lambda page: page.after
        ):
            yield page.items

    def making(self, campaign: Campaign, devices: Iterable[str], now: int) -> Commit:
        """The part of a commit that adds devices to a campaign."""
        digits = digits_of(campaign)
        return self.records.making(
            Execution(
                id=f"{campaign.id}:{device}", campaign=campaign.id, device=device, changed=now, turn_digits=digits
            )
            for device in devices
        )

    async def add(self, campaign: Campaign, devices: Sequence[str], now: int) -> None:
        """Adds devices that a new campaign counts already."""
        await self._storage.commit(self.making(campaign, devices, now))

    async def join(self, campaign: Campaign, devices: Sequence[str], now: int) -> None:
        """Adds devices to a running campaign, which counts them from the same commit on; to any other none."""

        def counted(old: Campaign) -> tuple[Campaign, list[Event]] | None:
            if old.state is not CampaignState.RUNNING:
                return None
            shown = (*old.targets, *devices)[:SHOWN_TARGETS]
            return replace(old, total=old.total + len(devices), targets=shown), []

        await self.campaigns.compare_and_set(
            lambda: self.campaigns.need(campaign.id), counted,
            lambda _old, _new: self.making(campaign, devices, now), key=campaign.id,
        )  # fmt: skip

    def forget(self, campaign: str) -> None:
        """A campaign has ended: what is in memory of it goes."""
        for known in (self._paces, self._places, self._turns, self._reminded, self._kept_back):
            known.pop(campaign, None)

    def forget_turns(self, campaign: str) -> None:
        """Devices without a place may have come before the present turn."""
        self._turns.pop(campaign, None)

    async def target(self, device: str) -> Target:
        """A device, with its model and firmware where known; raises NotFound, or Conflict for a retired one."""
        record = await self._storage.get("device", device)
        if record is None:
            raise NotFound(f"Device {device!r} does not exist", remedy="Register it first", device=device)
        if record.body["lifecycle"] == Lifecycle.RETIRED:
            raise Conflict(f"Device {device!r} is retired", code="illegal_transition", device=device)
        return await self._target(record, await self._storage.get("twin", device))

    async def targets(self, devices: Iterable[str]) -> Mapping[str, Target]:
        """As :meth:`target`, of many at once; without devices that do not exist or are retired."""
        wanted = list(devices)
        records, twins = await asyncio.gather(
            self._storage.get_many("device", wanted), self._storage.get_many("twin", wanted)
        )
        there = [each for each in records.values() if each.body["lifecycle"] != Lifecycle.RETIRED]
        found = await asyncio.gather(*(self._target(each, twins.get(each.key)) for each in there))
        return {target.device: target for target in found}

    async def _target(self, record: Record, twin: Record | None) -> Target:
        reported, desired = ({}, {}) if twin is None else (_document(twin, "reported"), _document(twin, "desired"))
        # A function that the gateway is not to run is about to stop.
        running = {name: each for name, each in entries(reported).items() if name in entries(desired)}
        target = Target.of(record.key, record.body.get("model"), reported.get("firmware"), running)
        if target.runs(MAIN).highest_seq is None:
            # It does not report them; the versions that it reported as installed count.
            past = await self.of_device(record.key)
            done = [each.campaign for each in past if each.state is ExecutionState.SUCCEEDED]
            for campaign in [await self.campaigns.get(name) for name in done]:
                if campaign is not None and campaign.seq is not None:
                    target = target.had(campaign.component, campaign.seq)
        return target

    async def takes_part(self, device: str) -> bool:
        """Whether a device may be in campaigns: it exists and is not retired."""
        record = await self._storage.get("device", device)
        return record is not None and record.body["lifecycle"] != Lifecycle.RETIRED

    async def place(self, campaign: Campaign, count: int) -> int:
        """Gives devices a place in the campaign's wave, in the order of their turns; returns how many got one."""
        given = 0
        turns = all_turns(digits_of(campaign))
        at = self._turns.get(campaign.id, 0)
        while given < count and at < len(turns):
            found = await self.records.find(ref=("turn", f"{campaign.id}/{turns[at]}"))
            wanted = sorted(found, key=lambda each: digest_of(each.id))[: min(count - given, _PLACED_TOGETHER)]
            if len(wanted) == len(found):
                at += 1
            if not wanted:
                continue
            steps = await self.move_together([Move(campaign, old, Placed(campaign.wave)) for old in wanted])
            placed = sum(made is not None and bool(made.effects) for made in steps)
            given += placed
            if campaign.rollout.rate is not None:
                self._places_of(campaign).add(placed, self._clock.monotonic_s())
        # Devices before this one all have a place. One that loses its place goes to the last turn.
        self._turns[campaign.id] = min(at, len(turns) - 1)
        return given

    def places_left(self, campaign: Campaign, counts: Counts) -> int | None:
        """How many devices may get a place now: no more in a minute than may have an offer. None for any number.

        Devices that do not fetch their offers, since they are off or may not install, delay no others.
        """
        rate = campaign.rollout.rate
        if rate is None:
            return None
        succeeded = counts.states.get(ExecutionState.SUCCEEDED, 0)
        return self._places_of(campaign).left(rate, succeeded, self._clock.monotonic_s())

    def _places_of(self, campaign: Campaign) -> Pace:
        return self._places.setdefault(campaign.id, Pace(self._opened_s))

    def tell(self, devices: Iterable[str]) -> None:
        """Devices may have something to fetch."""
        for device in devices:
            for callback in self._offer_listeners:
                callback(device)

    def _stepped(self, campaign: Campaign, execution: Execution, event: ExecutionEvent, now: int) -> Step:
        rollout = campaign.rollout
        if campaign.finished_at is not None:
            rollout = evolve(rollout, retries=Retries())  # nothing is offered any more
        release, last = at_step(campaign, execution).release, is_last(campaign, execution)
        made = step(execution, event, now, release=release, rollout=rollout, last=last)
        if campaign.finished_at is not None and _waits_again(execution, made.execution):
            # A step is installed, and the campaign has ended meanwhile: the next one is not offered.
            ended = Ended(ExecutionState.CANCELLED, ABORTED)
            made = step(made.execution, ended, now, release=release, rollout=rollout)
        if is_function(at_step(campaign, execution).component) and Effect.WITHDRAW in made.effects:
            # Its entry goes out of the desired state, which tells the gateway.
            kept = replace(made.execution, withdrawn=False)
            made = replace(made, execution=kept, effects=tuple(set(made.effects) - {Effect.WITHDRAW}))
        if begins(campaign, execution, made.execution):
            return replace(made, execution=replace(made.execution, observed=now))
        return made

    async def move(
        self,
        campaign: Campaign,
        execution: Execution,
        event: ExecutionEvent,
        *,
        actor: str = "system",
        reason: str = "",
    ) -> Step:
        """Stores what an event makes of an execution, and does its effects; raises NotFound for one that was erased."""
        (made,) = await self.move_together([Move(campaign, execution, event, actor, reason)])
        if made is None:
            raise NotFound(f"Execution {execution.id!r} does not exist", execution=execution.id)
        return made

    async def move_together(self, moves: Sequence["Move"]) -> Sequence[Step | None]:
        """Stores what events make of executions in one commit, then does the effects; None for those erased meanwhile.

        An execution that has several moves is changed by one after the other, in a commit each.
        """
        made: list[Step | None] = [None] * len(moves)
        left = list(enumerate(moves))
        while left:
            now: dict[str, tuple[int, Move]] = {}
            later = []
            for place, move in left:
                if now.setdefault(move.execution.id, (place, move))[0] != place:
                    later.append((place, move))
            steps = await self._moved_together({key: move for key, (_, move) in now.items()})
            for key, (place, _) in now.items():
                made[place] = steps.get(key)
            left = later
        return made

    async def _moved_together(self, moves: Mapping[str, "Move"]) -> Mapping[str, Step]:
        """As :meth:`move_together`, by execution: one move each."""
        now = self._clock.now_ms()
        made: dict[str, tuple[Execution, Step]] = {}

        def once(old: Execution) -> tuple[Execution, list[Event]] | None:
            move = moves[old.id]
            new = self._stepped(move.campaign, old, move.event, now)
            made[old.id] = old, new
            if new.execution is old:
                return None
            return new.execution, _events(old, new.execution, move.actor, now, move.reason)

        def observing(old: Execution, new: Execution) -> Commit | None:
            return None if new.observed == old.observed else self._observing(moves[new.id].campaign, new)

        stored = await self.records.change_many([move.execution for move in moves.values()], once, observing)
        steps, moved, ended = dict[str, Step](), dict[str, None](), list[str]()
        for key, changed in stored.items():
            old, step = made[key]
            steps[key] = replace(step, execution=changed)
            for effect in step.effects:
                if effect is Effect.WITHDRAW:
                    for callback in self._withdrawal_listeners:
                        callback(changed.device, offer_name(changed))
                else:
                    self.tell([changed.device])
            if changed.state is not old.state:
                if changed.state in EXECUTION_ENDS:
                    ended.append(changed.device)
                if changed.state in EXECUTION_ENDS or changed.state is ExecutionState.UNKNOWN:
                    moved[changed.campaign] = None
        for key, changed in stored.items():
            old = made[key][0]
            if changed.state is not old.state or changed.step != old.step:
                await self._settle(moves[key].campaign, old.step, changed)
        for campaign in moved:
            await self._moved(campaign)
        for key, changed in stored.items():
            if _waits_again(made[key][0], changed):
                await self._end_if_stopped(changed)
        self.tell(ended)  # another campaign may have an offer for them
        return steps

    async def _end_if_stopped(self, execution: Execution) -> None:
        """Ends an execution that waits for another offer, where its campaign was stopped since it was read."""
        campaign = await self.campaigns.get(execution.campaign)
        if campaign is not None and campaign.finished_at is not None:
            await self.end(campaign, execution, ExecutionState.CANCELLED, ABORTED)

    async def _settle(self, campaign: Campaign, at: int, execution: Execution) -> None:
        """Lets the entry of a function that was offered at a step stay, or go, by what became of the execution."""
        image = image_at(campaign, at)
        if not is_function(image.component):
            return
        name = offer_name(replace(execution, step=at))
        if execution.step > at or execution.state is ExecutionState.SUCCEEDED:
            await self._functions.accept(execution.device, image.component, name)
        elif execution.state in EXECUTION_ENDS or execution.state is ExecutionState.WAITING:
            reason = f"the campaign {campaign.id}: {execution.failed_as or execution.state}"
            await self._functions.put_back(execution.device, image.component, name, reason)

    async def load(self) -> None:
        """Settles the functions that a crash left between an execution's change and its entry's."""
        for offer in await self._functions.records.find(ref=OPEN_OFFERS):
            name, at = of_offer(offer.execution)
            execution = await self.records.get(name)
            campaign = None if execution is None else await self.campaigns.get(execution.campaign)
            if execution is not None and campaign is not None:
                await self._settle(campaign, at, execution)

    async def take_back(self, campaign: Campaign, execution: Execution) -> None:
        """Brings back what a gateway had before a campaign's function, whatever became of it."""
        last = len(campaign.before)
        name = offer_name(replace(execution, step=last))
        reason = f"the campaign {campaign.id} is rolled back"
        await self._functions.put_back(execution.device, campaign.component, name, reason)

    async def check_functions(
        self, devices: Sequence[str], images: Sequence[FirmwareImage], rollback: FirmwareImage | None
    ) -> None:
        """Checks that gateways can take functions, beside what other campaigns are to offer them.

        Raises:
            Refused: as :meth:`DesiredFunctions.check`.
        """
        if not any(is_function(image.component) for image in images):
            return
        await self._functions.check(
            devices, images, rollback, {device: await self.coming_functions(device) for device in devices}
        )

    async def coming_functions(self, device: str) -> Mapping[str, Capacity]:
        """The functions that open campaigns are to offer a gateway, and what it would promise them."""
        coming: dict[str, Capacity] = {}
        for execution in await self.records.find(ref=("open", device)):
            campaign = await self.campaigns.get(execution.campaign)
            if campaign is None:
                continue
            for at in range(execution.step, len(campaign.before) + 1):
                image = image_at(campaign, at)
                if is_function(image.component):
                    coming[function_of(image.component)] = image_promise(installs(image))
        return coming

    async def end_functions(self, device: str, function: str, code: str, *, actor: str = "system") -> None:
        """Cancels the open executions that deploy a function to a gateway."""
        for execution in await self.records.find(ref=("open", device)):
            campaign = await self.campaigns.get(execution.campaign)
            if campaign is not None and campaign.component == component_of(function):
                await self.end(campaign, execution, ExecutionState.CANCELLED, code, actor=actor)

    async def end(
        self, campaign: Campaign, execution: Execution, state: ExecutionState, code: str, *, actor: str = "system",
        reason: str | None = None,
    ) -> None:  # fmt: skip
        """Ends an execution by the server's decision."""
        try:
            await self.move(campaign, execution, Ended(state, code, reason), actor=actor)
        except NotFound:
            return  # erased meanwhile

    async def leave(self, device: str, code: str, *, actor: str = "system") -> None:
        """Removes a device from all campaigns: its open executions are cancelled, and campaigns continue without it.

        May be repeated.
        """
        self.departures += 1
        for execution in await self.records.find(ref=("open", device)):
            campaign = await self.campaigns.get(execution.campaign)
            if campaign is not None:
                await self.end(campaign, execution, ExecutionState.CANCELLED, code, actor=actor)

    async def tick(self) -> None:
        """Does what is due: time-outs, the next attempts, the ends of soaking and of holds; the next ones next time."""
        now, done = self._clock.now_ms(), set[str]()
        while len(done) < _DUE and (found := [each for each in await self.records.due(now) if each.id not in done]):
            done.update(each.id for each in found)
            for at in range(0, len(found), TOGETHER):
                some = found[at : at + TOGETHER]
                campaigns = await self.campaigns.get_many({each.campaign for each in some})
                await self.move_together(
                    [Move(campaigns[each.campaign], each, Due()) for each in some if each.campaign in campaigns]
                )

    async def reported(self, device: str, patch: Mapping[str, object]) -> None:
        """A device reports state: where that has its version, updates of it may be concerned."""
        functions = await self._changed_functions(device, patch)
        running = Target.of(device, None, patch.get("firmware"), functions).running
        versions = {name: each.version for name, each in running.items() if each.version is not None}
        failed = [name for name, each in functions.items() if each.get("state") in FAILED]
        versions |= {component_of(name): _NOTHING for name in failed}
        if versions:
            await self._observe(device, versions)

    async def _changed_functions(self, device: str, patch: Mapping[str, object]) -> Mapping[str, Mapping[str, object]]:
        """The functions whose version or state a report may have changed, as they are reported now."""
        names = [name for name, each in entries(patch).items() if not each.keys().isdisjoint(("version", "state"))]
        twin = await self._storage.get("twin", device) if names else None
        now = {} if twin is None else entries(_document(twin, "reported"))
        return {name: now[name] for name in names if name in now}

    async def _observe(self, device: str, versions: Mapping[str, str]) -> None:
        """A device says which versions its components run: one may have come back, or have gone back.

        What that costs depends on the device's updates, not on the number of its components.
        """
        begun = [each for each in await self.records.find(ref=("open", device)) if is_begun(each)]
        done = await self.records.find(ref=("succeeded", device))
        campaigns = await self.campaigns.get_many({each.campaign for each in (*begun, *done)})
        for execution in begun:
            campaign = campaigns.get(execution.campaign)
            if campaign is not None and (version := versions.get(at_step(campaign, execution).component)) is not None:
                await self.move(campaign, execution, Observed(version), actor=device)
        last: dict[str, tuple[Campaign, Execution]] = {}
        for past in sorted(done, key=lambda past: (past.changed, past.id)):
            if (campaign := campaigns.get(past.campaign)) is not None:
                last[campaign.component] = campaign, past
        for component, (campaign, past) in last.items():
            version = versions.get(component)
            if version is None or version != past.previous_version:
                continue
            if campaign.state is CampaignState.ROLLED_BACK and campaign.rollback is None:
                continue  # that is what the gateway was told
            if not await self._installs(device, component, version):
                await self.move(campaign, past, Observed(version), actor=device)

    async def _installs(self, device: str, component: str, version: str) -> bool:
        """Whether an open campaign installs that version on a device."""
        pair = await self.current(device)
        if pair is None or not is_begun(pair[1]):
            return False
        image = at_step(*pair)
        return (image.component, image.release) == (component, version)

    async def image_of(self, device: str) -> str | None:
        """The digest of the image that a device may download now; None if it has no offer."""
        pair = await self.current(device)
        return None if pair is None else at_step(*pair).sha256

    async def current(self, device: str) -> tuple[Campaign, Execution] | None:
        """The device's current execution: what it has begun; else by priority, age and name of the campaigns.

        An update that is downloaded and may not be installed yet has not begun in this sense.
        """
        found: list[tuple[Campaign, Execution]] = []
        now = self._clock.now_ms()
        for execution in await self.records.find(ref=("open", device)):
            campaign = await self.campaigns.get(execution.campaign)
            if campaign is not None and campaign.sha256 is not None and _may_go_on(campaign, execution, now):
                found.append((campaign, execution))
        return min(
            found,
            key=lambda pair: (
                not is_begun(pair[1]) or _waits_with_image(pair[1]),
                -pair[0].rollout.priority,
                pair[0].created,
                pair[0].id,
            ),
            default=None,
        )

    async def waits_for(self, campaign: Campaign, execution: Execution) -> str:
        """What an execution waits for now, in words; empty for one that has ended."""
        if execution.state in EXECUTION_ENDS:
            return ""
        if execution.state is not ExecutionState.WAITING:
            until = "" if execution.due is None else f", until {format_time(execution.due)}"
            if execution.held:
                return f"{execution.code}: {execution.reason}{until}"
            return f"the device, which is {execution.state}{until}"
        if campaign.state is not CampaignState.RUNNING:
            why = f": {campaign.reason or campaign.code}" if campaign.reason or campaign.code else ""
            return f"the campaign, which is {campaign.state}{why}"
        if not may_be_offered(campaign, execution):
            return f"a place: wave {campaign.wave} is under way"
        if execution.held and execution.until is not None:
            return f"{execution.code}: {execution.reason}; judged again at {format_time(execution.until)}"
        if execution.until is not None and execution.until > self._clock.now_ms():
            return f"its next attempt at {format_time(execution.until)}"
        current = await self.current(execution.device)
        if current is not None and current[1].id != execution.id:
            return f"the campaign {current[0].id!r}, which comes first"
        try:
            target = (await self.target(execution.device)).within(campaign, execution)
            code = self._update_policy.refusal(at_step(campaign, execution), target)
        except (NotFound, Conflict):
            return "the device, which has left"
        return f"the device, which is to be refused: {code}" if code else "the device, which has not fetched its offer"

    async def _firmware(self, device: str, _after: int) -> Mapping[str, object] | None:
        """The offer for a device, or the withdrawal of one that it has seen (wire.md §10)."""
        return await self.offer(device) or await self._withdrawal(device)

    async def _withdrawal(self, device: str) -> Mapping[str, object] | None:
        """The newest withdrawn offer, until the device reports anything about it."""
        since = self._clock.now_ms() - WITHDRAWN_MS
        found = [past for past in await self.records.find(ref=("withdrawn", device)) if past.changed >= since]
        if not found:
            return None
        return {"offer": None, "cancel": offer_name(max(found, key=lambda past: (past.changed, past.id)))}

    async def _count(self, device: str) -> int:
        pair = await self.current(device)
        if pair is not None and is_function(at_step(*pair).component):
            return 0
        open_or_not = pair or await self._withdrawal(device)
        return 0 if open_or_not is None else 1

    async def _unfinished(self, device: str) -> Sequence[Downlink]:
        body = await self._firmware(device, 0)
        return [] if body is None else [Downlink(type=messages.FIRMWARE, subject=device, body=body)]

    def before_desired(self, source: Waiting) -> Waiting:
        """Desired state as a waiting item, with the function that a campaign offers a gateway now."""

        async def read(device: str, after: int) -> Mapping[str, object] | None:
            await self._offer_function(device)
            return await source.read(device, after)

        async def unfinished(device: str) -> Sequence[Downlink]:
            await self._offer_function(device)
            return await source.unfinished(device)

        return evolve(source, read=read, unfinished=unfinished)

    async def _offer_function(self, device: str) -> None:
        if await self._functions.is_gateway(device):
            await self.offer(device, functions_only=True)

    async def offer(self, device: str, *, functions_only: bool = False) -> dict[str, object] | None:
        """The wire's offer for the device (wire.md §10), or None, also for a device that has left.

        Sending it makes a waiting execution ``offered``, where the campaign's rate allows one more. The offer of a
        function is an entry of the device's desired state instead, and the answer is None.
        """
        while True:
            pair = await self.current(device)
            if pair is None:
                return None
            campaign, execution = pair
            try:
                target = await self.target(device)
            except (NotFound, Conflict):
                return None  # the device has left: its retirement ends its open executions
            if is_begun(execution):
                if functions_only or is_function(at_step(campaign, execution).component):
                    return None
                return await self._offer_of(campaign, execution, target)
            target = target.within(campaign, execution)
            if execution.state is ExecutionState.WAITING:
                needed = first_needed(campaign, execution.step, target.needs)
                execution = execution if needed == execution.step else replace(execution, step=needed)
            by_twin = is_function(at_step(campaign, execution).component)
            if functions_only and not by_twin:
                return None
            code = self._update_policy.refusal(at_step(campaign, execution), target)
            if code == "trust_expired":
                return None
            if code is not None:
                await self.end(campaign, execution, ExecutionState.REJECTED, code)
                continue
            if execution.state is not ExecutionState.WAITING:
                offered = await self._offered(campaign, execution, target)
            elif await self._runs_already(campaign, execution, target):
                await self.end(campaign, execution, ExecutionState.SKIPPED, SAME_VERSION)
                continue
            else:
                judged = await self._eligibility.judge(campaign, execution)
                if judged.held is not None and (by_twin or not campaign.rollout.eligibility.download_early):
                    if not (await self.move(campaign, execution, judged.held)).execution.held:
                        return None
                    continue
                offered = await self._first_offer(campaign, execution, target, judged.site)
            if offered is None:
                return None
            if offered.state in EXECUTION_ENDS:
                continue
            if not by_twin:
                return await self._offer_of(campaign, offered, target)
            if await self._enter(campaign, offered, target):
                return None

    async def _enter(self, campaign: Campaign, execution: Execution, target: Target) -> bool:
        """Makes an offered function an entry of the gateway's desired state; a refusal ends the execution."""
        image = installs(at_step(campaign, execution))
        try:
            await self._functions.offer(
                campaign, image, execution.device, offer_name(execution), execution.attempt, target.trust
            )
        except Refused as error:
            await self.end(campaign, execution, ExecutionState.REJECTED, error.code, reason=error.message)
            return False
        return True

    async def _runs_already(self, campaign: Campaign, execution: Execution, target: Target) -> bool:
        """Whether a device is known to run the campaign's version; its report may be older than its last update."""
        running = target.runs(campaign.component)
        if (
            not is_last(campaign, execution)
            or running.version != campaign.release
            or running.sha256 not in (None, campaign.sha256)
        ):
            return False
        if execution.first_offered is not None:
            return False  # an earlier attempt may have installed it, or gone back since
        if is_function(campaign.component) and not await self._functions.is_configured(campaign, execution.device):
            return False
        others = [each for each in await self.of_device(execution.device) if each.id != execution.id]
        campaigns = await self.campaigns.get_many({each.campaign for each in others})
        past = [
            each for each in others
            if (other := campaigns.get(each.campaign)) is None or other.component == campaign.component
        ]  # fmt: skip
        if any(each.state in (ExecutionState.TIMED_OUT, ExecutionState.REVERTED) for each in past):
            return False
        done = (each for each in past if each.state is ExecutionState.SUCCEEDED)
        last = max(done, key=lambda each: (each.changed, each.id), default=None)
        return last is None or last.reported_version in (None, campaign.release)

    async def _first_offer(
        self, campaign: Campaign, execution: Execution, target: Target, site: str
    ) -> Execution | None:
        """The offer to a device that waits for it; None where its site or the campaign's rate allows none now."""
        limited = campaign.rollout.eligibility.site_limit
        async with self._at_sites if limited else contextlib.nullcontext():
            if await self._has_room(campaign, site) and await self._takes_turn(campaign):
                await self._supersede(execution)
                return await self._offered(campaign, execution, target, site)
        self._kept_back.setdefault(campaign.id, {})[execution.device] = None
        return None

    async def _supersede(self, execution: Execution) -> None:
        """Ends updates of other campaigns that the device has downloaded and not installed: this one comes first."""
        for other in await self.records.find(ref=("open", execution.device)):
            campaign = await self.campaigns.get(other.campaign) if _waits_with_image(other) else None
            if campaign is not None:
                await self.end(campaign, other, ExecutionState.CANCELLED, SUPERSEDED)

    async def _has_room(self, campaign: Campaign, site: str) -> bool:
        """Whether one more device of a site may be updated now; devices without a site are at one."""
        limit = campaign.rollout.eligibility.site_limit
        return not limit or len(await self.records.find(ref=_at_site(campaign.id, site or NO_SITE))) < limit

    async def _offered(
        self, campaign: Campaign, execution: Execution, target: Target, site: str = ""
    ) -> Execution | None:
        """The execution once its offer is made, with an assignment that is valid for some time; None if it is gone."""
        if execution.state is not ExecutionState.WAITING and self._update_policy.is_valid(campaign, execution):
            return execution
        now = self._clock.now_ms()
        if campaign.rollout.eligibility.site_limit and execution.state is ExecutionState.WAITING:
            site = site or NO_SITE

        running = target.runs(at_step(campaign, execution).component)
        offered = Offered(running.version, site, execution.step)

        def once(old: Execution) -> tuple[Execution, list[Event]] | None:
            new = self._stepped(campaign, old, offered, now).execution
            if not self._update_policy.is_valid(campaign, new):
                new = self._update_policy.renewed(new)
            return None if new is old or old.state in EXECUTION_ENDS else (new, _events(old, new, "system", now))

        try:
            return await self.records.change(execution.id, once)
        except NotFound:
            return None  # erased meanwhile

    async def _takes_turn(self, campaign: Campaign) -> bool:
        """Counts an offer, where the campaign's rate allows one more now."""
        rate = campaign.rollout.rate
        if rate is None:
            return True
        succeeded = (await self.counts(campaign.id)).states.get(ExecutionState.SUCCEEDED, 0)
        return self._pace(campaign).take(rate, succeeded, self._clock.monotonic_s())

    async def remind(self, campaign: Campaign) -> None:
        """Tells devices that asked in vain that offers are made again, as many as the rate allows.

        After them, in turn, devices that have a place: they may have asked before a restart.
        """
        rate = campaign.rollout.rate
        left = TOGETHER
        if rate is not None:
            succeeded = (await self.counts(campaign.id)).states.get(ExecutionState.SUCCEEDED, 0)
            left = self._pace(campaign).left(rate, succeeded, self._clock.monotonic_s())
        kept_back = self._kept_back.get(campaign.id, {})
        asked = list(islice(kept_back, left))
        for device in asked:
            del kept_back[device]
        self.tell(asked)
        left -= len(asked)
        if rate is not None and left:
            after = self._reminded.get(campaign.id)
            page = await self.records.page(ref=("placed", campaign.id), after=after, limit=left)
            self._reminded[campaign.id] = page.after
            self.tell(execution.device for execution in page.items)

    def _pace(self, campaign: Campaign) -> Pace:
        pace = self._paces.get(campaign.id)
        if pace is None:
            # It may have made offers a moment before this process opened the fleet.
            pace = self._paces[campaign.id] = Pace(self._opened_s + WINDOW_S)
        return pace

    def begin(self, campaign: str) -> None:
        """A campaign begins that has made no offers yet."""
        self._paces[campaign] = Pace(self._clock.monotonic_s())

    async def _may_install(self, campaign: Campaign, execution: Execution) -> Judgement:
        """Whether a device may install, judged again; one that has the image is held where it may not."""
        if PROGRESS_ORDER[execution.state] >= PROGRESS_ORDER[ExecutionState.INSTALLING]:
            return Judgement()
        waits = execution.state is ExecutionState.DOWNLOADED and execution.code in HOLDS
        if waits and campaign.state is CampaignState.PAUSED:
            judged = paused(self._clock.now_ms())
        else:
            judged = await self._eligibility.judge(campaign, execution)
        if judged.held is not None and execution.state is ExecutionState.DOWNLOADED:
            await self.move(campaign, execution, judged.held)
        return judged

    async def consent(
        self, campaign: Campaign, execution: Execution, *, actor: str = "system", reason: str = ""
    ) -> Execution:
        """The device's user agrees to the update; again, nothing changes.

        Raises:
            Conflict: ``illegal_transition``, it has ended.
        """
        if execution.state in EXECUTION_ENDS:
            raise Conflict(
                f"The update of {execution.device!r} is {execution.state} already", code="illegal_transition",
                device=execution.device,
            )  # fmt: skip
        return (await self.move(campaign, execution, Consented(), actor=actor, reason=reason)).execution

    async def _offer_of(self, campaign: Campaign, execution: Execution, target: Target) -> dict[str, object]:
        judged = await self._may_install(campaign, execution)
        image = at_step(campaign, execution)
        known = await self._storage.artifact(cast("str", image.sha256)) is not None
        running = target.runs(image.component)
        offer: dict[str, object] = {
            "execution": offer_name(execution),
            "campaign": campaign.id,
            "attempt": execution.attempt,
            "version": image.release,
            "component": image.component,
            "size": image.size,
            "sha256": image.sha256,
            "install": "now" if judged.held is None else "wait",
        }
        for name, moment in (
            ("not_before", None if judged.held is None else judged.held.until),
            ("deadline", judged.until),
            ("defer_until", latest_deferral(campaign, execution)),
        ):
            if moment is not None:
                offer[name] = format_time(moment)
        if image.url:
            offer["url"] = image.url
        if known:
            offer["path"] = f"/device/v1/artifacts/{image.sha256}"
            if deltas := await offered_deltas(self._storage, running.sha256, cast("str", image.sha256)):
                offer["deltas"] = deltas
        if image.manifest is not None:
            offer |= self._update_policy.offer_members(image, execution, target)
        return {"offer": offer}

    async def status(self, device: str, body: messages.FirmwareStatus) -> Outcome:
        """Handles a device's report about its execution; states may be skipped, never go back (wire.md §10)."""
        (outcome,) = await self.statuses([(device, body)])
        return outcome

    async def statuses(self, reports: Sequence[tuple[str, messages.FirmwareStatus]]) -> Sequence[Outcome]:
        """Handles reports as :meth:`status`: they are stored in one commit. Their outcomes, in their order."""
        named = [of_offer(body.execution) for _, body in reports]
        executions = await self.records.get_recent(name for name, _ in named)
        campaigns = await self.campaigns.get_many({each.campaign for each in executions.values()})
        outcomes: list[Outcome] = []
        moves: list[tuple[int, Move]] = []
        now = self._clock.now_ms()
        for place, ((device, body), (name, at)) in enumerate(zip(reports, named, strict=True)):
            execution = executions.get(name)
            campaign = None if execution is None else campaigns.get(execution.campaign)
            refused = problem(body, now)
            if execution is None or campaign is None or execution.device != device or at > execution.step:
                outcomes.append(refused or UNKNOWN)
                continue
            refused = refused or refusal(campaign, execution, body, at)
            outcomes.append(refused or Accepted())
            if refused is None:
                moves.append((place, Move(campaign, execution, event_of(body, at), device)))
        for (place, move), made in zip(moves, await self.move_together([move for _, move in moves]), strict=True):
            if made is None:
                outcomes[place] = Rejected(code="execution_unknown", reason="It was erased")
            elif made.refused:
                outcomes[place] = Rejected(code="illegal_transition", reason=made.refused)
            elif _is_downloaded(move) and await self._eligibility.matters(move.campaign):
                judged = await self._may_install(move.campaign, made.execution)
                if judged.held is None:
                    self.tell([made.execution.device])  # it may have been told to wait
        return outcomes


def _document(twin: Record, section: str) -> Mapping[str, object]:
    """The document of a section of a stored twin."""
    found = twin.body.get(section)
    document = found.get("document") if isinstance(found, Mapping) else None
    return document if isinstance(document, Mapping) else {}


def _is_downloaded(move: Move) -> bool:
    return isinstance(move.event, Reported) and move.event.state is ExecutionState.DOWNLOADED


async def _nothing(_campaign: str) -> None:
    pass


def is_begun(execution: Execution) -> bool:
    """Whether a device works on an update: it accepted it at least."""
    return PROGRESS_ORDER[execution.state] >= PROGRESS_ORDER[ExecutionState.ACCEPTED]


def _waits_again(old: Execution, new: Execution) -> bool:
    """Whether an execution has come back from an attempt or a step to wait for another offer."""
    return new.state is ExecutionState.WAITING and old.state is not ExecutionState.WAITING


def _waits_with_image(execution: Execution) -> bool:
    """Whether a device has the image and may not install it yet."""
    return execution.held and execution.state is ExecutionState.DOWNLOADED


def may_be_offered(campaign: Campaign, execution: Execution) -> bool:
    """Whether the device has had its turn: an offer was made, or it needs no place, or has one."""
    waits = execution.state is ExecutionState.WAITING
    return not waits or execution.wave > 0 or not has_places(campaign.rollout)


def _may_go_on(campaign: Campaign, execution: Execution, now: int) -> bool:
    """Whether an execution is under way, or may be offered now."""
    if is_begun(execution):
        return True
    if campaign.state is not CampaignState.RUNNING:
        return False
    waits = execution.state is ExecutionState.WAITING
    if waits and execution.until is not None and execution.until > now:
        return False
    return may_be_offered(campaign, execution)


def _events(old: Execution, new: Execution, actor: str, at: int, why: str = "") -> list[Event]:
    """The event of a changed state, a place, a hold for another reason and of consent; other changes have none."""
    data: dict[str, object] = {"campaign": new.campaign, "device": new.device}
    if new.code is not None:
        data["code"] = new.code
    reason = why or f"{new.code or ''}: {new.reason or ''}".strip(": ")
    if new.state is not old.state or new.state is ExecutionState.DOWNLOADING:
        event = Event(type=f"execution.{new.state}", subject=new.id, time=at, actor=actor, reason=reason, data=data)
    elif new.wave and not old.wave:
        data = {"campaign": new.campaign, "device": new.device, "wave": new.wave}
        event = Event(type="execution.placed", subject=new.id, time=at, actor=actor, reason=why, data=data)
    elif new.held and new.code != old.code:
        event = Event(type="execution.held", subject=new.id, time=at, actor=actor, reason=reason, data=data)
    elif new.consented is not None and old.consented is None:
        event = Event(type="execution.consented", subject=new.id, time=at, actor=actor, reason=reason, data=data)
    else:
        return []
    return [event]
