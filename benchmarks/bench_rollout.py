"""The engine of campaigns: transitions a second, and the plan of a campaign over a million devices.

A tenth of the attempts fails and is tried again. Compared with the least that an immutable state costs: one that is
replaced with two changed members, by msgspec as the engine does it, and by attrs.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import TypeVar

import attrs
from msgspec import json as msgspec_json
from msgspec.structs import replace

from benchmarks.measure import Row, in_turn
from fleetcore.fleet.plan_worker import Part, Task, courses, packed
from fleetcore.fleet.plans import MAX_COURSES, SIMULATED_CROWD
from fleetcore.model.firmware import Campaign, Execution, ExecutionState
from fleetcore.model.rollout import FailureLimit, Rate, Retries, Rollout
from fleetcore.rollout.crowd import Crowd
from fleetcore.rollout.executions import Due, ExecutionEvent, Offered, Placed, Reported, step
from fleetcore.rollout.simulation import Behaviour

_NOW = 1_780_000_000_000
_DEVICES, _ROUNDS, _PART = 20_000, 5, 1000
_S = ExecutionState
T = TypeVar("T")
_WORK = tuple(
    Reported(state=state) for state in (_S.ACCEPTED, _S.DOWNLOADING, _S.DOWNLOADED, _S.INSTALLING, _S.REBOOTING)
)
_DONE, _FAILED = Reported(state=_S.SUCCEEDED, version="2"), Reported(state=_S.FAILED, code="download_failed")
_WELL: tuple[ExecutionEvent, ...] = (Placed(1), Offered("1"), *_WORK, _DONE)
_BADLY: tuple[ExecutionEvent, ...] = (Placed(1), Offered("1"), *_WORK[:2], _FAILED, Due(), Offered("1"), *_WORK, _DONE)


_EXECUTION = Execution(id="c:d", campaign="c", device="d")


@attrs.frozen
class _Attrs:
    state: ExecutionState
    changed: int
    attempt: int = 1
    wave: int = 0


def run(*, quick: bool = False) -> list[Row]:
    """The rows of this benchmark."""
    found = in_turn({"engine": _steps, "msgspec": _replaced, "attrs": _evolved}, _ROUNDS)
    engine, least, theirs = (sorted(each)[len(each) // 2] for each in found.values())
    return [
        Row(
            name="transitions, 10 % retried", value=engine, unit="/s", goal="≥ 150 k", met=engine >= 150_000,
            against=f"two members replaced by msgspec ({least:.3g} /s)", ratio=engine / least,
        ),
        Row(
            name="transitions, 10 % retried", value=engine, unit="/s",
            against=f"two of four members evolved by attrs ({theirs:.3g} /s)", ratio=engine / theirs,
        ),
        *_on_arrays(200_000 if quick else 1_000_000, engine),
        *_plan(100_000 if quick else 1_000_000),
    ]  # fmt: skip


def _steps() -> float:
    rollout = Rollout(retries=Retries(times=2, wait_ms=0))
    count, begun = 0, time.process_time()
    for number in range(_DEVICES):
        execution = Execution(id="c:d", campaign="c", device="d")
        for event in _BADLY if number % 10 == 0 else _WELL:
            execution = step(execution, event, _NOW, release="2", rollout=rollout).execution
            count += 1
        assert execution.state is _S.SUCCEEDED
    return count / (time.process_time() - begun)


def _replaced() -> float:
    return _each(_EXECUTION, lambda old, at: replace(old, state=_S.OFFERED, changed=at))


def _evolved() -> float:
    return _each(_Attrs(_S.WAITING, 0), lambda old, at: attrs.evolve(old, state=_S.OFFERED, changed=at))


def _each(state: T, change: Callable[[T, int], T]) -> float:
    begun = time.process_time()
    for at in range(200_000):
        state = change(state, at)
    return 200_000 / (time.process_time() - begun)


def _campaign(count: int) -> Campaign:
    """Waves, a rate, retries, and a limit on failures."""
    rollout = Rollout(
        waves=("100", "1%", "10%"), min_succeeded=0.9, rate=Rate(per_minute=20_000), retries=Retries(times=1),
        failures=(FailureLimit(share=0.2, min_executed=50),),
    )  # fmt: skip
    return Campaign(id="c", release="2", url="", targets=(), total=count, created=_NOW, rollout=rollout)


def _executions(at: int) -> list[Execution]:
    names = (f"d-{number:07d}" for number in range(at, at + _PART))
    return [Execution(id=f"c:{name}", campaign="c", device=name) for name in names]


def _on_arrays(count: int, engine: float) -> Sequence[Row]:
    """Courses of many devices on arrays: each is placed, offered and reported, a tenth once more."""
    crowd = Crowd(_campaign(count))
    for at in range(0, count, _PART):
        crowd.add(_executions(at))
    rates = []
    for seed in range(3):
        begun = time.process_time()
        course = crowd.course(_NOW, Behaviour(fails=0.1), seed)
        rates.append((count + 2 * course.offers) / (time.process_time() - begun))
    rate = median(rates)
    return [
        Row(
            name=f"the same on arrays, {count:,} devices", value=rate, unit="/s", goal="≥ 2 M", met=rate >= 2_000_000,
            against=f"one by one ({engine:.3g} /s)", ratio=rate / engine,
        )
    ]  # fmt: skip


def _plan(count: int) -> Sequence[Row]:
    """The process of ``campaign plan``, with as many courses as it has then."""
    seeds = tuple(range(max(1, min(MAX_COURSES, SIMULATED_CROWD // count))))
    task = Task(campaign=_campaign(count), behaviour=Behaviour(fails=0.1), now=_NOW, seeds=seeds, crowd=True)
    begun = time.perf_counter()
    words = [sys.executable, "-c", _WATCHED]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(packed(task))
        for at in range(0, count, _PART):
            process.stdin.write(packed(Part(_executions(at), {})))
        process.stdin.write(packed(Part([], {})))
        process.stdin.close()
        said, _, peak = process.stdout.read().rpartition(b"\n")
    seconds = time.perf_counter() - begun
    for course in courses(said):
        assert sum(course.counts.values()) == count, msgspec_json.encode(course.counts)
    mib = int(peak) / 1024
    return [
        Row(
            name=f"plan of {count:,} devices, {len(seeds)} courses",
            value=seconds,
            unit="s",
            goal="≤ 120",
            met=seconds <= 120,
        ),
        Row(name="its memory", value=mib, unit="MiB", goal="≤ 1024", met=mib <= 1024),
    ]


#: The worker, and then the peak of its memory in KiB.
_WATCHED = """
import re
from pathlib import Path
from fleetcore.fleet.plan_worker import main
main()
print("\\n" + re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1], end="")
"""
