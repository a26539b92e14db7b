"""Kinds of series and anomalies, apart from the columns of readings: what only names them need not load numpy."""

from enum import StrEnum


class SeriesKind(StrEnum):
    """How the values of a series are to be shown; fixed by the first reading."""

    NUMBER = "number"
    BOOLEAN = "boolean"
    TEXT = "text"


class Severity(StrEnum):
    """How much it matters, in rising order."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


#: Up to here each integer is a float64, which readings are stored as.
EXACT = 2**53
