"""Watching one thing to its end: a campaign, an operation. Each change is a line, or moves a bar on a terminal."""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import nullcontext
from typing import Any

import click
from attrs import frozen

from fleetcore.cli.connect import Target
from fleetcore.cli.encoding import takes_all
from fleetcore.cli.exits import printable
from fleetcore.cli.source import Source, again
from fleetcore.errors import Unavailable

_log = logging.getLogger(__name__)

#: The interval of polling for changes, in seconds.
LOOK_S = 1.0


@frozen(kw_only=True)
class Watched:
    """A thing that can be watched.

    Attributes:
        call: the call that returns it.
        seen: the part of an answer whose change is shown.
        ended: whether an answer is the last one.
        bar: for a terminal: how many of how many are done, and the number in each state.
        line: for people elsewhere.
        remark: behind the bar.
    """

    call: str
    seen: Callable[[Mapping[str, Any]], object]
    ended: Callable[[Mapping[str, Any]], bool]
    bar: Callable[[Mapping[str, Any]], tuple[int, int, Mapping[str, int]]]
    line: Callable[[Mapping[str, Any]], str]
    remark: Callable[[Mapping[str, Any]], str] = lambda _current: ""


async def watch(at: Target, what: Watched, given: Mapping[str, Any], output: str, title: str) -> dict[str, Any]:
    """Shows each change; returns the last answer. While the server is away it waits; the first failure is raised."""
    from fleetcore.cli.progress import moves, status_bar

    with status_bar(title) if output == "table" and moves() else nullcontext() as bar:
        told: object = None
        async with contextlib.aclosing(_looks(at, what.call, given)) as answers:
            async for current in answers:
                if (seen := what.seen(current)) != told:
                    told = seen
                    if bar is not None:
                        bar(*what.bar(current), what.remark(current))
                    elif output == "jsonl":
                        click.echo(json.dumps(current, ensure_ascii=not takes_all()))
                    elif output == "table":
                        click.echo(printable(what.line(current)))
                if what.ended(current):
                    break
    last: dict[str, Any] = current
    return last


async def _looks(at: Target, name: str, given: Mapping[str, Any]) -> AsyncGenerator[Any, None]:
    """The answers of a call, again and again."""
    async with contextlib.aclosing(Source(at, keeps=True)) as source:
        yield await source.ask(name, given)
        told = False
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                answer = await source.ask(name, given)
            except Unavailable as error:  # its server is away
                if not told:
                    told = True
                    _log.warning("%s", again(error))
            else:
                told = False
                yield answer
