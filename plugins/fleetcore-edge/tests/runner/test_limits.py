"""Each limit of a function stops it, says so, and leaves the runner and the other functions as they were."""

import re
from array import array

import pytest
from attrs import evolve
from fleetcore_edge.runner.records import FunctionRefused, FunctionStopped

LOOP = "(loop $again (br $again))"
RECURSE = {
    "more": "(func $deep (param i32) (result i32) (i32.add (i32.const 1) (call $deep (local.get 0))))",
    "run": "(drop (call $deep (i32.const 1)))",
}
#: Grows to what it may have, and then traps, as an allocator without memory does.
GROW = "(loop $more (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) (unreachable)"


async def stopped(runner, name, batch):
    with pytest.raises(FunctionStopped) as caught:
        await runner.run(name, batch)
    assert caught.value.remedy
    assert runner.usage()[name].last_code == caught.value.code
    return caught.value


@pytest.fixture
async def fine(runner, make, readings):
    """Another function, which must not notice anything."""
    await runner.load(make("fine"))
    pid = runner.pid
    yield
    assert (await runner.run("fine", readings())).readings == readings()
    assert runner.usage()["fine"].stopped == runner.usage()["fine"].restarts == 0
    assert runner.pid == pid


@pytest.mark.parametrize(
    ("parts", "resources", "code"),
    [
        ({"run": LOOP}, {"fuel": 1_000_000}, "out_of_fuel"),
        ({"run": LOOP}, {"time_ms": 50}, "out_of_time"),
        (RECURSE, {"stack_kib": 64}, "stack"),
        (RECURSE, {"stack_kib": 1024}, "stack"),
        ({"run": GROW}, {"memory_mib": 8}, "out_of_memory"),
        ({"run": "(unreachable)"}, {}, "trapped"),
        ({"run": "(drop (i32.div_u (i32.const 1) (i32.const 0)))"}, {}, "trapped"),
        ({"run": "(i32.store (i32.const -8) (i32.const 1))"}, {}, "trapped"),
    ],
    ids=["fuel", "time", "stack 64", "stack 1024", "memory", "unreachable", "division", "out of bounds"],
)
async def test_a_function_is_stopped_at_its_limit(runner, make, wat, readings, fine, parts, resources, code):
    parts = {**parts, "run": wat(parts["run"])}
    await runner.load(make("bad", resources=resources, **parts))

    error = await stopped(runner, "bad", readings())

    assert error.code == code
    assert runner.usage()["bad"].stopped == 1


async def test_two_gigabytes_are_not_given(runner, make, wat, readings, fine):
    result = "(i64.const -2)"
    ask = "(if (i32.ne (memory.grow (i32.const 32768)) (i32.const -1)) (then (unreachable)))"
    await runner.load(make("greedy", resources={"memory_mib": 16}, run=wat(ask, result)))

    error = await stopped(runner, "greedy", readings())

    assert error.code == "out_of_memory"
    assert "256 KiB" in error.message


async def test_a_module_that_begins_with_more_memory_than_it_may_have_is_refused(runner, make, fine):
    with pytest.raises(FunctionRefused) as caught:
        await runner.load(make("large", memory='(memory (export "memory") 1024)', resources={"memory_mib": 16}))

    assert caught.value.code == "resources"


async def test_all_functions_together_have_no_more_memory_than_the_runner(opened, make):
    runner = await opened(memory_mib=40)
    for name in ("one", "two"):
        await runner.load(make(name, resources={"memory_mib": 16}))

    with pytest.raises(FunctionRefused) as caught:
        await runner.load(make("three", resources={"memory_mib": 16}))

    assert caught.value.code == "resources"
    await runner.unload("one")
    await runner.load(make("three", resources={"memory_mib": 16}))


async def test_a_table_grows_no_further_than_the_limit(runner, make, wat, readings, fine):
    table = "(table $t 1 funcref)"
    grow = "(local $n i32) (loop $more (local.set $n (i32.add (local.get $n) (i32.const 1)))"
    grow += "(br_if $more (i32.ne (table.grow $t (ref.null func) (i32.const 1000)) (i32.const -1))))"
    log = "(call $log (i32.const 8) (i32.const 0)) (i32.store (i32.const 0) (table.size $t))"
    imports = '(import "fleetcore" "log" (func $log (param i32 i32)))'
    size = "(i64.sub (i64.const -1000000) (i64.extend_i32_u (table.size $t)))"
    await runner.load(make("tables", imports=imports, more=table, run=wat(grow + log, size)))

    error = await stopped(runner, "tables", readings())

    assert error.code == "failed"
    assert int(re.search(r"status -1(\d{6})", error.message)[1]) <= 20_000


@pytest.mark.parametrize("more", ["(memory 1)", "(table 1 funcref) (table 1 funcref) (table 1 funcref)"])
async def test_more_memories_or_tables_are_refused(runner, make, fine, more):
    with pytest.raises(FunctionRefused) as caught:
        await runner.load(make("many", more=more))

    assert caught.value.code in {"module_invalid", "resources"}


async def test_a_function_has_a_fresh_instance_after_a_stop(runner, make, wat, readings):
    count = "(global $n (mut i64) (i64.const 0))"
    code = "(global.set $n (i64.add (global.get $n) (i64.const 1)))"
    code += "(if (i64.eq (global.get $n) (i64.const 3)) (then (unreachable)))"
    await runner.load(make("third", more=count, run=wat(code)))
    ends = []

    for _ in range(6):
        try:
            await runner.run("third", readings())
        except FunctionStopped as error:
            ends.append(error.code)
        else:
            ends.append("")

    assert ends == ["", "", "trapped"] * 2
    assert runner.usage()["third"].restarts == 2


async def test_starting_and_configuring_are_limited_too(runner, make, fine):
    loop = '(func (export "fc_configure") (param i32 i32) (result i32) (loop $again (br $again)) (i32.const 0))'
    with pytest.raises(FunctionRefused) as caught:
        await runner.load(make("slow", configure=loop, resources={"time_ms": 50}))
    assert caught.value.code == "out_of_time"

    with pytest.raises(FunctionRefused) as caught:
        await runner.load(
            make("begins", more="(func $begin (loop $again (br $again))) (start $begin)", resources={"fuel": 1000})
        )
    assert caught.value.code == "out_of_fuel"


async def test_a_function_that_has_used_its_share_waits(opened, make, wat, readings):
    from fleetcore.testing.clock import MovableClock

    clock = MovableClock()
    runner = await opened(clock=clock, burst_ms=5)
    busy = "(local $n i32) (loop $again (local.set $n (i32.add (local.get $n) (i32.const 1)))"
    busy += "(br_if $again (i32.lt_u (local.get $n) (i32.const 30000000))))"
    await runner.load(make("busy", run=wat(busy), resources={"cpu_percent": 10.0}))
    await runner.run("busy", readings())
    used = runner.usage()["busy"].ms

    with pytest.raises(FunctionStopped) as caught:
        await runner.run("busy", readings())

    assert caught.value.code == "over_budget"
    assert caught.value.retry_after_ms == pytest.approx((used - 5) * 10, abs=1)
    assert runner.usage()["busy"].over_budget == 1
    assert runner.usage()["busy"].batches == 1
    await clock.advance(caught.value.retry_after_ms / 1000 + 0.01)
    await runner.run("busy", readings())


async def test_a_batch_that_is_too_large_or_not_in_columns_is_refused(opened, make, readings):
    runner = await opened(batch_readings=100, max_series=2)
    await runner.load(make())
    batch = readings()
    wrong = {
        "batch_too_large": readings(101),
        "batch_invalid": evolve(batch, time=array("q", [1])),
        "too_many_series": evolve(batch, series=[*batch.series, ("d3", "temperature", "°C")]),
    }

    for code, each in wrong.items():
        with pytest.raises(FunctionRefused) as caught:
            await runner.run("echo", each)
        assert caught.value.code == code
