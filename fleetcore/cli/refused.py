"""Readings that were refused, at the end of a command: how many for which reason, what to do, and the exit code."""

from collections.abc import Iterator, Mapping

from fleetcore.cli.exits import PARTLY
from fleetcore.errors import CODES
from fleetcore.model.names import METRIC_IN_WORDS

#: What to do about a reason, whichever command the readings came by; a command adds its own options.
_HINTS = {
    "metric_name_invalid": f"{METRIC_IN_WORDS}: rename the column",
    "too_many_metrics": "`metrics` in [limits] says how many a device may have; is the file long, not wide?",
    "number_not_finite": "leave such a cell empty",
    "number_inexact": "store such numbers as text",
}


def by_reason(reasons: Mapping[str, int], hints: Mapping[str, str]) -> Iterator[str]:
    """A line for each reason; ``hints`` are the command's own, and come before those of every command."""
    known = {**_HINTS, **hints}
    for code, count in sorted(reasons.items()):
        said = known.get(code) or (CODES[code].title if code in CODES else "")
        yield f"  {code} {count}" + (f": {said}" if said else "")


def exit_code(refused: int) -> int:
    """What a command ends with that did all it was asked to but for ``refused`` readings."""
    return PARTLY if refused else 0
