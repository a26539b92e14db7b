"""Distributed processing with gateways' stores in process: equal to a run on one machine, and refused with reasons."""

import json

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetcore import IoTFleetManager
from fleetcore.errors import NotFound, Refused
from fleetcore.fleet import map_reduce, mapping
from fleetcore.fleet.mapping import MAP, Wanted, read_wanted, summarise
from fleetcore.model.sketch import ACCURACY, TINY
from fleetcore.model.store import Commit, SeriesRequest
from fleetcore.model.summaries import Summary, Table, merge_into, part_from_document
from fleetcore.model.telemetry import TelemetryBatch
from fleetcore.testing.clock import MovableClock
from fleetcore.testing.signers import START_MS
from fleetcore.wire import messages
from fleetcore.wire.strict_json import dumps

HOUR = 3_600_000
BEGIN = START_MS - 10 * HOUR
ALL = ("count", "sum", "min", "max", "mean", "p0", "p50", "p99.9", "p100")


async def stored(storage, device, values, *, metric="temperature", begin=BEGIN, every=60_000):
    """Readings, a minute from each other."""
    (series,) = await storage.intern([SeriesRequest(device, metric)])
    times = begin + every * np.arange(len(values))
    batch = TelemetryBatch.of(np.full(len(values), series.index), times, np.asarray(values, np.float64))
    await storage.commit(Commit(readings=batch))
    return times


class Agents:
    """The gateways' own stores, and what runs their commands."""

    def __init__(self, fleet):
        self.fleet, self.stores, self.outputs = fleet, {}, 0

    async def work(self, *gateways, most=1000):
        """The gateways run up to so many commands each, and the core takes the answers."""
        for gateway in gateways or self.stores:
            for _ in range(most):
                waiting = await self.fleet.commands.list(gateway, unfinished=True)
                if not waiting:
                    break
                assert waiting[0].name == MAP
                output = await summarise(self.stores[gateway], read_wanted(waiting[0].args))
                assert len(dumps(output)) <= messages.OUTPUT_BYTES
                await self.end(waiting[0], status="succeeded", output=json.loads(dumps(output)))
                await self.turn()

    async def end(self, command, **body):
        self.outputs += 1
        result = msgspec.convert(body, messages.CommandResult)
        assert await self.fleet.commands.result(command.device, command.id, result)

    async def turn(self):
        for operation in await self.fleet.operations.list(kind=map_reduce.KIND):
            await self.fleet.operations.turn(operation.id)


@pytest.fixture
async def agents(manager, fleet):
    """Three gateways with two leaves each."""
    made, open_stores = Agents(fleet), []
    for number in (1, 2, 3):
        gateway = f"gw-{number}"
        await fleet.edge.register_gateway(gateway)
        for leaf in (1, 2):
            await manager.create_device(f"leaf-{number}-{leaf}", type="pump", model=f"M-{leaf}", gateway=gateway)
        store = await IoTFleetManager(clock=MovableClock(START_MS)).__aenter__()
        open_stores.append(store)
        made.stores[gateway] = (await store.open()).storage
    yield made
    for store in open_stores:
        await store.__aexit__(None, None, None)


async def filled(agents, chance, count=400):
    """Integers at all leaves; returns (device, time, value) of all readings."""
    readings = []
    for gateway, storage in agents.stores.items():
        for leaf in (1, 2):
            device = f"leaf-{gateway[3:]}-{leaf}"
            values = chance.integers(-1000, 100_000, count)
            times = await stored(storage, device, values)
            readings += zip([device] * count, times.tolist(), values.tolist(), strict=True)
    return readings


def close(found, true):
    return abs(found - true) <= ACCURACY * abs(true) * (1 + 1e-9) + TINY


def check(values, numbers):
    """A row against numpy."""
    there = np.array(numbers)
    named = dict(zip(ALL, values, strict=True))
    assert named["count"] == len(there)
    assert (named["sum"], named["min"], named["max"]) == (there.sum(), there.min(), there.max())
    assert named["mean"] == pytest.approx(there.mean())
    for name, share in (("p0", 0), ("p50", 0.5), ("p99.9", 0.999), ("p100", 1)):
        assert close(named[name], np.quantile(there, share, method="lower"))


@pytest.mark.parametrize("by", map_reduce.BY)
@pytest.mark.parametrize("bucket_s", [None, 3600.0])
async def test_the_result_is_that_of_one_machine(fleet, agents, by, bucket_s):
    readings = await filled(agents, np.random.default_rng(1))
    started = await fleet.edge.run_distributed(
        "temperature", start=BEGIN, end=BEGIN + 5 * HOUR, bucket_s=bucket_s, by=by, aggregates=ALL, wait_s=0
    )
    await agents.turn()
    await agents.work()
    found = await fleet.edge.distributed(started.operation)

    wanted = {}
    for device, time, value in readings:
        if time < BEGIN + 5 * HOUR:
            group = {"all": "", "device": device, "model": f"M-{device[-1]}"}[by]
            start = BEGIN if bucket_s is None else time // HOUR * HOUR
            wanted.setdefault((group, start), []).append(value)
    assert (started.state, found.state, found.series) == ("running", "complete", 6)
    assert {(group, start) for _, group, start, _ in found.rows} == set(wanted)
    for _, group, start, values in found.rows:
        check(values, wanted[group, start])
    assert found.readings == sum(map(len, wanted.values()))
    assert (await fleet.operations.get(started.operation)).state == "succeeded"


async def test_many_rows_come_in_several_parts(fleet, agents):
    readings = await filled(agents, np.random.default_rng(2), count=3000)
    started = await fleet.edge.run_distributed(
        "temperature", bucket_s=600.0, start=BEGIN, end=BEGIN + 50 * HOUR, by="device", aggregates=ALL, wait_s=0
    )
    await agents.turn()
    await agents.work()
    found = await fleet.edge.distributed(started.operation)

    assert found.state == "complete"
    assert min(each.parts for each in found.gateways) > 1
    assert len(found.rows) == 6 * 300
    assert sum(values[1] for *_, values in found.rows) == sum(value for *_, value in readings)


numbers = st.floats(-1e12, 1e12, allow_nan=False) | st.integers(-(2**40), 2**40).map(float)


@given(st.lists(st.lists(numbers, max_size=40), max_size=5))
def test_merged_summaries_are_those_of_numpy_over_all(parts):
    table, everything = Table(), np.array([value for part in parts for value in part])
    for part in parts:
        summary = Summary()
        for value in part:
            summary.add(np.array([value]), sketched=True)
        if part:
            merge_into(table, {"all": summary})

    found = table.get("all", Summary())
    assert found.count == len(everything)
    assert found.quantile(0.5) is None if not len(everything) else True
    if len(everything):
        assert (found.least, found.most) == (everything.min(), everything.max())
        assert found.total == pytest.approx(everything.sum(), rel=1e-9, abs=1e-3)
        for share in (0, 0.1, 0.5, 0.99, 1):
            assert close(found.quantile(share), np.quantile(everything, share, method="lower"))


@pytest.mark.parametrize("bucket_ms", [None, 60_000, HOUR])
@pytest.mark.parametrize("part_bytes", [1, 300, 2000])
async def test_however_it_is_divided_into_parts_it_is_the_same(fleet, monkeypatch, part_bytes, bucket_ms):
    monkeypatch.setattr(mapping, "_PART_BYTES", part_bytes)
    monkeypatch.setattr(mapping, "_STEP", 7)
    values = np.random.default_rng(part_bytes).integers(-(10**6), 10**6, 150)
    await stored(fleet.storage, "d-1", values)
    await stored(fleet.storage, "d-2", values + 1)
    table, after, parts = Table(), None, 0
    while parts == 0 or after is not None:
        wanted = Wanted(
            metric="temp*", start=BEGIN, end=2 * START_MS, bucket_ms=bucket_ms, groups={"": ["d-2", "d-1"]},
            sketched=True, after=after,
        )  # fmt: skip
        part = part_from_document(json.loads(dumps(await summarise(fleet.storage, wanted))))
        merge_into(table, part.table)
        assert part.next is None or after is None or part.next > after
        after, parts = part.next, parts + 1

    assert parts > 1
    whole = np.concatenate([values, values + 1])
    assert sum(each.count for each in table.values()) == 300
    assert sum(each.total for each in table.values()) == whole.sum()
    merged = Summary()
    for each in table.values():
        merged.merge(each)
    for share in (0, 0.25, 0.5, 0.99, 1):
        assert close(merged.quantile(share), np.quantile(whole, share, method="lower"))


@pytest.mark.parametrize(
    ("more", "code", "remedy"),
    [
        ({"metric": "te mp"}, "metric_name_invalid", ""),
        ({"start": BEGIN, "end": BEGIN}, "range_invalid", "later end"),
        ({"start": START_MS + HOUR}, "range_invalid", "later end"),
        ({"aggregates": ["p101"]}, "schema_invalid", "p0 to p100"),
        ({"aggregates": ["p-1"]}, "schema_invalid", "p0 to p100"),
        ({"aggregates": ["median"]}, "schema_invalid", "count, sum"),
        ({"aggregates": []}, "limit_exceeded", ""),
        ({"by": "week"}, "schema_invalid", ""),
        ({"wait_for": 0}, "schema_invalid", ""),
        ({"by": "device", "bucket_s": 1.0, "start": BEGIN, "end": BEGIN + HOUR}, "limit_exceeded", "longer buckets"),
        ({"gateways": ["leaf-1-1"]}, "not_found", "edge register"),
        ({"gateways": ["nobody"]}, "not_found", ""),
        ({"where": "type = 'boiler'"}, "not_found", "edge list"),
    ],
)
async def test_what_cannot_be_asked_is_refused_with_a_remedy(fleet, agents, more, code, remedy):
    with pytest.raises((Refused, NotFound)) as refused:
        await fleet.edge.run_distributed(**{"metric": "temperature", "wait_s": 0, **more})

    assert refused.value.code == code
    assert remedy in (refused.value.remedy or "")
    assert await fleet.operations.list() == []


async def test_without_a_gateway_it_is_refused(fleet):
    with pytest.raises(NotFound, match="no gateway") as refused:
        await fleet.edge.run_distributed("temperature", wait_s=0)

    assert "edge register" in refused.value.remedy


async def test_an_unknown_metric_is_refused_with_those_that_there_are(fleet, agents):
    await stored(agents.stores["gw-2"], "leaf-2-1", [1.0], metric="pressure")
    started = await fleet.edge.run_distributed("temperature", wait_s=0)
    await agents.turn()
    await agents.work()

    with pytest.raises(NotFound) as refused:
        await fleet.edge.distributed(started.operation)
    assert "pressure" in refused.value.remedy


async def test_a_failing_gateway_fails_alone(fleet, agents):
    await filled(agents, np.random.default_rng(3))
    started = await fleet.edge.run_distributed("temperature", aggregates=["count"], wait_s=0)
    await agents.turn()
    (command,) = await fleet.commands.list("gw-2", unfinished=True)
    await agents.end(command, status="failed", code="storage_failed", reason="the disk is broken")
    (command,) = await fleet.commands.list("gw-3", unfinished=True)
    await agents.end(command, status="succeeded", output={"rows": "all"})
    await agents.work("gw-1")
    await agents.turn()
    found = await fleet.edge.distributed(started.operation)

    assert (found.state, found.open, found.readings) == ("partial", False, 800)
    assert [(each.gateway, each.state, each.code) for each in found.gateways] == [
        ("gw-1", "answered", ""), ("gw-2", "failed", "storage_failed"), ("gw-3", "failed", "schema_invalid"),
    ]  # fmt: skip
    operation = await fleet.operations.get(started.operation)
    assert (operation.state, operation.done, operation.failed) == ("partly", 3, 2)


@pytest.mark.parametrize(
    ("by", "change"),
    [
        ("device", {"groups": ["leaf-1-1"]}),
        ("device", {"metrics": ["humidity"]}),
        ("model", {"groups": ["M-9"]}),
        ("all", {"groups": ["M-1"]}),
        ("all", {"rows": [[0, 0, BEGIN + 1, 1, 5.0, 5.0, 5.0]]}),
        ("all", {"rows": [[0, 0, BEGIN + 9 * HOUR, 1, 5.0, 5.0, 5.0]]}),
    ],
)
async def test_a_gateway_that_answers_about_what_it_was_not_asked_fails(fleet, agents, by, change):
    await filled(agents, np.random.default_rng(4))
    started = await fleet.edge.run_distributed(
        "temp*", by=by, aggregates=["count"], start=BEGIN, end=BEGIN + 8 * HOUR, bucket_s=3600.0, wait_s=0
    )
    await agents.turn()
    (command,) = await fleet.commands.list("gw-3", unfinished=True)
    made_up = json.loads(dumps(await summarise(agents.stores["gw-3"], read_wanted(command.args)))) | change
    await agents.end(command, status="succeeded", output=made_up)
    await agents.work("gw-1", "gw-2")
    await agents.turn()

    found = await fleet.edge.distributed(started.operation)

    assert [(each.state, each.code) for each in found.gateways][2] == ("failed", "schema_invalid")
    assert found.readings == 1600


async def test_a_gateway_that_fails_in_the_middle_does_not_count(fleet, agents):
    await filled(agents, np.random.default_rng(8), count=3000)
    started = await fleet.edge.run_distributed(
        "temperature", bucket_s=600.0, by="device", aggregates=["count"], start=BEGIN, end=BEGIN + 50 * HOUR, wait_s=0
    )
    await agents.turn()
    for gateway in agents.stores:
        assert await fleet.commands.list(gateway, unfinished=True)
    await agents.work("gw-1", "gw-2")
    await agents.work("gw-3", most=1)
    await agents.turn()
    before = await fleet.edge.distributed(started.operation)
    (command,) = await fleet.commands.list("gw-3", unfinished=True)
    await agents.end(command, status="failed", code="internal", reason="a fault")
    await agents.turn()
    after = await fleet.edge.distributed(started.operation)

    assert [(each.gateways[2].parts, each.readings) for each in (before, after)] == [(1, 12_000), (1, 12_000)]
    assert {group for _, group, *_ in after.rows} == {"leaf-1-1", "leaf-1-2", "leaf-2-1", "leaf-2-2"}


async def test_late_answers_are_added_until_the_job_ends(fleet, clock, agents):
    await filled(agents, np.random.default_rng(4))
    started = await fleet.edge.run_distributed(
        "temperature", aggregates=["count"], within_s=60, wait_for=0.3, open_s=120, wait_s=0
    )
    await agents.turn()
    before = await fleet.edge.distributed(started.operation)
    await agents.work("gw-1")
    enough = await fleet.edge.distributed(started.operation)
    await clock.advance(61)
    late = await fleet.edge.distributed(started.operation)
    await agents.work("gw-3")
    more = await fleet.edge.distributed(started.operation)
    await clock.advance(60)
    await fleet.commands.tick()
    await agents.turn()
    ended = await fleet.edge.distributed(started.operation)

    assert [(each.state, each.enough, each.open, each.readings) for each in (before, enough, late, more, ended)] == [
        ("running", False, True, 0), ("running", True, True, 800), ("partial", True, True, 800),
        ("partial", True, True, 1600), ("partial", True, False, 1600),
    ]  # fmt: skip
    assert [each.state for each in late.gateways] == ["answered", "offline", "offline"]
    assert [each.state for each in ended.gateways] == ["answered", "failed", "answered"]


async def test_a_cancelled_job_cancels_its_commands(fleet, agents):
    started = await fleet.edge.run_distributed("temperature", wait_s=0)
    await agents.turn()
    await fleet.operations.cancel(started.operation, actor="me")
    found = await fleet.edge.distributed(started.operation)

    assert await fleet.commands.list(unfinished=True) == []
    assert (found.state, {each.state for each in found.gateways}) == ("partial", {"cancelled"})


async def test_a_job_goes_on_after_a_restart_of_the_core(fleet, agents):
    await filled(agents, np.random.default_rng(5), count=3000)
    started = await fleet.edge.run_distributed(
        "temperature", bucket_s=600.0, by="device", wait_s=0, end=BEGIN + 50 * HOUR
    )
    await agents.turn()
    await agents.work("gw-1", most=1)
    fleet.edge._map_reduce._known.clear()  # what is in memory alone
    await agents.turn()
    await agents.work()
    found = await fleet.edge.distributed(started.operation)

    assert (found.state, found.readings) == ("complete", 18_000)


async def test_a_result_that_becomes_too_long_is_refused_with_a_remedy(fleet, agents, monkeypatch):
    monkeypatch.setattr(map_reduce, "MAX_ROWS", 100)
    await filled(agents, np.random.default_rng(6))
    started = await fleet.edge.run_distributed("temperature", bucket_s=60.0, wait_s=0)
    await agents.turn()
    await agents.work()

    with pytest.raises(Refused) as refused:
        await fleet.edge.distributed(started.operation)
    assert (refused.value.code, "longer buckets" in refused.value.remedy) == ("limit_exceeded", True)


async def test_a_gateway_with_too_many_parts_fails_with_the_limit(fleet, agents, monkeypatch):
    monkeypatch.setattr(map_reduce, "MAX_PARTS", 2)
    await filled(agents, np.random.default_rng(7), count=3000)
    started = await fleet.edge.run_distributed("temperature", bucket_s=60.0, end=BEGIN + 50 * HOUR, wait_s=0)
    await agents.turn()
    await agents.work()
    found = await fleet.edge.distributed(started.operation)

    assert {(each.state, each.code) for each in found.gateways} == {("failed", "limit_exceeded")}
    assert "more than 2 parts" in found.gateways[0].reason


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"rows": "all"}, "/rows"),
        ({"rows": [[0, 0, BEGIN, 1, 5.0, 6.0, 5.0]]}, "/rows/0"),
        ({"rows": [[0, 3, BEGIN, 1, 5.0, 5.0, 5.0]]}, "/rows/0"),
        ({"rows": [[0, 0, BEGIN, 0, 0.0, 0.0, 0.0]]}, "/rows/0"),
        ({"rows": [[0, 0, BEGIN, 1, 5.0, 5.0, 5.0, 0, [1, 1, 2], []]]}, "/rows/0"),
        ({"rows": [[0, 0, BEGIN, 7, 5.0, 5.0, 5.0, 0, [1, 1], []]]}, "/rows/0"),
        ({"rows": [[0]]}, "/rows/0"),
        ({"metrics": [7]}, "/metrics"),
        ({"series": -1}, "/series"),
        ({"next": ["a"]}, "/next"),
    ],
)
def test_what_a_gateway_makes_up_is_refused(change, pointer):
    document = {
        "accuracy": ACCURACY, "metrics": ["m"], "groups": [""], "rows": [[0, 0, BEGIN, 1, 5.0, 5.0, 5.0]], "series": 1,
        "next": None, "known": [],
    }  # fmt: skip
    assert part_from_document(document).readings == 1

    with pytest.raises(Refused) as refused:
        part_from_document({**document, **change})
    assert refused.value.ids.get("pointer", getattr(refused.value, "pointer", "")) == pointer
