"""Health gates of campaigns: observes updated devices, compares them with others, and keeps the evidence.

The commit that ends a device's update also begins its observation. Once its window has ended, it is compared with
devices of the campaign that are still to be updated, and its record is stored in one commit with the campaign's new
score (:mod:`fleetcore.rollout.gate`). So a crash between two commits loses nothing and counts nothing twice. The
campaign acts on the score by :func:`fleetcore.rollout.campaigns.decide`.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from math import exp

from attrs import evolve, field, frozen, mutable
from msgspec.structs import replace

from fleetcore.errors import VersionConflict
from fleetcore.fleet.eligibility import SITE_ATTRIBUTE
from fleetcore.fleet.gate_facts import Facts, FactsReader, Window, judged
from fleetcore.fleet.registry import Registry
from fleetcore.fleet.repository import Pairs, Repository
from fleetcore.fleet.updates import Updates
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.storage import Storage
from fleetcore.model.device import Device
from fleetcore.model.firmware import Campaign, Execution, ExecutionState
from fleetcore.model.gate import GateScore, Matching, Observation, Rule, Verdict
from fleetcore.model.rollout import HealthGate
from fleetcore.model.store import Commit, Event
from fleetcore.rollout.gate import compared, observed_of
from fleetcore.rollout.turns import MISSED, all_turns, turn_digits

#: Devices that are judged in one commit, and in one tick.
_TOGETHER, _PER_TICK = 10, 50
#: Devices that may serve as controls are read ahead, about so many.
_POOL = 2_000
#: The fewest controls with which a closer matching is kept.
_ENOUGH = 4
#: More devices are looked at than are needed: some had alerts before.
_SPARE = 4
#: Earlier days with which a device is compared where there are no others.
_DAYS = 7
_ENDED = "the campaign had ended"
_LEFT = "it left the campaign"
_TROUBLED = "it had an alert before its update"
_NOTHING = "there is no device to compare it with, nor earlier days"


def _refs(observation: Observation) -> Pairs:
    refs = [("campaign", observation.campaign), ("device", observation.device)]
    if observation.matching is not Matching.HISTORY:
        refs += [("control", control.device) for control in observation.controls]
    return refs


def _space(campaign: str) -> str:
    return f"gate/{campaign}"


def _site(device: Device | None) -> str | None:
    site = None if device is None else device.attributes.get(SITE_ATTRIBUTE)
    return site if isinstance(site, str) and site else None


@frozen
class _Peer:
    """A device that may serve as a control."""

    model: str | None
    site: str | None


@mutable
class _Pool:
    """The devices of a campaign that are still to be updated, those that are updated last first.

    Attributes:
        turns: those whose devices are not read yet.
        fresh: devices that have not been a control.
        used: those that have, with the end of their last window.
    """

    turns: list[str]
    fresh: dict[str, _Peer] = field(factory=dict)
    used: dict[str, tuple[_Peer, int]] = field(factory=dict)

    def drop(self, devices: Iterable[str]) -> None:
        """Leaves out devices that are not to be updated any more, or are being updated."""
        for device in devices:
            self.fresh.pop(device, None)
            self.used.pop(device, None)

    def again(self, since: int) -> Mapping[str, _Peer]:
        """Devices that were a control in a window that ended before another one begins."""
        return {device: peer for device, (peer, until) in self.used.items() if until <= since}

    def levels(self, peer: _Peer, since: int) -> Iterator[tuple[Matching, Sequence[str]]]:
        """Devices to compare one with, the closest first; those that were a control before come last."""
        for devices in (self.fresh, self.again(since)):
            if peer.model is not None and peer.site is not None:
                yield Matching.SITE, [device for device, each in devices.items() if each == peer]
            if peer.model is not None:
                yield Matching.MODEL, [device for device, each in devices.items() if each.model == peer.model]
            yield Matching.ANY, list(devices)


class HealthGates:
    """Observes the updated devices of campaigns with a gate.

    Attributes:
        records: the stored observations.
    """

    def __init__(self, storage: Storage, clock: Clock, updates: Updates, devices: Registry, facts: FactsReader) -> None:
        self._storage, self._clock, self._updates = storage, clock, updates
        self._devices, self._facts = devices, facts
        self.records = Repository(
            storage,
            "observation",
            Observation,
            refs=_refs,
            due=lambda observation: observation.due,
            sort=lambda observation: f"{observation.number:09d}",
            counted=lambda observation: (_space(observation.campaign), f"{observation.wave}/{observation.verdict}"),
        )
        self._pools: dict[str, _Pool] = {}
        self._turn = asyncio.Lock()
        updates.on_observed(self._begun)

    def _begun(self, campaign: Campaign, execution: Execution) -> Commit:
        """The part of a commit from which on a device is observed."""
        gate = campaign.rollout.gate
        if gate is None or execution.observed is None:
            return Commit()
        since = execution.observed
        return self.records.making(
            [
                Observation(
                    id=execution.id, campaign=campaign.id, device=execution.device, wave=execution.wave,
                    before=min(since, execution.first_offered or since), since=since, due=since + gate.window_ms,
                )
            ]
        )  # fmt: skip

    async def counts(self, campaign: str) -> Mapping[int, Mapping[Verdict, int]]:
        """The observed devices of a campaign by wave and verdict."""
        found: dict[int, dict[Verdict, int]] = {}
        for name, count in (await self._storage.counters(_space(campaign))).items():
            wave, _, verdict = name.partition("/")
            found.setdefault(int(wave), {})[Verdict(verdict)] = count
        return found

    async def observing(self, campaign: Campaign) -> Mapping[int, int]:
        """How many devices of each wave are observed now."""
        if campaign.rollout.gate is None:
            return {}
        counts = await self.counts(campaign.id)
        return {wave: verdicts.get(Verdict.OPEN, 0) for wave, verdicts in counts.items()}

    async def tick(self) -> None:
        """Judges devices whose window has ended, up to a number of them."""
        async with self._turn:
            by_campaign: dict[str, list[Observation]] = {}
            for observation in (await self.records.due(self._clock.now_ms()))[:_PER_TICK]:
                by_campaign.setdefault(observation.campaign, []).append(observation)
            for name, observations in by_campaign.items():
                for at in range(0, len(observations), _TOGETHER):
                    await self._judge(name, observations[at : at + _TOGETHER])

    async def _judge(self, name: str, observations: Sequence[Observation]) -> None:
        campaign = await self._updates.campaigns.need(name)
        gate = campaign.rollout.gate
        if gate is None or campaign.finished_at is not None:
            self._pools.pop(name, None)
            left, found = 1, [evolve(each, verdict=Verdict.UNCOMPARED, reasons=(_ENDED,)) for each in observations]
        else:
            left = await self._left(campaign, gate, observations[0].wave)
            share = await self._share(campaign, gate, observations[0].since, left)
            found = [await self._compare(campaign, gate, each, share) for each in observations]
        try:
            await self._store(name, found, left)
        except VersionConflict:
            return  # one of them was erased meanwhile: the others are judged at the next tick

    async def _store(self, campaign: str, found: Sequence[Observation], left: int) -> None:
        """Stores judged devices with the score that follows from them, in their order.

        Args:
            left: how many of their wave are still to be judged, these included.
        """

        def scored(old: Campaign) -> tuple[GateScore, Sequence[Observation]]:
            score, numbered = old.gate_score or GateScore(), []
            for at, each in enumerate(found):
                score = replace(score, number=score.number + 1)
                gate = old.rollout.gate
                if gate is not None and each.verdict is not Verdict.UNCOMPARED:
                    score = compared(
                        score, gate, bad=each.verdict is Verdict.BAD, controls=len(each.controls),
                        controls_bad=sum(bool(control.rules) for control in each.controls), left=left - at,
                    )  # fmt: skip
                numbered.append(evolve(each, number=score.number, e_value=exp(score.log_e), due=None))
            return score, numbered

        def stored(old: Campaign, _new: Campaign) -> Commit:
            change = Commit()
            for before, after in zip(found, scored(old)[1], strict=True):
                change += self.records.changing(evolve(before, verdict=Verdict.OPEN), after)
            return change

        await self._updates.campaigns.compare_and_set(
            lambda: self._updates.campaigns.need(campaign),
            lambda old: (replace(old, gate_score=scored(old)[0]), []),
            stored,
            key=campaign,
        )

    async def _compare(self, campaign: Campaign, gate: HealthGate, observation: Observation, share: int) -> Observation:
        """An observation with its verdict."""
        execution = await self._updates.records.get(observation.id)
        if execution is None or execution.state in (ExecutionState.CANCELLED, ExecutionState.SKIPPED):
            return evolve(observation, verdict=Verdict.UNCOMPARED, reasons=(_LEFT,))
        window = Window.of(observation, gate)
        own = await self._facts.present(observation.device, window, gate)
        if own.troubled:
            return evolve(observation, verdict=Verdict.UNCOMPARED, reasons=(_TROUBLED,))
        matching, others = await self._controls(campaign, gate, observation, window, share)
        if not others:
            matching, others = Matching.HISTORY, await self._history(gate, observation, window)
            past = await self._facts.past(observation.device, window, gate)
            if not others or past is None:
                return evolve(observation, verdict=Verdict.UNCOMPARED, reasons=(_NOTHING,))
            own = past
        first, *controls = judged([own, *others], gate)
        failed = _failure(execution)
        rules = (*((Rule.UPDATE,) if failed else ()), *first.rules)
        return evolve(
            observation,
            verdict=Verdict.BAD if rules else Verdict.GOOD,
            rules=rules,
            reasons=(*((failed,) if failed else ()), *first.reasons),
            matching=matching,
            controls=tuple(controls),
        )

    async def _controls(
        self, campaign: Campaign, gate: HealthGate, observation: Observation, window: Window, share: int
    ) -> tuple[Matching, Sequence[Facts]]:
        """Devices of the campaign that are still to be updated, and how close they are."""
        pool = await self._pool(campaign)
        device = await self._devices.find(observation.device)
        peer = _Peer(None if device is None else device.model, _site(device))
        wanted, matching = min(gate.controls, share), Matching.ANY
        found: dict[str, Facts] = {}
        seen = {observation.device}
        for closeness, names in pool.levels(peer, window.since):
            matching = closeness
            await self._add(campaign, gate, pool, [name for name in names if name not in seen], window, wanted, found)
            seen.update(names)
            if len(found) >= min(wanted, _ENOUGH):
                break
        for name in found:
            pool.used[name] = (pool.fresh.pop(name) if name in pool.fresh else pool.used[name][0], window.end)
        return matching, list(found.values())

    async def _add(
        self, campaign: Campaign, gate: HealthGate, pool: _Pool, names: Sequence[str], window: Window, wanted: int,
        found: dict[str, Facts],
    ) -> None:  # fmt: skip
        """Adds those devices that can be compared, up to a number: they were alive before, without an alert."""
        alive = (name for name in names if self._facts.is_alive(name, window.before))
        while len(found) < wanted:
            chosen = list(islice(alive, wanted - len(found) + _SPARE))
            if not chosen:
                return
            executions = await self._updates.records.get_many(f"{campaign.id}:{name}" for name in chosen)
            waiting = {each.device for each in executions.values() if _is_waiting(each)}
            pool.drop(set(chosen) - waiting)
            facts = await asyncio.gather(
                *(self._facts.present(name, window, gate) for name in chosen if name in waiting)
            )
            fit = [each for each in facts if not each.troubled]
            found |= {each.device: each for each in fit[: wanted - len(found)]}

    async def _history(self, gate: HealthGate, observation: Observation, window: Window) -> Sequence[Facts]:
        """The device itself, at the same hours of earlier days."""
        days = range(1, min(_DAYS, gate.controls) + 1)
        found = await asyncio.gather(
            *(self._facts.past(observation.device, window.days_ago(number), gate) for number in days)
        )
        return [each for each in found if each is not None and not each.troubled]

    async def _left(self, campaign: Campaign, gate: HealthGate, wave: int) -> int:
        """How many devices of a wave are still to be judged, about: 1 at least."""
        verdicts = (await self.counts(campaign.id)).get(wave, {})
        done = sum(count for verdict, count in verdicts.items() if verdict is not Verdict.OPEN)
        return max(1, observed_of(campaign, gate, wave)[0] - done, verdicts.get(Verdict.OPEN, 0))

    async def _share(self, campaign: Campaign, gate: HealthGate, since: int, left: int) -> int:
        """How many controls a device may have, so that they are enough for all that are left of its wave."""
        pool = await self._pool(campaign)
        devices = len(pool.fresh) + len(pool.again(since))
        return gate.controls if pool.turns else max(1, devices // left)

    async def _pool(self, campaign: Campaign) -> _Pool:
        """The pool of a campaign, with devices enough; after a restart it is made from the stored observations."""
        pool = self._pools.get(campaign.id)
        if pool is None:
            turns = [turn for turn in all_turns(turn_digits(campaign.total)) if turn != MISSED]
            pool = self._pools[campaign.id] = _Pool(turns)
            async for past in self.records.iterate(ref=("campaign", campaign.id)):
                if past.matching is not Matching.HISTORY:
                    end = past.since + (campaign.rollout.gate or HealthGate()).window_ms
                    pool.used |= {control.device: (_Peer(None, None), end) for control in past.controls}
        while pool.turns and len(pool.fresh) < _POOL:
            found = await self._updates.records.find(ref=("turn", f"{campaign.id}/{pool.turns.pop()}"))
            devices = await self._devices.records.get_many(each.device for each in found)
            for name, device in devices.items():
                peer = _Peer(device.model, _site(device))
                if name in pool.used:
                    pool.used[name] = (peer, pool.used[name][1])
                else:
                    pool.fresh[name] = peer
        return pool

    async def forget(self, device: str) -> None:
        """Removes a device from the evidence: its own observations, and its part in those of others."""

        def without(old: Observation) -> tuple[Observation, Sequence[Event]]:
            return evolve(old, controls=tuple(each for each in old.controls if each.device != device)), []

        for observation in await self.records.find(ref=("control", device)):
            await self.records.change(observation.id, without)


def _is_waiting(execution: Execution) -> bool:
    """Whether a device is still to be updated, and never missed its turn."""
    return execution.state is ExecutionState.WAITING and not execution.wave and not execution.missed


def _failure(execution: Execution) -> str:
    """How its update went wrong, in words; empty for one that succeeded."""
    if execution.state is ExecutionState.SUCCEEDED:
        return ""
    return f"update {execution.state}".replace("_", " ") + (f": {execution.code}" if execution.code else "")
