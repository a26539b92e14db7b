"""Look-ups and pages of the operators' API as the fleet grows: their cost depends on the page, not on the fleet.

The same requests go to fleets with 1,000, 20,000 and 500,000 records of each kind, each in a separate process; the
ratio is that of the largest to the smallest.
"""

from benchmarks.earlier import COMMIT, earlier, measure
from benchmarks.measure import Row

_MODULE = "lists_child"
#: A B-tree of 500 times as many records is a page or two deeper; the rest is noise of the machine.
_MAX_GROWTH = 3.0
#: The most that this machine's noise makes of a millisecond; below it a ratio says nothing.
_NOISE_MS = 1.0


def run(*, quick: bool = False) -> list[Row]:
    """The rows of this benchmark."""
    sizes = (1_000, 20_000) if quick else (1_000, 20_000, 500_000)
    found = {count: measure(_MODULE, {"count": count, "rounds": 21}) for count in sizes}
    rows = []
    for question in found[sizes[0]]:
        figures = [found[count][question] for count in sizes]
        ratio = figures[-1] / figures[0]
        rows.append(
            Row(
                name=f"{question}, of {sizes[-1]:,}", value=figures[-1], unit="ms of processor",
                against=", ".join(f"{ms:.3g} ms of {count:,}" for count, ms in zip(sizes[:-1], figures, strict=False)),
                ratio=ratio, goal=f"≤ {_MAX_GROWTH:g} ×",
                met=ratio <= _MAX_GROWTH or figures[-1] - figures[0] <= _NOISE_MS,
            )
        )  # fmt: skip
    with earlier() as checkout:
        before = {} if checkout is None else measure(_MODULE, {"count": sizes[1], "rounds": 3}, checkout)
        for question, theirs in before.items():
            ours = found[sizes[1]][question]
            rows.append(
                Row(
                    name=f"{question}, of {sizes[1]:,}", value=ours, unit="ms of processor",
                    against=f"commit {COMMIT} ({theirs:.3g} ms)", ratio=ours / theirs,
                )
            )  # fmt: skip
    return rows
