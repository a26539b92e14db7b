"""What is known about a device that decides whether it may install now; judged at each offer."""

import importlib.util
from collections.abc import Mapping
from functools import lru_cache
from typing import cast

from fleetcore.errors import Refused
from fleetcore.fleet.documents import Document
from fleetcore.fleet.freezes import Freezes
from fleetcore.fleet.search import Search, parts_of
from fleetcore.interfaces.clock import Clock
from fleetcore.model.eligibility import ANY_TIME, Eligibility
from fleetcore.model.firmware import Campaign, Execution
from fleetcore.query.evaluate import matches
from fleetcore.query.fitting import parse_new
from fleetcore.rollout.eligibility import Facts, Judgement, judge
from fleetcore.rollout.windows import Windows, check_zone, parse_window

#: The time zone of a device that gives none, and no position.
DEFAULT_ZONE = "UTC"
#: Where a device's record has its time zone and its site.
ZONE_ATTRIBUTE, SITE_ATTRIBUTE = "time_zone", "site"
_PARTS = frozenset({"attributes", "reported", "location", "power"})


def check_eligibility(wanted: Eligibility) -> None:
    """Raises Refused for windows, a zone or a requirement that cannot be read, and for a spread beyond a window."""
    for text in wanted.windows:
        if wanted.spread_ms >= parse_window(text).duration_ms:
            raise Refused(
                f"Devices that begin {wanted.spread_ms / 1000:g} s later would miss the window {text!r}",
                remedy="Give a shorter spread, or a longer window",
            )
    if wanted.zone:
        check_zone(wanted.zone)
    if wanted.requirement:
        parse_new(wanted.requirement)


class EligibilityJudge:
    """Judges devices by the eligibility of their campaign, and by the freezes."""

    def __init__(self, search: Search, freezes: Freezes, clock: Clock) -> None:
        self._search, self.freezes, self._clock = search, freezes, clock

    async def judge(self, campaign: Campaign, execution: Execution) -> Judgement:
        """Whether a device may install now; one that left may."""
        wanted, now = campaign.rollout.eligibility, self._clock.now_ms()
        facts = await self.facts(wanted, execution.device)
        windows = windows_of(() if wanted.emergency else wanted.windows)
        return judge(wanted, windows, facts, execution, campaign.begins, now)

    async def matters(self, campaign: Campaign) -> bool:
        """Whether a device of a campaign may be held at all."""
        if campaign.rollout.eligibility.emergency:
            return campaign.rollout.eligibility.min_battery > 0 or bool(campaign.rollout.eligibility.requirement)
        return campaign.rollout.eligibility != ANY_TIME or bool(await self.freezes.in_force(self._clock.now_ms()))

    async def facts(self, wanted: Eligibility, device: str) -> Facts:
        """What is known about a device, as far as its campaign asks for it."""
        freezes = () if wanted.emergency else await self.freezes.in_force(self._clock.now_ms())
        queries = [wanted.requirement, *(freeze.where for freeze in freezes)]
        clauses = {text: self._search.resolved(text) for text in queries if text}
        parts = frozenset[str]().union(*(parts_of(clause) for clause in clauses.values()))
        if wanted.min_battery or wanted.site_limit or (wanted.windows and not wanted.zone):
            parts |= _PARTS
        document = await self._search.documents.of(device, parts) if parts else {}
        if document is None:
            return Facts()
        covering = (freeze for freeze in freezes if not freeze.where or matches(clauses[freeze.where], document))
        return Facts(
            zone=wanted.zone or zone_of(document),
            battery=_battery(document),
            selected=not wanted.requirement or matches(clauses[wanted.requirement], document),
            freeze=next(covering, None),
            site=site_of(document),
        )


@lru_cache(maxsize=256)
def windows_of(windows: tuple[str, ...]) -> Windows:
    """The windows of campaigns, which share what was computed."""
    return Windows(windows)


def zone_of(document: Document) -> str:
    """A device's time zone: as its attributes or its own report say, or where it is."""
    for said in (_member(document, "attributes", ZONE_ATTRIBUTE), _member(document, "reported", ZONE_ATTRIBUTE)):
        if isinstance(said, str) and _is_zone(said):
            return said
    lat, lon = _member(document, "location", "lat"), _member(document, "location", "lon")
    if isinstance(lat, int | float) and isinstance(lon, int | float):
        return _zone_at(round(lat, 2), round(lon, 2))
    return DEFAULT_ZONE


def site_of(document: Document) -> str:
    """A device's site; empty where it has none."""
    site = _member(document, "attributes", SITE_ATTRIBUTE)
    return site if isinstance(site, str) else ""


@lru_cache(maxsize=1024)
def _is_zone(name: str) -> bool:
    try:
        check_zone(name)
    except Refused:
        return False
    return True


@lru_cache(maxsize=100_000)
def _zone_at(lat: float, lon: float) -> str:
    """The zone of a position to about a kilometre; UTC without the package that knows them."""
    if importlib.util.find_spec("tzfpy") is None:
        return DEFAULT_ZONE
    import tzfpy

    name = tzfpy.get_tz(lon, lat)
    return name if name and _is_zone(name) else DEFAULT_ZONE


def _battery(document: Document) -> float | None:
    percent, charging = _member(document, "power", "battery"), _member(document, "power", "charging")
    known = isinstance(percent, int | float) and not isinstance(percent, bool) and charging is not True
    return float(cast("float", percent)) if known else None


def _member(document: Document, part: str, name: str) -> object:
    section = document.get(part)
    return section.get(name) if isinstance(section, Mapping) else None
