"""``fleetcore top``: the fleet at a glance, again and again."""

import asyncio
import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click
from attrs import evolve

from fleetcore.cli import keys
from fleetcore.cli.connect import Target, fleet_option
from fleetcore.cli.encoding import takes_all
from fleetcore.cli.output import output_option, show
from fleetcore.cli.source import Source, again
from fleetcore.cli.top_screen import Rates, View, device, fleet, footer, helping, moved, pressed, rates
from fleetcore.errors import FleetError, Refused, Unavailable
from fleetcore.model.overview import MAX_FIRST, Order
from fleetcore.wire.times import parse_time

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

#: Devices in a file or a pipe, and the width of its lines.
_PLAIN_ROWS = 20
_PLAIN_WIDTH = 120
#: Rates are counted over at least so long.
_MIN_RATE_MS = 900


@click.command()
@click.option("--where", default="", help="Limit devices and alerts to a query of the fleet query grammar.")
@click.option(
    "--order", type=click.Choice(list(Order)), default=Order.SILENT, show_default=True, help="Which devices come first."
)
@click.option(
    "--every", type=click.FloatRange(0.2, 3600), default=2, show_default=True, help="Seconds between two reads."
)
@click.option(
    "--count",
    type=click.IntRange(1),
    help="The number of reads, printed one after another; by default 1, on a terminal unlimited.",
)
@fleet_option
@output_option
def top(where: str, order: Order, every: float, count: int | None, at: Target, output: str) -> int:
    """Watch the fleet: devices by state, traffic, alerts, campaigns, mirrors, and devices in an order.

    On a terminal it is drawn anew every two seconds until q; ? lists the keys. Into a file or a pipe it prints once, or
    --count times. Rates are those between two reads.
    """
    from rich.console import Console

    console = Console(highlight=False)
    view = View(order=order, where=where)
    with contextlib.suppress(KeyboardInterrupt):
        # A terminal without a cursor gets what a pipe gets; FORCE_COLOR makes a terminal of a pipe.
        screen = console.is_terminal and not console.is_dumb_terminal and console.file.isatty()
        if output == "table" and screen and count is None:
            asyncio.run(_Screen(console, at, every).run(view))
        else:
            asyncio.run(_print(console, at, view, every, count or 1, output))
    return 0


def _asked(view: View, limit: int) -> dict[str, Any]:
    return {"order": view.order, "limit": limit, **({"where": view.where} if view.where else {})}


async def _print(console: "Console", at: Target, view: View, every_s: float, count: int, output: str) -> None:
    """Prints overviews one after another; the first is preceded by one for its rates, if something serves the fleet."""
    source, before = Source(at), None
    width = console.width if console.is_terminal else _PLAIN_WIDTH
    async with contextlib.aclosing(source):
        for number in range(count + 1):
            if number == 0:
                if await source.rests():
                    continue
            elif before is not None:
                await asyncio.sleep(min(every_s, 1.0) if number == 1 else every_s)
            found = await source.ask("get_overview", _asked(view, _PLAIN_ROWS))
            if number > 0:
                if output == "csv":
                    show(found["first"], output)
                elif output == "table":
                    now_ms = parse_time(found["time"])
                    lines = fleet(view, found, rates(before, found), width=width, height=None, now_ms=now_ms)
                    for line in [*lines, *([""] if number < count else [])]:
                        console.print(line, soft_wrap=True)
                else:
                    click.echo(json.dumps(found, indent=2 if output == "json" else None, ensure_ascii=not takes_all()))
            before = found


class _Screen:
    """The terminal: draws what was read last, and reads again when it is time or a key asks for it."""

    def __init__(self, console: "Console", at: Target, every_s: float) -> None:
        self._console, self._every_s = console, every_s
        self._source, self._error = Source(at), ""
        self._found: Mapping[str, Any] | None = None
        #: The overview from which rates are counted, and the rates.
        self._base: Mapping[str, Any] | None = None
        self._rates: Rates | None = None
        #: The difference of the server's clock and the monotonic clock here: ages are by the server's clock.
        self._ahead_ms = 0.0
        self._device: Mapping[str, Any] | None = None
        self._latest: Sequence[Mapping[str, Any]] = ()

    async def run(self, view: View) -> None:
        """Watches until a key quits."""
        from rich.live import Live

        live = Live(console=self._console, screen=True, auto_refresh=False)
        async with contextlib.aclosing(self._source):
            with live, keys.pressed() as queue:
                read = True
                while not view.quits:
                    if read:
                        view = await self._read(view)
                    live.update(self._drawn(view), refresh=True)
                    key = await _next(queue, self._every_s)
                    before = view
                    if key is not None:
                        view = pressed(view, key, self._rows)
                    elif not self._source.served and await self._source.rests():
                        # Reading it would keep a server that starts out.
                        read, self._error = False, "No server has the folder open; space reads it again"
                        continue
                    if key == " ":
                        self._source.served = False
                    changed = (view.order, view.where, view.device) != (before.order, before.where, before.device)
                    read = key == " " or changed or (key is None and not view.paused)

    @property
    def _rows(self) -> list[str]:
        return [item["id"] for item in self._found["first"]] if self._found else []

    async def _read(self, view: View) -> View:
        """Reads what the view shows. An error is shown, the rest stays; a faulty query is typed anew."""
        try:
            if view.device is not None:
                self._device = await self._source.ask("diagnose_device", {"device_id": view.device})
                latest = await self._source.ask("list_latest_readings", {"device": view.device, "limit": 100})
                self._latest = latest["items"]
            else:
                chosen = self._rows[view.at] if 0 < view.at < len(self._rows) else None
                self._device, self._found = None, await self._source.ask("get_overview", _asked(view, MAX_FIRST))
                view = evolve(view, at=moved(view.at, chosen, self._rows))
                now_ms = parse_time(self._found["time"])
                self._ahead_ms = now_ms - time.monotonic() * 1000
                if self._base is None or now_ms - parse_time(self._base["time"]) >= _MIN_RATE_MS:
                    self._base, self._rates = self._found, rates(self._base, self._found)
        except Refused as error:
            if self._found is None or not view.where:
                raise
            self._error = str(error)
            return evolve(view, typed=view.where, where="")
        except FleetError as error:
            if self._found is None and not isinstance(error, Unavailable):
                raise
            self._error = str(error)
            if isinstance(error, Unavailable):
                self._error = again(error) + ("" if self._source.remote else "; space reads the folder itself")
        else:
            self._error = ""
        return view

    def _drawn(self, view: View) -> "Text":
        from rich.text import Text

        width, height = self._console.size
        now_ms = round(self._ahead_ms + time.monotonic() * 1000)
        if view.helps:
            lines = helping(width)
        elif view.device is not None:
            lines = device(self._device, self._latest, width=width, now_ms=now_ms) if self._device else []
        elif self._found is not None:
            lines = fleet(view, self._found, self._rates, width=width, height=height - 1, now_ms=now_ms)
        else:
            lines = []
        last = footer(view, self._error, width)
        room = max(1, height - len(last))
        blank = [Text()] * (room - len(lines))
        return Text("\n", no_wrap=True, overflow="ignore").join([*lines[:room], *blank, *last])


async def _next(queue: "asyncio.Queue[str] | None", timeout_s: float) -> str | None:
    """The next key; None if the time was over first."""
    if queue is None:
        await asyncio.sleep(timeout_s)
        return None
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            return await queue.get()
    return None
