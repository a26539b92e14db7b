"""The registry's columns answer as the evaluator does, whatever changed since they were built."""

import asyncio

import hypothesis.strategies as st
from hypothesis import HealthCheck, given, settings

from fleetcore import IoTFleetManager
from fleetcore.fleet.process_state.columns import RegistryColumns
from fleetcore.query import ast
from fleetcore.query.evaluate import matches
from fleetcore.wire.records import to_plain

values = st.one_of(
    st.sampled_from(["", "a", "b", "1.2.3"]), st.integers(-2, 2), st.sampled_from([0.5, 2**53 - 1]), st.booleans()
)
literals = values | st.just(2**60)
tags = st.lists(st.sampled_from(["x", "y", "z"]), max_size=3, unique=True)
attributes = st.dictionaries(st.sampled_from("ab"), st.one_of(values, st.lists(values, max_size=2)), max_size=2)
devices = st.tuples(st.sampled_from(["pump", "meter"]), tags, attributes)
paths = st.sampled_from([("id",), ("type",), ("tags",), ("model",), ("attributes", "a"), ("attributes", "b")])
leaf = st.one_of(
    st.builds(ast.Compare, paths, st.sampled_from(["=", "!=", "<", ">="]), literals),
    st.builds(ast.Has, paths, values | st.sampled_from(["x", "y"])),
    st.builds(ast.Exists, paths),
    st.builds(ast.Like, paths, st.sampled_from(["*", "d-1*", "?"])),
    st.builds(ast.OneOf, paths, st.lists(literals, min_size=1, max_size=3).map(tuple)),
)
clauses = st.recursive(
    leaf,
    lambda inner: st.one_of(
        st.builds(ast.Not, inner),
        st.lists(inner, min_size=2, max_size=3).map(lambda some: ast.And(tuple(some))),
        st.lists(inner, min_size=2, max_size=3).map(lambda some: ast.Or(tuple(some))),
    ),
    max_leaves=6,
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    st.lists(devices, min_size=1, max_size=12), st.lists(devices, max_size=5), st.lists(clauses, min_size=1, max_size=4)
)
async def test_columns_answer_as_the_evaluator_does(before, after, queries):
    async with IoTFleetManager() as manager:
        fleet = await manager.open()
        columns = RegistryColumns(fleet.storage)
        fleet.devices.on_change(columns.changed)
        for number, (kind, labels, given_) in enumerate(before):
            await fleet.devices.register(f"d-{number}", kind, tags=labels, attributes=given_)
        for clause in queries:
            await columns.build(clause)
        # Changes after the columns were built: of devices that are there, and new ones.
        for number, (kind, labels, given_) in enumerate(after):
            if number % 2:
                await fleet.devices.register(f"n-{number}", kind, tags=labels, attributes=given_)
            else:
                await fleet.devices.change(f"d-{number % len(before)}", tags=labels, attributes=given_)

        everything = [{"tags": [], **to_plain(one)} for one in await fleet.devices.list()]
        for clause in queries:
            assert columns.select(clause) == [one["id"] for one in everything if matches(clause, one)]


async def test_many_distinct_numbers_are_compared_as_numbers(fleet):
    columns = RegistryColumns(fleet.storage)
    rows = [{"id": f"d-{n:04d}", "attributes": {"n": n / 2}} for n in range(600)]
    await fleet.operations.run((await fleet.importing.start(rows)).id)
    clause = ast.And(
        (ast.Compare(("attributes", "n"), ">=", 100), ast.Not(ast.Compare(("attributes", "n"), ">", 101.5)))
    )
    await columns.build(clause)

    assert columns.select(clause) == ["d-0200", "d-0201", "d-0202", "d-0203"]


async def test_a_device_that_changes_while_the_columns_are_built_is_seen_as_it_is_now(fleet):
    columns = RegistryColumns(fleet.storage)
    fleet.devices.on_change(columns.changed)
    rows = [{"id": f"d-{n:04d}", "tags": ["old"]} for n in range(3000)]
    await fleet.operations.run((await fleet.importing.start(rows)).id)
    clause = ast.Has(("tags",), "new")

    building = asyncio.ensure_future(columns.build(clause))
    for number in range(0, 3000, 300):
        await fleet.devices.change(f"d-{number:04d}", tags=["new"])
    await building

    assert columns.select(clause) == [f"d-{n:04d}" for n in range(0, 3000, 300)]


async def test_who_asks_again_and_again_is_answered_from_columns(fleet):
    for number in range(5):
        await fleet.devices.register(f"d-{number}", "sensor", tags=["odd"] if number % 2 else [])
    answers = [await fleet.search.ids("tags has 'odd' and not id = 'd-1'") for _ in range(4)]
    await fleet.twins.report("d-3", {"n": 1})

    assert answers == [["d-3"]] * 4
    assert fleet.search.columns.has(fleet.search.resolved("tags has 'odd'"))
    assert await fleet.search.ids("tags has 'odd' and reported.n = 1") == ["d-3"]
    assert (await fleet.search.page("tags has 'odd'", after="d-1")).ids == ("d-3",)
