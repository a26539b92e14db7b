"""A task that is cancelled ends: no product code takes the caller's cancelling for that of a task it waits for."""

import ast
import asyncio
from pathlib import Path

import pytest

from fleetcore.interfaces.waits import end_task, end_tasks

ROOT = Path(__file__).parents[2]


def sources():
    return [path for top in ("fleetcore", "plugins", "connectors") for path in (ROOT / top).rglob("*.py")]


def swallows(tree):
    """The lines of ``with suppress(CancelledError):`` around an ``await``."""
    for block in ast.walk(tree):
        if isinstance(block, ast.With):
            suppressed = [ast.unparse(item.context_expr) for item in block.items]
            is_hidden = any("suppress(" in text and "CancelledError" in text for text in suppressed)
            if is_hidden and any(isinstance(inner, ast.Await) for line in block.body for inner in ast.walk(line)):
                yield block.lineno


def test_no_await_stands_in_suppress_cancelled_error():
    found = [
        f"{path.relative_to(ROOT)}:{line}: use fleetcore.interfaces.waits.end_tasks"
        for path in sources()
        for line in swallows(ast.parse(path.read_text()))
    ]

    assert found == []


def test_the_check_sees_what_it_is_for():
    text = "async def f(task):\n    with contextlib.suppress(asyncio.CancelledError, OSError):\n        await task\n"

    assert list(swallows(ast.parse(text))) == [2]


async def test_a_caller_that_is_cancelled_while_it_ends_a_task_ends_too():
    heeded = asyncio.Event()

    async def slow_to_end():
        try:
            await asyncio.Event().wait()
        finally:
            await heeded.wait()

    async def caller():
        await end_tasks(task)
        raise AssertionError("the caller went on")

    task = asyncio.create_task(slow_to_end())
    await asyncio.sleep(0)
    ending = asyncio.create_task(caller())
    await asyncio.sleep(0)
    ending.cancel()
    await asyncio.sleep(0)
    heeded.set()

    with pytest.raises(asyncio.CancelledError):
        await ending
    assert task.done()


async def test_what_an_ended_task_raised_before_is_raised_again():
    async def fails():
        raise OSError("the disk is gone")

    task = asyncio.create_task(fails())
    await asyncio.sleep(0)

    with pytest.raises(OSError, match="the disk is gone"):
        await end_task(task)
    assert await end_task(asyncio.create_task(asyncio.Event().wait())) is None
