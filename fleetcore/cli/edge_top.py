"""``fleetcore edge top``: what gateways have, promise and use, again and again."""

import asyncio
import contextlib
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from fleetcore.cli.connect import Target
from fleetcore.cli.derived import command as derived
from fleetcore.cli.output import show
from fleetcore.errors import Unavailable
from fleetcore.frontends.catalogue import core

if TYPE_CHECKING:
    from rich.console import Console

    from fleetcore.cli.source import Source

_KINDS = {
    "state": "choice",
    "load": "number",
    **dict.fromkeys(("free MiB", "free disk MiB", "waiting", "lost"), "count"),
}
_PAGE = 1000


def _watched(at: Target, _given: Mapping[str, Any], output: str, *, every: float, count: int | None) -> Any:
    """Shows the gateways again and again; on a terminal until it is interrupted."""
    from rich.console import Console

    console = Console(highlight=False)
    with contextlib.suppress(KeyboardInterrupt):
        if output == "table" and count is None and console.is_terminal and not console.is_dumb_terminal:
            asyncio.run(_drawn(console, at, every))
        else:
            asyncio.run(_printed(at, output, every, count or 1))


async def _drawn(console: "Console", at: Target, every_s: float) -> None:
    from rich.live import Live
    from rich.text import Text

    from fleetcore.cli import tables
    from fleetcore.cli.source import Source, again

    async with contextlib.aclosing(Source(at)) as source:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                try:
                    rows = [_row(each) for each in await _usage(source)]
                except Unavailable as error:
                    lines = [Text(again(error))]
                else:
                    now_ms, width = round(time.time() * 1000), console.width
                    lines = tables.table(rows, (), _KINDS, now_ms=now_ms, width=width) if rows else [Text("no gateway")]
                live.update(Text("\n", no_wrap=True).join(lines), refresh=True)
                await asyncio.sleep(every_s)


async def _printed(at: Target, output: str, every_s: float, count: int) -> None:
    from fleetcore.cli.source import Source

    async with contextlib.aclosing(Source(at)) as source:
        for number in range(count):
            if number:
                await asyncio.sleep(every_s)
            found = await _usage(source)
            show(found if output in ("json", "jsonl") else [_row(each) for each in found], output)


async def _usage(source: "Source") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    given: dict[str, Any] = {"limit": _PAGE}
    while True:
        page = await source.ask("list_gateway_usage", given)
        found += page["items"]
        if page["next"] is None:
            return found
        given["cursor"] = page["next"]


def _row(each: Mapping[str, Any]) -> dict[str, Any]:
    """A gateway in a line: what is used, promised and there of each resource."""
    has, promised, used = each["capacity"], each["promised"], each["used"]
    amounts = {
        title: " / ".join("?" if of[name] is None else str(of[name]) for of in (used, promised, has))
        for title, name in (("cpu %", "cpu_percent"), ("memory MiB", "memory_mib"))
    }
    return {
        "gateway": each["device"],
        "state": each["connectivity"],
        "functions": f"{each['running']} / {each['functions']}",
        **amounts,
        "load": each["load"],
        "free MiB": each["free_memory_mib"],
        "free disk MiB": each["free_disk_mib"],
        "waiting": each["waiting"],
        "lost": each["lost"],
    }


_USAGE = core()["list_gateway_usage"]
top = derived(
    _USAGE,
    _USAGE.command,
    {},
    options=[
        click.Option(["--every"], type=click.FloatRange(0.2, 3600), default=2, show_default=True,
                     help="Seconds between two reads."),
        click.Option(["--count"], type=click.IntRange(1),
                     help="The number of reads, printed one after another; by default 1, on a terminal unlimited."),
    ],
    ask=_watched,
)  # fmt: skip
