"""Functions are loaded, run and unloaded, each with its own memory, configuration and secrets."""

import pytest
from fleetcore_edge.runner.records import Batch


async def test_a_batch_goes_through_a_function(runner, make, readings):
    await runner.load(make())

    output = await runner.run("echo", readings())

    assert output.readings == readings()


@pytest.mark.parametrize("count", [0, 1, 9, 1_000, 99_999])
async def test_a_batch_of_any_size_comes_back_as_it_was(runner, make, readings, count):
    memory = '(memory (export "memory") 64)'
    await runner.load(make(memory=memory))

    output = await runner.run("echo", readings(count))

    assert output.readings == (readings(count) if count else Batch(series=readings(0).series))
