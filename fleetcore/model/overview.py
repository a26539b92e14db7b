"""The limits of an overview of the fleet, and the orders of its devices."""

from enum import StrEnum

#: The most devices of an overview.
MAX_FIRST = 100
#: The most anomalies that it counts.
MAX_ALERTS = 200


class Order(StrEnum):
    """Which devices come first; those that were never heard from come last, but by id."""

    SILENT = "silent"
    RECENT = "recent"
    ALERTS = "alerts"
    ID = "id"
