"""Importing a large fleet: devices per second and peak memory, as the number of devices grows.

Each import runs in a separate process, configured like a server; rows come in parts, and the clock stops when every
device is registered, its event is in the feed and its audit row is sealed.
"""

import statistics
from functools import partial
from pathlib import Path

from benchmarks.earlier import COMMIT, earlier, measure
from benchmarks.measure import Row, at_least, in_turn

_MODULE = "import_child"
#: Megabytes that an import may add to the process, however many devices it has.
_BOUND_MIB = 300.0


def run(*, quick: bool = False) -> list[Row]:
    """The rows of this benchmark."""
    small, large, rounds = (20_000, 60_000, 3) if quick else (100_000, 1_000_000, 3)
    found = {}
    rows = []
    for count in (small, large):
        found[count] = measure(_MODULE, {"count": count, "settle": True})
        peak = found[count]["peak_mib"]
        rows += [
            Row(name=f"import of {count:,} devices", value=count / found[count]["s"], unit="devices/s"),
            Row(
                name=f"peak memory for {count:,} devices", value=peak, unit="MiB",
                goal=f"≤ {_BOUND_MIB:g} MiB", met=peak <= _BOUND_MIB,
            ),
        ]  # fmt: skip
    rate = {count: count / found[count]["s"] for count in found}
    rows.append(
        Row(
            name="rate of the larger import", value=rate[large], unit="devices/s",
            against=f"the smaller ({rate[small]:.4g} devices/s)", ratio=rate[large] / rate[small],
        )
    )  # fmt: skip
    with earlier() as checkout:
        if checkout is None:
            return rows
        candidates = {
            "ours": partial(_rate, small, settle=True),
            "before": partial(_rate, small, settle=False, checkout=checkout),
            "before, settled": partial(_rate, small, settle=True, checkout=checkout),
        }
        rates = in_turn(candidates, rounds)
        name, unit = f"import of {small:,} devices", "devices/s"
        rows.append(
            at_least(name, rates["ours"], f"commit {COMMIT}, as its benchmark ran it", rates["before"], unit, 3)
        )
        ratio = statistics.median(rates["ours"]) / statistics.median(rates["before, settled"])
        against = (
            f"commit {COMMIT}, its memory set up as ours ({statistics.median(rates['before, settled']):.4g} {unit})"
        )
        rows.append(Row(name=name, value=statistics.median(rates["ours"]), unit=unit, against=against, ratio=ratio))
    return rows


def _rate(count: int, *, settle: bool, checkout: Path | None = None) -> float:
    found = measure(_MODULE, {"count": count, "settle": settle}, checkout)
    return float(count / found["s"])
