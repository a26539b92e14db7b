"""The screen of ``fleetcore top``: what it shows of an overview, and what a key changes. No input or output here."""

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from attrs import evolve, frozen
from rich.text import Text

from fleetcore.cli import tables
from fleetcore.cli.exits import printable
from fleetcore.frontends.catalogue import WORD
from fleetcore.model.overview import MAX_ALERTS, Order
from fleetcore.wire.times import parse_time

_STATES = ("online", "asleep", "late", "offline", "never")
_GAP = "   "
_BAR = 20
#: Below this width a device's lifecycle is left out, and the keys are named briefly.
_WIDE = 76
#: Lines of devices that are shown even on a low terminal.
_MIN_ROWS = 3
_KINDS = {
    "device": "text",  # cut, where a long one would leave no room for the state
    "type": "text",
    "state": "choice",
    "last seen": "time",
    "alerts": "count",
    "lifecycle": "choice",
}
_HELP = (
    ("s r a i", "order: silent longest, recent, alerts, id"),
    ("/", "limit to a query; Enter applies it, an empty one ends it"),
    ("↑ ↓ Enter", "choose and open a device; Esc goes back"),
    ("p", "pause or go on"),
    ("space", "read again now"),
    ("q", "quit"),
)


@frozen(kw_only=True)
class View:
    """What the operator chose.

    Attributes:
        typed: the query as it is typed; None while none is.
        at: the row of the chosen device.
        device: the device that is open; None for the fleet.
    """

    order: Order = Order.SILENT
    where: str = ""
    typed: str | None = None
    at: int = 0
    device: str | None = None
    paused: bool = False
    helps: bool = False
    quits: bool = False


@frozen(kw_only=True)
class Rates:
    """Messages and readings a second between two answers."""

    messages: float
    readings: float
    refused: float


def rates(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> Rates | None:
    """The rates between two overviews; None without two, or if the server was restarted between them."""
    if before is None or not (old := before["traffic"]) or not (new := now["traffic"]):
        return None
    seconds = (parse_time(now["time"]) - parse_time(before["time"])) / 1000
    grown = {name: new[name] - old[name] for name in ("accepted", "rejected", "stored", "refused")}
    if seconds <= 0 or min(grown.values()) < 0:
        return None
    return Rates(
        messages=(grown["accepted"] + grown["rejected"]) / seconds,
        readings=grown["stored"] / seconds,
        refused=(grown["rejected"] + grown["refused"]) / seconds,
    )


def pressed(view: View, key: str, rows: Sequence[str]) -> View:
    """The view after a key; ``rows`` are the devices that are shown."""
    if key == "resize":
        return view
    if key == "quit":
        return evolve(view, quits=True)
    if view.typed is not None:
        return _typed(view, view.typed, key)
    if view.helps:
        return evolve(view, helps=False)
    orders = {order[0]: order for order in Order}
    match key:
        case "q":
            return evolve(view, quits=True)
        case "?" | "h":
            return evolve(view, helps=True)
        case "p":
            return evolve(view, paused=not view.paused)
        case "escape":
            return evolve(view, device=None)
        case _ if view.device is not None:
            return view
        case "/":
            return evolve(view, typed=view.where)
        case "up" | "down" | "page up" | "page down":
            step = {"up": -1, "down": 1, "page up": -10, "page down": 10}[key]
            return evolve(view, at=max(0, min(view.at + step, len(rows) - 1)))
        case "enter" if view.at < len(rows):
            return evolve(view, device=rows[view.at])
        case _ if key in orders:
            return evolve(view, order=orders[key], at=0)
        case _:
            return view


def _typed(view: View, typed: str, key: str) -> View:
    match key:
        case "enter":
            return evolve(view, where=typed.strip(), typed=None, at=0)
        case "escape":
            return evolve(view, typed=None)
        case "backspace":
            return evolve(view, typed=typed[:-1])
        case "clear":
            return evolve(view, typed="")
        case _ if len(key) == 1:
            return evolve(view, typed=typed + key)
        case _:
            return view


def moved(at: int, chosen: str | None, rows: Sequence[str]) -> int:
    """The row of the chosen device after a read; the row itself if none was chosen or it is not among them."""
    return rows.index(chosen) if chosen in rows else max(0, min(at, len(rows) - 1))


def fleet(
    view: View, found: Mapping[str, Any], rate: Rates | None, *, width: int, height: int | None, now_ms: int
) -> list[Text]:
    """The lines about a fleet; without a height all of them, and no row is chosen."""
    lines = [*_head(view, found, width, now_ms)]
    if found["traffic"]:
        lines += _wrapped(_traffic(found["traffic"], rate), width)
    lines += [*_alerts(found, width, now_ms), *_mirrors(found["mirrors"], width), *_work(found, width), Text()]
    room = None if height is None else max(_MIN_ROWS, height - len(lines) - 2)
    return lines + _rows(view, found["first"], width, room, now_ms)


def device(found: Mapping[str, Any], latest: Sequence[Mapping[str, Any]], *, width: int, now_ms: int) -> list[Text]:
    """The lines about a device: what is wrong with it, its state, and its newest readings."""
    presence = found["presence"]
    seen = "never heard from" if presence["last_seen"] is None else tables.relative(presence["last_seen"], now_ms)
    score = found["health"]["score"]
    parts = [
        Text(printable(found["device"]), style="bold"),
        _choice(presence["connectivity"]),
        Text(seen),
        _choice(found["lifecycle"]),
        Text("" if score is None else f"health {score:.0f} of 100"),
    ]
    lines = [*_wrapped(parts, width), Text()]
    problems = [part for text in found["findings"] for part in textwrap.wrap(printable(f"! {text}"), width)]
    lines += [Text(part, style="yellow") for part in problems] or [Text("No problems found")]
    waiting = [f"{item['name']} {item['state']}" for item in found["waiting"]]
    if waiting:
        lines.append(Text(printable(f"commands under way: {', '.join(waiting)}")))
    lines += [Text(f"firmware: {item['campaign']} {item['state']}") for item in found["updating"]]
    if latest:
        shown = [
            {
                "metric": item["metric"], "value": item["value"], "unit": item["unit"] or "", "time": item["time"],
            }
            for item in latest
        ]  # fmt: skip
        kinds = {"metric": WORD, "value": "value", "unit": WORD, "time": "time"}
        lines += [Text(), *tables.table(shown, tuple(kinds), kinds, now_ms=now_ms, width=width)]
    return lines


def footer(view: View, error: str, width: int) -> list[Text]:
    """The last lines: an error, and what the keys do."""
    lines = [Text(part, style="red") for part in textwrap.wrap(printable(error), width)]
    if view.typed is not None:
        typed = printable(view.typed)
        room = width - len("query: _")
        lines.append(Text(f"query: {typed if len(typed) <= room else f'…{typed[1 - room :]}'}_"))
    elif view.device is not None:
        lines.append(Text("Esc back   p pause   q quit", style="dim"))
    elif width >= _WIDE:
        lines.append(Text(f"s r a i order: {view.order}   / query   ↑↓ Enter open   p pause   ? help   q quit", "dim"))
    else:
        lines.append(Text(f"q quit  ? help  / query  ↑↓ Enter  p pause  order: {view.order}", "dim"))
    lines[-1].truncate(width, overflow="ellipsis")
    return lines


def helping(width: int) -> list[Text]:
    """What each key does."""
    found = [(f"{keys:<11}{text}", " " * 11) for keys, text in _HELP]
    return [Text(part) for text, indent in found for part in textwrap.wrap(text, width, subsequent_indent=indent)]


def _head(view: View, found: Mapping[str, Any], width: int, now_ms: int) -> Iterator[Text]:
    counts = found["counts"]
    parts = [Text(printable(f"{found['fleet']}"), style="bold"), Text(found["time"][11:19] + " UTC")]
    if view.where:
        parts.append(Text(printable(f"where {view.where}")))
    if view.paused:
        parts.append(Text("paused", style="yellow"))
    age_s = (now_ms - parse_time(found["as_of"])) / 1000
    if age_s >= 10:
        parts.append(Text(f"counts {age_s:.0f} s old", style="dim"))
    yield from _wrapped(parts, width)
    states = [Text(f"{counts[state]:,} {state}", style=tables.style_of(state)) for state in _STATES]
    yield from _wrapped([Text(f"{counts['devices']:,} devices"), *states], width)


def _traffic(traffic: Mapping[str, Any], rate: Rates | None) -> Iterator[Text]:
    if rate is None:
        yield Text(f"{traffic['accepted']:,} messages   {traffic['stored']:,} readings")
    else:
        yield Text(f"{rate.messages:,.0f} messages/s")
        yield Text(f"{rate.readings:,.0f} readings/s")
        yield Text(f"{rate.refused:,.1f} refused/s", style="yellow" if rate.refused else "")
    yield Text(f"{traffic['sessions']:,} sessions")
    yield Text(f"{traffic['waiting']:,} waiting")


def _alerts(found: Mapping[str, Any], width: int, now_ms: int) -> Iterator[Text]:
    if not found["alerts"]:
        return
    newest = found["anomalies"][0]
    what = f"{newest['device']} {newest['metric']}: {newest['explanation']}"
    count = f"{found['alerts']}{'+' if found['alerts'] >= MAX_ALERTS else ''} alerts in the last hour"
    line = Text(count, style="yellow").append(f"{_GAP}{tables.relative(newest['time'], now_ms)}: {printable(what)}")
    line.truncate(width, overflow="ellipsis")
    yield line


def _mirrors(mirrors: Sequence[Mapping[str, Any]], width: int) -> Iterator[Text]:
    for mirror in mirrors:
        lag = f", for {mirror['lag_s']:.0f} s" if mirror["lag_s"] >= 1 else ""
        state = Text(mirror["state"], style="" if mirror["state"] == "running" else "yellow")
        parts = [Text(printable(f"mirror {mirror['name']}")), state, Text(f"{mirror['waiting']:,} waiting{lag}")]
        yield from _wrapped(parts, width)


def _work(found: Mapping[str, Any], width: int) -> Iterator[Text]:
    for kind, items in (("campaign", found["campaigns"]), ("operation", found["operations"])):
        for item in items:
            name = item["id"] if kind == "campaign" else item["what"]
            yield from _wrapped([Text(printable(f"{kind} {name}")), *_progress(item)], width)


def _progress(item: Mapping[str, Any]) -> Iterator[Text]:
    filled = round(_BAR * item["done"] / item["total"]) if item["total"] else 0
    yield Text("█" * filled, style="green").append("░" * (_BAR - filled), style="dim")
    yield Text(f"{item['done']:,} of {item['total']:,}")
    if item["failed"]:
        yield Text(f"{item['failed']:,} failed", style="red")


def _rows(view: View, first: Sequence[Mapping[str, Any]], width: int, room: int | None, now_ms: int) -> list[Text]:
    names = list(_KINDS) if width >= _WIDE else list(_KINDS)[:-1]
    shown = [
        {
            "device": item["id"], "type": item["type"], "state": item["connectivity"], "last seen": item["last_seen"],
            "alerts": item["alerts"] or None, "lifecycle": item["lifecycle"],
        }
        for item in first
    ]  # fmt: skip
    if not shown:
        return [Text("no devices")]
    start = 0 if room is None else max(0, min(view.at - room + 2, len(shown) - room + 1))
    some = shown if room is None else shown[start : start + room - 1]
    lines = tables.table(some, names, _KINDS, now_ms=now_ms, width=width)
    if room is not None and 0 <= view.at - start < len(some):
        chosen = lines[1 + view.at - start]
        chosen.pad_right(width - chosen.cell_len)
        chosen.stylize("reverse")
    return lines


def _choice(value: str) -> Text:
    return Text(value, style=tables.style_of(value))


def _wrapped(parts: Iterable[Text], width: int) -> Iterator[Text]:
    """Parts side by side, on as many lines as they need."""
    line = Text()
    for part in parts:
        if not part:
            continue
        if line and line.cell_len + len(_GAP) + part.cell_len > width:
            yield line
            line = Text()
        line = line.append(_GAP if line else "").append_text(part)
        if line.cell_len > width:
            line.truncate(width, overflow="ellipsis")
    if line:
        yield line
