"""When certificates expire, and which devices depend on a CA: counted from the inventory at each request.

A certificate that its successor is about to replace is not counted: its end is harmless. ``late`` are those whose
device should have renewed by now and has not.
"""

import datetime as dt
import heapq
from bisect import bisect_right
from collections import Counter
from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from enum import StrEnum

from attrs import field, frozen
from cryptography import x509

from fleetcore.errors import Refused
from fleetcore.fleet.security.authority import TrustBundle, key_id
from fleetcore.fleet.security.inventory import CertificateRecord
from fleetcore.fleet.security.profiles import common_name
from fleetcore.fleet.security.rotation import RENEW_ISSUING_AT

#: A root's successor is due at this part of its life: devices take long to accept a new one.
_ROTATE_AT = 0.8

#: The most periods of an answer.
MAX_PERIODS = 520

#: The most late renewals and next expiries in an answer.
MAX_NAMED = 1000


class Period(StrEnum):
    """The periods: calendar weeks from Monday, or months, in UTC."""

    WEEK = "week"
    MONTH = "month"


@frozen(kw_only=True)
class Bucket:
    """How many certificates expire in ``start <= end < until`` (ms since the epoch), and of which devices."""

    start: int
    until: int
    count: int = 0
    by: Mapping[str, int] = field(factory=dict)


@frozen(kw_only=True)
class Ending:
    """A certificate that expires soon."""

    device: str
    certificate: str
    not_after: int
    renew_after: int


@frozen(kw_only=True)
class CaStanding:
    """A CA, and its state.

    Attributes:
        id: its key identifier, hex; certificates refer to their issuer by it.
        kind: ``root``, ``issuing`` or ``cross``.
        state: ``signs``, ``trusted``, or ``former`` where only its revocation list is still made.
        key: ``here``, ``offline``, or ``none`` for a cross certificate.
        due: when its successor is due, ms since the epoch.
        certificates: the number of valid certificates that it issued to devices.
    """

    id: str
    kind: str
    number: int
    name: str
    state: str
    key: str
    not_before: int
    not_after: int
    due: int
    certificates: int = 0


@frozen(kw_only=True)
class Forecast:
    """The forecast of expiries.

    Attributes:
        certificates: how many are valid, including those of ``late``.
        later: how many expire after the last bucket.
        next: the next to expire.
        late: those past their time to renew, the first to expire first.
    """

    time: int
    certificates: int
    buckets: tuple[Bucket, ...]
    later: int
    next: tuple[Ending, ...]
    late: tuple[Ending, ...]
    late_count: int


def period_starts(now_ms: int, per: Period, count: int) -> list[int]:
    """The starts of ``count`` periods, beginning with the one that contains ``now_ms``, and the end of the last."""
    day = dt.datetime.fromtimestamp(now_ms / 1000, dt.UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    starts = []
    for number in range(count + 1):
        if per is Period.WEEK:
            start = day - dt.timedelta(days=day.weekday()) + dt.timedelta(weeks=number)
        else:
            years, month = divmod(day.month - 1 + number, 12)
            start = day.replace(year=day.year + years, month=month + 1, day=1)
        starts.append(int(start.timestamp()) * 1000)
    return starts


async def forecast(
    records: AsyncIterable[CertificateRecord],
    now_ms: int,
    *,
    per: Period = Period.WEEK,
    periods: int = 12,
    most: int = 10,
    labels: Callable[[str], Iterable[str]] | None = None,
    only: Callable[[str], bool] = lambda _device: True,
) -> Forecast:
    """Counts valid certificates by their expiry.

    Args:
        labels: the labels that a device is also counted under: its type, its groups.
        only: which devices are counted.

    Raises Refused for more periods or names than an answer may have.
    """
    if not 1 <= periods <= MAX_PERIODS or not 0 <= most <= MAX_NAMED:
        raise Refused(f"A forecast has 1 to {MAX_PERIODS} periods and names up to {MAX_NAMED} certificates")
    starts = period_starts(now_ms, per, periods)
    counts, by = [0] * periods, [Counter[str]() for _ in range(periods)]
    total = later = 0
    endings: list[Ending] = []
    late: list[Ending] = []
    async for record in records:
        if record.ended_at is not None or not only(record.device):
            continue
        total += 1
        ending = Ending(
            device=record.device,
            certificate=record.id,
            not_after=record.not_after,
            renew_after=record.renew_after,
        )
        endings.append(ending)
        if now_ms >= record.renew_after:
            late.append(ending)
        at = bisect_right(starts, record.not_after) - 1
        if at >= periods:
            later += 1
            continue
        counts[at] += 1
        for label in labels(record.device) if labels is not None else ():
            by[at][label] += 1
    buckets = [
        Bucket(start=start, until=until, count=count, by=dict(sorted(labelled.items())))
        for start, until, count, labelled in zip(starts, starts[1:], counts, by, strict=False)
    ]
    return Forecast(
        time=now_ms,
        certificates=total,
        buckets=tuple(buckets),
        later=later,
        next=tuple(heapq.nsmallest(most, endings, key=_end)),
        late=tuple(heapq.nsmallest(most, late, key=_end)),
        late_count=len(late),
    )


def _end(ending: Ending) -> tuple[int, str]:
    return ending.not_after, ending.certificate


def ca_standings(trust: TrustBundle, living: Mapping[str, int]) -> list[CaStanding]:
    """Every CA of a trust; ``living`` counts the valid certificates of each by its id."""
    found = [
        _standing(
            root.certificate, "root", root.number, "trusted", "offline" if root.key is None else "here", _ROTATE_AT
        )
        for root in trust.roots
    ]
    for item in (*trust.issuing, *trust.former):
        state = "former" if item in trust.former else "signs" if item.number == trust.signing else "trusted"
        found.append(
            _standing(item.certificate, "issuing", item.number, state, "here", RENEW_ISSUING_AT, living.get(item.id, 0))
        )
    newest = trust.roots[-1].number
    return found + [_standing(cross, "cross", newest, "trusted", "none", 1.0) for cross in trust.cross]


def _standing(
    certificate: x509.Certificate, kind: str, number: int, state: str, key: str, due: float, certificates: int = 0
) -> CaStanding:
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return CaStanding(
        id=key_id(certificate),
        kind=kind,
        number=number,
        name=common_name(certificate.subject) or "",
        state=state,
        key=key,
        not_before=_ms(begins),
        not_after=_ms(ends),
        due=_ms(begins + (ends - begins) * due),
        certificates=certificates,
    )


def _ms(time: dt.datetime) -> int:
    return int(time.timestamp()) * 1000


@frozen(kw_only=True)
class Dependent:
    """A device with valid certificates of a CA; ``sole_certificate`` where it has none of another trusted CA."""

    device: str
    certificates: int
    sole_certificate: bool


async def dependents_on(
    records: AsyncIterable[CertificateRecord], ca: str, trusts: Callable[[str], bool]
) -> list[Dependent]:
    """The devices whose certificates depend on a CA, those without others first."""
    theirs, others = Counter[str](), set[str]()
    async for record in records:
        if record.issuer == ca:
            theirs[record.device] += 1
        elif trusts(record.issuer):
            others.add(record.device)
    found = [
        Dependent(device=device, certificates=count, sole_certificate=device not in others)
        for device, count in theirs.items()
    ]
    return sorted(found, key=lambda item: (not item.sole_certificate, item.device))
