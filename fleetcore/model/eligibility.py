"""When a device may install an update: windows, freezes, a requirement, its battery, its user's consent."""

from collections.abc import Sequence
from enum import StrEnum

from attrs import frozen


class Hold(StrEnum):
    """Why a device does not get its offer, or does not install, yet; the ``code`` of its execution."""

    OUTSIDE_WINDOW = "outside_window"
    FROZEN = "frozen"
    START_SPREAD = "start_spread"
    REQUIREMENT_UNMET = "requirement_unmet"
    BATTERY_LOW = "battery_low"
    CONSENT_MISSING = "consent_missing"
    CAMPAIGN_PAUSED = "campaign_paused"


@frozen(kw_only=True)
class Eligibility:
    """What has to hold before a device installs. A device for which it does not hold waits; it never fails for it.

    Attributes:
        windows: recurring times, each five cron fields and a duration: ``0 2 * * * 4h``. Without any, always.
        zone: the IANA time zone of the windows; empty for each device's own.
        spread_ms: the most that a device begins later, so that they do not begin together.
        requirement: a query that has to select the device; empty for any.
        min_battery: percent of charge that a device on battery needs; one that charges needs none.
        site_limit: how many devices of a site (``attributes.site``) are updated at once; 0 for any number.
        consent: whether a user has to agree first.
        download_early: whether a device may download before all that holds, and installs then.
        max_deferral_ms: how long a device's user may put off the update, from the first offer on.
        emergency: why windows, freezes, spread and consent do not count; empty if they do.
    """

    windows: tuple[str, ...] = ()
    zone: str = ""
    spread_ms: int = 0
    requirement: str = ""
    min_battery: float = 0.0
    site_limit: int = 0
    consent: bool = False
    download_early: bool = False
    max_deferral_ms: int | None = None
    emergency: str = ""


#: At any time, on any device.
ANY_TIME = Eligibility()


@frozen(kw_only=True)
class Freeze:
    """A time in which no device that a query selects begins to install.

    Attributes:
        begin, end: ms since the epoch; without an end, until it is removed.
        where: a query; empty for all devices.
        by: the operator who set it.
    """

    id: str
    begin: int
    end: int | None = None
    where: str = ""
    reason: str = ""
    by: str = ""
    version: int = 0

    def covers(self, now: int) -> bool:
        """Whether a time in ms is in it."""
        return self.begin <= now and (self.end is None or now < self.end)


def in_force(freezes: Sequence[Freeze], now: int) -> Sequence[Freeze]:
    """The freezes of a time."""
    return [freeze for freeze in freezes if freeze.covers(now)]
