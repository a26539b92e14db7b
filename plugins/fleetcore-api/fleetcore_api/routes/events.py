"""Server-sent events over the change feed: the id is the position, so ``Last-Event-ID`` goes on where it stopped.

A commit's events come together and only the last carries the id: who is cut off in between is shown the commit again.
The token's rights are asked for anew with each event, and a stream ends at once where they are gone.
A position that is no longer kept is answered by ``event: reset``: read again what you hold, then follow from there.
"""

import contextlib
from collections.abc import AsyncIterator
from typing import Annotated

from litestar import get
from litestar.params import HeaderParameter, QueryParameter
from litestar.response import Stream
from msgspec import json

from fleetcore.errors import NotAuthenticated, NotFound, Refused
from fleetcore.fleet.operators import RightsWatch
from fleetcore.fleet.rights import Rights
from fleetcore.model.events import EventTypes
from fleetcore.model.operator import Permission
from fleetcore.model.store import Event, FeedEntry
from fleetcore.wire.times import format_time
from fleetcore_api.access import Access
from fleetcore_api.parameters import Caller

_PAGE = 100
#: A comment so often keeps proxies from closing a quiet stream.
_HEARTBEAT_S = 15.0

LastEventId = Annotated[str | None, HeaderParameter(name="Last-Event-ID", max_length=20, description="Where to go on.")]
Types = Annotated[
    str | None, QueryParameter(name="type", max_length=256, description="Only types that begin so; commas separate.")
]


@get("/events", permission=Permission.DEVICES_READ, media_type="text/event-stream")
async def events(access: Caller, last_event_id: LastEventId = None, types: Types = None) -> Stream:
    """What happens from now on, or after ``Last-Event-ID``: registrations, changes, commands, campaigns."""
    if last_event_id is None:
        after = await access.fleet.storage.position()
    elif last_event_id.isascii() and last_event_id.isdigit() and len(last_event_id) < 19:
        after = int(last_event_id)
    else:
        raise Refused("Last-Event-ID is a position", remedy="Send the id of the last event, or none")
    wanted = tuple(types.split(",")) if types else ("",)
    return Stream(
        _follow(access, after, wanted),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )


async def _follow(access: Access, after: int, wanted: tuple[str, ...]) -> AsyncIterator[bytes]:
    storage, clock, closing = access.fleet.storage, access.fleet.clock, access.site.closing
    yield b"retry: 2000\n\n"
    if after > await storage.position():
        after = await storage.position()
        yield _message("reset", {"position": after}, after)
    told_s = clock.monotonic_s()
    with access.fleet.operators.watch(access.token) as watch, contextlib.suppress(NotAuthenticated):
        while not closing.is_set() and (rights := await _rights(watch)):
            try:
                entries = await storage.feed(after, _PAGE)
            except NotFound as error:
                oldest = error.ids["oldest"]
                assert isinstance(oldest, int)
                after = oldest - 1
                yield _message("reset", {"position": after}, after)
                continue
            for entry in entries:
                for piece in await _shown(rights, access.fleet.events, entry, wanted):
                    # A slow reader is here for longer than its rights may last: the commit is looked at again then.
                    if not _same(rights, await _rights(watch)):
                        break
                    yield piece
                    told_s = clock.monotonic_s()
                else:
                    after = entry.position
                    continue
                break
            if not entries:
                left_s = max(0.0, told_s + _HEARTBEAT_S - clock.monotonic_s())
                await watch.first(storage.wait_feed(after, left_s), closing.wait())
            # Also while much happens that the caller may not see.
            if clock.monotonic_s() - told_s >= _HEARTBEAT_S:
                yield b": here\n\n"
                told_s = clock.monotonic_s()


async def _rights(watch: RightsWatch) -> Rights | None:
    """The rights as they are now; None where they do not open this route any more. Raises NotAuthenticated."""
    rights = await watch.rights()
    return rights if rights.holds(Permission.DEVICES_READ) else None


def _same(rights: Rights, now: Rights | None) -> bool:
    """Whether the rights are what they were; a change of another principal's makes them anew, and equal."""
    return now is rights or (now is not None and now.to_plain() == rights.to_plain())


async def _shown(rights: Rights, types: EventTypes, entry: FeedEntry, wanted: tuple[str, ...]) -> list[bytes]:
    """An entry's messages, the last of them with the id."""
    visible = [
        event
        for event in entry.events
        if event.type.startswith(wanted) and await rights.sees(types.find(event.type), event.subject, event.data)
    ]
    last = len(visible) - 1
    return [
        _message(one.type, _body(one, entry.position), entry.position if place == last else None)
        for place, one in enumerate(visible)
    ]


def _body(event: Event, position: int) -> dict[str, object]:
    return {
        "type": event.type,
        "subject": event.subject,
        "time": format_time(event.time),
        "actor": event.actor,
        "reason": event.reason,
        "data": event.data,
        "position": position,
    }


def _message(kind: str, body: dict[str, object], position: int | None) -> bytes:
    # JSON holds no line break, so one data line is enough; a type is ours and holds none either.
    head = b"" if position is None else f"id: {position}\n".encode()
    return head + b"event: " + kind.encode() + b"\ndata: " + json.encode(body) + b"\n\n"


HANDLERS = [events]
