"""Kinds of series and anomalies, apart from the columns of readings, so that naming a kind does not load numpy."""

from enum import StrEnum


class SeriesKind(StrEnum):
    """How the values of a series are displayed; fixed by the first reading."""

    NUMBER = "number"
    BOOLEAN = "boolean"
    TEXT = "text"


class Severity(StrEnum):
    """How much it matters, in rising order."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


#: Up to here each integer is a float64, the form in which readings are stored.
EXACT = 2**53
