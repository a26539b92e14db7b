"""The devices of a campaign by a query: those that it selects when the campaign is made, or all the time."""

import math
from collections.abc import Sequence

from attrs import field, frozen
from msgspec.structs import replace

from fleetcore.errors import NotFound
from fleetcore.fleet.search import Search
from fleetcore.fleet.updates import Updates
from fleetcore.interfaces.clock import Clock
from fleetcore.model.device import Lifecycle
from fleetcore.model.firmware import SHOWN_TARGETS, Campaign, CampaignState, Execution, ExecutionState
from fleetcore.query.ast import And, Clause, Compare
from fleetcore.query.parse import parse
from fleetcore.rollout.campaigns import has_places
from fleetcore.rollout.executions import Rejoined

#: The code of executions of devices that a continuous campaign's query selects no longer.
LEFT_TARGETS = "left_targets"
#: Executions that are added in one commit.
_TOGETHER = 500
#: A query is asked again after so long, and takes at most this part of the time.
_FOLLOW_S = 60.0
_SHARE = 0.02


@frozen
class Selected:
    """What a query selects: the devices that are not retired, by id, and their models."""

    devices: Sequence[str]
    models: frozenset[str | None] = field(factory=frozenset)


class Targets:
    """Adds the devices of a query to campaigns, and follows it."""

    def __init__(self, search: Search, updates: Updates, clock: Clock) -> None:
        self._search, self._updates, self._clock = search, updates, clock
        #: Campaign → the monotonic time from which its query is asked again.
        self._next: dict[str, float] = {}

    async def select(self, where: str) -> Selected:
        """The devices of a query. Raises QuerySyntaxError."""
        devices: list[str] = []
        models: set[str | None] = set()
        async for document in self._search.iterate(_living(where)):
            devices.append(str(document["id"]))
            model = document.get("model")
            models.add(model if isinstance(model, str) else None)
        return Selected(devices, frozenset(models))

    async def complete(self, campaign: Campaign, devices: Sequence[str] | None = None) -> Campaign:
        """Adds the devices of a new campaign that are still missing; repeated, it adds none twice.

        Args:
            devices: those that were selected; after an interruption the query is asked again.
        """
        if not campaign.adding:
            return campaign
        found = (await self.select(campaign.where)).devices if devices is None else devices
        now = self._clock.now_ms()
        for at in range(0, len(found), _TOGETHER):
            missing = await self._missing(campaign, found[at : at + _TOGETHER])
            if missing:
                await self._updates.add(campaign, missing, now)
        counted = (await self._updates.counts(campaign.id)).total
        if devices is None:
            # The query may have selected others before the interruption.
            page = await self._updates.records.page(ref=("campaign", campaign.id), limit=SHOWN_TARGETS)
            shown = tuple(each.device for each in page.items)
        else:
            shown = campaign.targets
        return await self._updates.campaigns.change(
            campaign.id, lambda old: (_completed(old, shown, counted), []) if old.adding else None
        )

    async def follow(self, campaign: Campaign) -> bool:
        """Adds the devices that a continuous campaign's query selects now; ends those that wait and left it.

        Devices that have begun go on. One that comes back goes on with the attempts that are left. Returns whether
        anything changed.
        """
        begun = self._clock.monotonic_s()
        if not campaign.continuous or campaign.adding or campaign.state is not CampaignState.RUNNING:
            return False
        if begun < self._next.get(campaign.id, begun):
            return False
        self._next[campaign.id] = math.inf  # until this is done
        try:
            return await self._follow(campaign)
        finally:
            took = self._clock.monotonic_s() - begun
            self._next[campaign.id] = begun + max(_FOLLOW_S, took / _SHARE)

    def forget(self, campaign: str) -> None:
        """A campaign has ended."""
        self._next.pop(campaign, None)

    async def _follow(self, campaign: Campaign) -> bool:
        selected = set((await self.select(campaign.where)).devices)
        known: set[str] = set()
        changed = False
        async for page in self._updates.pages(campaign):
            known.update(each.device for each in page)
            for each in page:
                changed = await self._moved(campaign, each, selected) or changed
        return await self._join(campaign, sorted(selected - known)) or changed

    async def _moved(self, campaign: Campaign, execution: Execution, selected: set[str]) -> bool:
        if execution.device not in selected:
            if execution.state is not ExecutionState.WAITING:
                return False
            await self._updates.end(campaign, execution, ExecutionState.CANCELLED, LEFT_TARGETS)
            return True
        if execution.state is not ExecutionState.CANCELLED or execution.code != LEFT_TARGETS:
            return False
        try:
            await self._updates.move(campaign, execution, Rejoined())
        except NotFound:
            return False  # erased meanwhile
        self._came(campaign, [execution.device])
        return True

    async def _join(self, campaign: Campaign, devices: Sequence[str]) -> bool:
        now = self._clock.now_ms()
        for at in range(0, len(devices), _TOGETHER):
            added = devices[at : at + _TOGETHER]
            await self._updates.join(campaign, added, now)
            self._came(campaign, added)
        return bool(devices)

    def _came(self, campaign: Campaign, devices: Sequence[str]) -> None:
        self._updates.forget_turns(campaign.id)
        if not has_places(campaign.rollout):
            self._updates.tell(devices)

    async def _missing(self, campaign: Campaign, devices: Sequence[str]) -> Sequence[str]:
        known = await self._updates.records.get_many([f"{campaign.id}:{device}" for device in devices])
        return [device for device in devices if f"{campaign.id}:{device}" not in known]


def _completed(campaign: Campaign, shown: tuple[str, ...], total: int) -> Campaign:
    """The campaign with all its devices; one that was stopped meanwhile has to cancel those that came later."""
    stopped = campaign.aborting or campaign.finished_at is not None
    return replace(campaign, adding=False, targets=shown, total=total, aborting=stopped)


def _living(where: str) -> Clause:
    """The query, without retired devices."""
    return And((parse(where), Compare(("lifecycle",), "!=", Lifecycle.RETIRED.value)))
