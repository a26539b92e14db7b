"""Plans of campaigns: how long one takes, and which devices it will never reach, before it goes on."""

import asyncio
import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice

from attrs import frozen
from msgspec.structs import replace

from fleetcore.errors import Conflict, Unavailable
from fleetcore.fleet.campaigns import UNFINISHED, Campaigns
from fleetcore.fleet.eligibility import EligibilityJudge
from fleetcore.fleet.plan_worker import Part, Task, courses, packed
from fleetcore.fleet.update_policy import Target, UpdatePolicy
from fleetcore.fleet.updates import DEVICE_RETIRED, Updates
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.waits import end_process
from fleetcore.model.firmware import Campaign, CampaignState, Execution, ExecutionState
from fleetcore.rollout.crowd import fits
from fleetcore.rollout.eligibility import Facts
from fleetcore.rollout.simulation import Behaviour, Course
from fleetcore.rollout.steps import first_needed, image_at, members_of

#: Executions that are simulated in all: a larger campaign has fewer courses.
_SIMULATED = 400_000
#: From so many devices on they are simulated on arrays, where that is possible; and how many then, in all.
CROWD, SIMULATED_CROWD = 3000, 10_000_000
MAX_COURSES = 50
#: Devices that are named with the reason why they never get an offer.
_NAMED = 100
#: The longest time for all courses; a million devices take some minutes.
_TIMEOUT_S = 600.0


@frozen(kw_only=True)
class Plan:
    """What a campaign does from now on, if devices behave as assumed.

    Attributes:
        courses: simulated ones, the shortest first.
        refused: how many devices would be refused the offer, by code; ``named`` are the first of them.
        stuck: how many devices could not be brought back by a rollback, by code; all have ``no_rollback`` where the
            campaign names no version for it.
        held: how many devices may not install now, by code; ``held_devices`` are the first of them.
    """

    courses: Sequence[Course]
    refused: Mapping[str, int]
    named: Mapping[str, str]
    stuck: Mapping[str, int]
    held: Mapping[str, int]
    held_devices: Mapping[str, str]

    def duration_ms(self, share: float) -> int:
        """The duration that another course does not exceed with a probability of ``share`` (0 to 1).

        The rank is that of ``share * (n + 1)``, rounded away from the middle: between 0.1 and 0.9 lie at least 8 of 10
        further courses in the mean, with 20 courses or more.
        """
        rank = share * (len(self.courses) + 1)
        at = (math.floor(rank) if share < 0.5 else math.ceil(rank)) - 1
        return self.courses[max(0, min(len(self.courses) - 1, at))].duration_ms


class Plans:
    """Simulates campaigns in a process of its own, so that the server goes on meanwhile; one at a time."""

    def __init__(
        self,
        campaigns: Campaigns,
        updates: Updates,
        update_policy: UpdatePolicy,
        eligibility: EligibilityJudge,
        clock: Clock,
    ) -> None:
        self._campaigns, self._updates, self._update_policy, self._clock = campaigns, updates, update_policy, clock
        self._eligibility = eligibility
        self._turn = asyncio.Lock()

    async def plan(self, campaign: str, behaviour: Behaviour) -> Plan:
        """The plan of a campaign from its present state on, whether it runs or is paused.

        Raises:
            NotFound: there is no such campaign.
            Conflict: ``illegal_transition``, it has ended, or is a draft.
            Unavailable: the simulation took too long.
        """
        found = await self._campaigns.get(campaign)
        if found.state not in UNFINISHED or found.state is CampaignState.DRAFT:
            raise Conflict(
                f"The campaign {campaign!r} is {found.state}: nothing is left to plan", code="illegal_transition",
                campaign=campaign,
            )  # fmt: skip
        async with self._turn:
            process = await self._started()
            try:
                async with asyncio.timeout(_TIMEOUT_S):
                    sent, said = await asyncio.gather(self._send(process, found, behaviour), _answered(process))
            except TimeoutError:
                raise Unavailable("The plan took too long", remedy="Plan fewer devices", retry_after_s=60.0) from None
            finally:
                await end_process(process)
        refused, held, stuck = sent
        made = sorted(courses(said), key=lambda course: course.duration_ms)
        return Plan(
            courses=made, refused=Counter(refused.values()), named=_first(refused), held=Counter(held.values()),
            held_devices=_first(held), stuck=stuck,
        )  # fmt: skip

    async def _started(self) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "fleetcore.fleet.plan_worker", stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE, limit=1 << 26,
        )  # fmt: skip

    async def _send(
        self, process: asyncio.subprocess.Process, campaign: Campaign, behaviour: Behaviour
    ) -> tuple[dict[str, str], dict[str, str], Counter[str]]:
        """Sends the task and the executions; returns the devices that would be refused and those held, with codes.

        Also returns how many could not be brought back, by code.
        """
        assert process.stdin is not None
        count = max(1, (await self._campaigns.counts(campaign.id)).total)
        matters = await self._eligibility.matters(campaign)
        crowd = count >= CROWD and not matters and fits(campaign)
        seeds = tuple(range(max(1, min(MAX_COURSES, (SIMULATED_CROWD if crowd else _SIMULATED) // count))))
        task = Task(campaign=campaign, behaviour=behaviour, now=self._clock.now_ms(), seeds=seeds, crowd=crowd)
        process.stdin.write(packed(task))
        refused: dict[str, str] = {}
        stuck: Counter[str] = Counter()
        held: dict[str, str] = {}
        back = _way_back(campaign)
        async for page in self._updates.pages(campaign):
            targets = await self._updates.targets(each.device for each in page)
            kept = []
            for each in page:
                foreseen, code = self._foreseen(campaign, each, targets.get(each.device))
                if code is not None:
                    refused[each.device] = code
                    continue
                kept.append(foreseen)
                no_way = self._no_way_back(back, targets.get(each.device))
                if no_way is not None:
                    stuck[no_way] += 1
            facts: dict[str, Facts] = {}
            if matters:
                waiting = [each for each in kept if each.state is ExecutionState.WAITING]
                judged = await asyncio.gather(*(self._eligibility.judge(campaign, each) for each in waiting))
                for each, judgement in zip(waiting, judged, strict=True):
                    facts[each.id] = judgement.expected
                    if judgement.held is not None:
                        held[each.device] = judgement.held.code
            if kept:
                process.stdin.write(packed(Part(kept, facts)))
                await process.stdin.drain()
        process.stdin.write(packed(Part([], {})))
        await process.stdin.drain()
        process.stdin.close()
        return refused, held, stuck

    def _no_way_back(self, back: Campaign | None, target: Target | None) -> str | None:
        """Why a rollback would not reach a device; None where it would."""
        if back is None:
            return "no_rollback"
        return DEVICE_RETIRED if target is None else self._update_policy.refusal(back, target)

    def _foreseen(
        self, campaign: Campaign, execution: Execution, target: Target | None
    ) -> tuple[Execution, str | None]:
        """An execution at the step that its device is offered next, and why one of the images would be refused."""
        if execution.state is not ExecutionState.WAITING:
            return execution, None
        if target is None:
            return execution, DEVICE_RETIRED
        target = target.within(campaign, execution)
        first = step = first_needed(campaign, execution.step, target.needs)
        while step <= len(campaign.before):
            code = self._update_policy.refusal(image_at(campaign, step), target)
            if code is not None:
                return execution, code
            target = target.having(*campaign.before[step : step + 1])
            step = first_needed(campaign, step + 1, target.needs)
        return replace(execution, step=first), None


def _way_back(campaign: Campaign) -> Campaign | None:
    """The campaign of a rollback, as far as devices judge it; None where no version is known for it."""
    if campaign.rollback is None:
        return None
    return replace(
        campaign, id=f"{campaign.id}-rollback", allow_downgrade=True, **members_of(campaign.rollback)
    )  # fmt: skip


async def _answered(process: asyncio.subprocess.Process) -> bytes:
    assert process.stdout is not None
    said = await process.stdout.read()
    if await process.wait():
        raise Unavailable("The plan failed. See the server's log", retry_after_s=60.0)
    return said


def _first(codes: Mapping[str, str]) -> Mapping[str, str]:
    return dict(islice(codes.items(), _NAMED))
