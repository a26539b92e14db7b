"""A plan against the campaign that follows it: whether the real finish lies within the plan's p10 and p90.

The campaign is the fleet's own, with its store, under a clock that jumps from event to event. Its devices
fetch, install and fail at times drawn by chance with the means that the plan assumes.
"""

import asyncio
import heapq
import itertools
import random
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.measure import Row
from fleetcore import IoTFleetManager
from fleetcore.interfaces.clock import Clock
from fleetcore.model.firmware import CampaignState, ExecutionState
from fleetcore.model.rollout import Rate, Retries, Rollout
from fleetcore.rollout.simulation import Behaviour
from fleetcore.wire import messages

_ROLLOUT = Rollout(
    waves=("1%", "10%"), wave_soak_ms=600_000, rate=Rate(per_minute=120), retries=Retries(times=2), min_succeeded=0.9
)
_BEHAVIOUR = Behaviour(fetch_s=60.0, install_s=300.0, fails=0.02)
_RELEASE = "2.0.0"
_TICK_MS = 1000
#: The share of real finishes that the plan has to hold, and its width as a share of the duration.
_HELD, _WIDTH = 0.8, 0.25


class _Jumping(Clock):
    """A clock that is set; nothing that sleeps wakes, so the fleet's background work is called here."""

    def __init__(self) -> None:
        self.ms = 1_767_225_600_000

    def now_ms(self) -> int:
        return self.ms

    def monotonic_s(self) -> float:
        return self.ms / 1000

    async def sleep(self, seconds: float) -> None:
        await (asyncio.sleep(0) if seconds <= 0 else asyncio.Event().wait())


def run(*, quick: bool = False) -> list[Row]:
    """The rows of this benchmark."""
    rows: list[Row] = []
    for devices, seeds in ((1000, 10),) if quick else ((1000, 100), (10_000, 10)):
        held, widths = asyncio.run(_compared(devices, seeds))
        rows += [
            Row(
                name=f"{devices:,} devices: real finishes between the plan's p10 and p90", value=sum(held), unit="",
                against=f"{seeds} campaigns", ratio=sum(held) / seeds, goal=f"≥ {_HELD:g} ×",
                met=sum(held) >= _HELD * seeds,
            ),
            Row(
                name=f"{devices:,} devices: p10 to p90 of the plan", value=100 * median(widths), unit="%",
                against="of the duration", ratio=None, goal=f"≤ {100 * _WIDTH:g} %", met=max(widths) <= _WIDTH,
            ),
        ]  # fmt: skip
    return rows


async def _compared(devices: int, seeds: int) -> tuple[list[bool], list[float]]:
    held: list[bool] = []
    widths: list[float] = []
    for seed in range(seeds):
        with TemporaryDirectory() as folder:
            low, high, real = await _once(Path(folder), devices, seed)
        held.append(low <= real <= high)
        widths.append((high - low) / real)
    return held, widths


async def _once(folder: Path, devices: int, seed: int) -> tuple[int, int, int]:
    """The plan's p10 and p90, and the real duration, in ms."""
    clock, chance = _Jumping(), random.Random(seed)  # a simulation has no secrets
    async with IoTFleetManager(folder, clock=clock) as manager:
        fleet = await manager.open()
        names = [f"d-{seed}-{number}" for number in range(devices)]
        for at in range(0, devices, 200):
            await asyncio.gather(*(fleet.devices.register(name, "sensor") for name in names[at : at + 200]))
        await fleet.campaigns.create(
            "c",
            _RELEASE,
            names,
            "https://example.com/fw",
            sha256="ab" * 32,
            size=1000,
            rollout=_ROLLOUT,
            hold=True,
        )
        plan = await fleet.plans.plan("c", _BEHAVIOUR)
        events: list[tuple[int, int, str, str]] = []
        order = itertools.count()

        def later(mean_s: float, what: str, device: str) -> None:
            when = clock.ms + round(chance.expovariate(1 / mean_s) * 1000)
            heapq.heappush(events, (when, next(order), what, device))

        #: Devices that were told and have not fetched yet: told again, they fetch no earlier.
        told: set[str] = set()

        def tell(device: str) -> None:
            if device not in told:
                told.add(device)
                later(_BEHAVIOUR.fetch_s, "fetch", device)

        async def fetch(device: str) -> None:
            told.discard(device)
            execution = await fleet.campaigns.execution("c", device)
            if execution is None or execution.state is not ExecutionState.WAITING:
                return
            if await fleet.updates.offer(device) is not None:
                later(_BEHAVIOUR.install_s, "report", device)

        async def report(device: str) -> None:
            failed = chance.random() < _BEHAVIOUR.fails
            body = messages.FirmwareStatus(
                execution=f"c:{device}", state="failed" if failed else "succeeded", version=_RELEASE,
                code="internal" if failed else None,
            )  # fmt: skip
            await fleet.updates.status(device, body)

        fleet.updates.on_offer(tell)
        begun = clock.ms
        await fleet.campaigns.resume("c")
        tick = clock.ms
        while True:
            while events and events[0][0] <= tick:
                clock.ms, _, what, device = heapq.heappop(events)
                await (fetch(device) if what == "fetch" else report(device))
            clock.ms = tick
            await fleet.campaigns.tick()
            found = await fleet.campaigns.get("c")
            if found.state is not CampaignState.RUNNING:
                break
            tick += _TICK_MS
        assert found.state is CampaignState.SUCCEEDED, found.reason
        return plan.duration_ms(0.1), plan.duration_ms(0.9), (found.finished_at or clock.ms) - begun
