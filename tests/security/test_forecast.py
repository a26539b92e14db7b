"""What ends when, against a count by brute force; and what hangs on a CA."""

import datetime as dt
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetcore.errors import NotFound, Refused
from fleetcore.fleet.security import CertificateRecord
from fleetcore.fleet.security.forecast import Period, forecast, period_starts
from fleetcore.fleet.security.inventory import renew_after
from fleetcore.model.credential import CertificateState

from .conftest import DAY, csr, der, leaf_of

NOW = 1_767_225_600_000


def record(number, not_after, *, ended_at=None):
    return CertificateRecord(
        id=f"ca:{number:x}",
        device=f"d{number % 7}",
        issuer="ca",
        serial=f"{number:x}",
        spki="",
        state=CertificateState.ACTIVE,
        created=NOW,
        not_before=not_after - 90 * DAY,
        not_after=not_after,
        renew_after=renew_after(f"d{number % 7}", not_after - 90 * DAY, not_after),
        how="token:x",
        pem="",
        ended_at=ended_at,
    )


async def each(records):
    for one in records:
        yield one


def key_of(time, per):
    """The calendar's own word for the period of a time."""
    at = dt.datetime.fromtimestamp(time / 1000, dt.UTC)
    return at.isocalendar()[:2] if per is Period.WEEK else (at.year, at.month)


@settings(max_examples=60, deadline=None)
@given(
    now=st.integers(NOW, NOW + 900 * DAY),
    ends=st.lists(st.integers(0, 400 * DAY), max_size=40),
    replaced=st.sets(st.integers(0, 39)),
    per=st.sampled_from(Period),
    periods=st.integers(1, 30),
)
async def test_every_certificate_is_counted_in_its_week_or_month_once(now, ends, replaced, per, periods):
    records = [record(n, now + end, ended_at=now if n in replaced else None) for n, end in enumerate(ends)]

    found = await forecast(each(records), now, per=per, periods=periods, most=5, labels=lambda device: [device, "all"])

    counted = [one for one in records if one.ended_at is None]
    wanted = Counter(key_of(one.not_after, per) for one in counted)
    in_reach = [key_of(bucket.start, per) for bucket in found.buckets]
    assert [bucket.count for bucket in found.buckets] == [wanted[key] for key in in_reach]
    assert found.later == sum(count for key, count in wanted.items() if key not in in_reach)
    assert found.certificates == len(counted)
    assert in_reach[0] == key_of(now, per)
    for bucket in found.buckets:
        devices = Counter(one.device for one in counted if bucket.start <= one.not_after < bucket.until)
        assert bucket.by == ({**devices, "all": bucket.count} if bucket.count else {})
    by_end = sorted(counted, key=lambda one: (one.not_after, one.id))
    assert [one.certificate for one in found.next] == [one.id for one in by_end[:5]]
    late = [one.id for one in by_end if now >= one.renew_after]
    assert ([one.certificate for one in found.late], found.late_count) == (late[:5], len(late))


@pytest.mark.parametrize(
    ("now", "starts"),
    [
        ("2026-12-31T23:59:59Z", ["2026-12-01", "2027-01-01", "2027-02-01"]),
        ("2027-01-31T00:00:00Z", ["2027-01-01", "2027-02-01", "2027-03-01"]),
    ],
)
def test_months_go_over_the_end_of_a_year(now, starts):
    at = int(dt.datetime.fromisoformat(now).timestamp() * 1000)

    found = period_starts(at, Period.MONTH, 2)

    assert [dt.datetime.fromtimestamp(one / 1000, dt.UTC).date().isoformat() for one in found] == starts


async def test_more_than_an_answer_has_is_refused():
    for options in ({"periods": 0}, {"periods": 521}, {"most": 1001}):
        with pytest.raises(Refused):
            await forecast(each([]), NOW, **options)


async def enrolled(manager, registry, name):
    await registry.register(name, "sensor")
    return await manager.issue(csr(name))


async def test_a_device_is_late_until_it_has_renewed_and_expired_ones_are_no_longer_counted(manager, registry, clock):
    await enrolled(manager, registry, "prompt")
    await enrolled(manager, registry, "late")
    clock.jump(67 * DAY)
    new = leaf_of(await manager.renew("prompt", csr("prompt")))

    found = await manager.forecast(periods=30)

    # The one that is being replaced ends without harm, and is in nobody's way.
    assert ([one.device for one in found.late], found.certificates) == (["late"], 2)
    await manager.identify(der(new))
    clock.jump(25 * DAY)
    later = await manager.forecast(periods=30)
    assert (later.certificates, [one.device for one in later.next], later.late_count) == (1, ["prompt"], 0)


async def test_an_incident_names_who_hangs_on_a_ca_alone_first(manager, registry):
    for name in ("a", "b", "c"):
        await enrolled(manager, registry, name)
    lost = manager.authority.issuer
    await manager.rotation.renew_issuing(actor="ann")
    await manager.identify(der(leaf_of(await manager.renew("a", csr("a")))))
    await manager.renew("b", csr("b"))
    await enrolled(manager, registry, "d")

    found = await manager.incident(lost)

    assert [(one.device, one.certificates, one.sole_certificate) for one in found] == [("c", 1, True), ("b", 1, False)]
    with pytest.raises(NotFound):
        await manager.incident("nobody")


async def test_the_cas_are_told_with_what_lives_below_each(manager, registry):
    await enrolled(manager, registry, "a")
    await manager.rotation.begin(actor="ann")
    await manager.rotation.issue(actor="ann")
    await enrolled(manager, registry, "b")

    found = [(one.kind, one.number, one.state, one.key, one.certificates) for one in await manager.cas()]

    assert found == [
        ("root", 1, "trusted", "here", 0),
        ("root", 2, "trusted", "here", 0),
        ("issuing", 1, "trusted", "here", 1),
        ("issuing", 2, "signs", "here", 1),
        ("cross", 2, "trusted", "none", 0),
    ]
    await manager.rotation.retire(force=True, actor="ann")
    assert [(one.kind, one.state, one.certificates) for one in await manager.cas()] == [
        ("root", "trusted", 0),
        ("issuing", "signs", 1),
        ("issuing", "former", 1),
    ]


async def test_an_issuing_ca_is_due_at_half_its_life(manager):
    (_, issuing) = await manager.cas()

    assert abs(issuing.due - (issuing.not_before + issuing.not_after) // 2) <= 1000


async def test_a_chain_is_judged_by_its_first_certificate(manager, registry):
    record = await enrolled(manager, registry, "a")

    report = await manager.validate(record.pem.encode() + manager.authority.chain_pem())
    ca = await manager.validate(manager.authority.chain_pem())
    nothing = await manager.validate(b"-----BEGIN CERTIFICATE-----\n")

    assert (report.valid, report.device, report.state) == (True, "a", "active")
    assert (ca.refusal, nothing.refusal) == ("is_ca", "unreadable")
