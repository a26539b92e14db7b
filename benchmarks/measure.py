"""How everything here is measured: candidates in turn, several rounds, medians, and ratios within the round.

The machine may be shared and noisy: absolute figures are for orientation, the ratios are what is claimed.
"""

import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from attrs import frozen


@frozen(kw_only=True)
class Row:
    """One line of the table: a figure, what it is compared with, and the ratio that is claimed."""

    name: str
    value: float
    unit: str
    against: str = ""
    ratio: float | None = None
    goal: str = ""
    met: bool | None = None


def program(name: str, without: str) -> str | None:
    """Where a program is, in this environment or on the system; None, and a line that says what is left out."""
    beside = str(Path(sys.executable).parent)
    found = shutil.which(name, path=os.pathsep.join([beside, os.environ.get("PATH", ""), os.defpath]))
    if found is None:
        print(f"{name} is not installed (`sh scripts/services.sh bench`): {without}", file=sys.stderr)
    return found


#: A process starts with the peak of its parent's memory, so a small process starts the program that is measured.
_TIMER = """
import os, sys, time
begun = time.perf_counter()
nothing = os.open(os.devnull, os.O_WRONLY)
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=[
    (os.POSIX_SPAWN_DUP2, nothing, 1), (os.POSIX_SPAWN_DUP2, nothing, 2),
])
_, status, used = os.wait4(pid, 0)
print(os.waitstatus_to_exitcode(status), time.perf_counter() - begun, used.ru_maxrss / 1024)
"""


def timed_program(words: list[str]) -> tuple[float, float]:
    """Seconds that a program takes, and the peak of its resident memory in MiB; raises when it fails.

    Args:
        words: the program's path, and its arguments.
    """
    timer = [sys.executable, "-S", "-c", _TIMER, *words]
    code, seconds, mib = subprocess.run(timer, capture_output=True, text=True, check=True).stdout.split()
    if int(code):
        raise RuntimeError(f"{words} ended with {code}")
    return float(seconds), float(mib)


def in_turn(candidates: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Each candidate's figure per round, measured in turn: A B C A B C and so on."""
    found: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, run in candidates.items():
            found[name].append(run())
    return found


def median_ratio(ours: list[float], theirs: list[float]) -> float:
    """The median over the rounds of ours / theirs."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def at_most(name: str, ours: list[float], against: str, theirs: list[float], unit: str, limit: float) -> Row:
    """A row whose ratio must not exceed ``limit``."""
    ratio = median_ratio(ours, theirs)
    return Row(
        name=name,
        value=statistics.median(ours),
        unit=unit,
        against=f"{against} ({statistics.median(theirs):.3g} {unit})",
        ratio=ratio,
        goal=f"≤ {limit:g} ×",
        met=ratio <= limit,
    )


def at_least(name: str, ours: list[float], against: str, theirs: list[float], unit: str, limit: float) -> Row:
    """A row whose ratio must reach ``limit``."""
    ratio = median_ratio(ours, theirs)
    return Row(
        name=name,
        value=statistics.median(ours),
        unit=unit,
        against=f"{against} ({statistics.median(theirs):.3g} {unit})",
        ratio=ratio,
        goal=f"≥ {limit:g} ×",
        met=ratio >= limit,
    )


def without_goal(row: Row) -> Row:
    """A comparison that shows where we stand and has no goal."""
    return Row(name=row.name, value=row.value, unit=row.unit, against=row.against, ratio=row.ratio)
