"""Refused readings at the end of a command: how many for which reason, the remedies, and the exit code."""

from collections.abc import Iterator, Mapping

from fleetcore.cli.exits import PARTLY
from fleetcore.errors import CODES
from fleetcore.model.names import METRIC_IN_WORDS

#: The remedy for a reason, the same for all commands; a command adds its own options.
_HINTS = {
    "metric_name_invalid": f"{METRIC_IN_WORDS}: rename the column",
    "too_many_metrics": "`metrics` in [limits] is a device's maximum; for a long file, name its columns",
    "number_not_finite": "leave such a cell empty",
    "number_inexact": "store such numbers as text",
}


def by_reason(reasons: Mapping[str, int], hints: Mapping[str, str]) -> Iterator[str]:
    """A line for each reason; ``hints`` are the command's own, and precede the common ones."""
    known = {**_HINTS, **hints}
    for code, count in sorted(reasons.items()):
        said = known.get(code) or (CODES[code].title if code in CODES else "")
        yield f"  {code} {count}" + (f": {said}" if said else "")


def exit_code(refused: int) -> int:
    """The exit code of a command that succeeded except for ``refused`` readings."""
    return PARTLY if refused else 0
