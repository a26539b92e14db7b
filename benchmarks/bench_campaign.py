"""The end of a campaign: processor time per device, as the number of its devices grows.

Each device fetches its offer and reports accepted, downloading, succeeded. The last 400 are measured, because each of
their reports counts the devices under way.
"""

from benchmarks.earlier import measure
from benchmarks.measure import Row

_MODULE, _LAST = "campaign_child", 400
_MAX_GROWTH = 1.5


def run(*, quick: bool = False) -> list[Row]:
    """The rows of this benchmark."""
    sizes = (400, 1_600, 10_000) if quick else (400, 1_600, 10_000, 100_000)
    ours = {count: _cpu_ms(count) for count in sizes}
    return [
        Row(
            name=f"a device of {count:,}, to its end", value=ours[count], unit="ms of processor",
            against=f"of {sizes[0]} ({ours[sizes[0]]:.3g} ms)", ratio=ours[count] / ours[sizes[0]],
            goal=f"≤ {_MAX_GROWTH:g} ×", met=ours[count] <= _MAX_GROWTH * ours[sizes[0]],
        )
        for count in sizes
    ]  # fmt: skip


def _cpu_ms(count: int) -> float:
    found = measure(_MODULE, {"count": count, "last": _LAST})
    return float(found["cpu_ms"])
