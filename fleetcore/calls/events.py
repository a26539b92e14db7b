"""Events of commits: listed, or followed as they are committed."""

from collections.abc import AsyncIterator, Sequence
from typing import Annotated

from msgspec import Meta

from fleetcore.calls.caller import Caller
from fleetcore.calls.responses.events import EventResponse
from fleetcore.calls.selection import Selection, followable
from fleetcore.calls.table import BY_CALL, call
from fleetcore.calls.types import EVENT_PREFIX, In, Ms, Where, to_builtins
from fleetcore.errors import NotFound
from fleetcore.fleet.rights import Rights
from fleetcore.model.events import device_of
from fleetcore.model.operator import Permission
from fleetcore.model.store import Event, FeedEntry

After = Annotated[int, Meta(ge=0, lt=10**18, description="Start after this position."), In("last-event-id")]
TypePrefixes = Annotated[
    Sequence[Annotated[str, Meta(pattern=EVENT_PREFIX)]],
    Meta(max_length=100, description="Only types that begin with this."),
]

Marks = Annotated[
    bool, Meta(description="Send the position too, as items of the type `position`: at the start, and while quiet.")
]

#: The type of an item that only names the position.
POSITION = "position"
_PAGE = 100
#: The longest single wait for the feed; then it is asked again.
_WAIT_S = 60.0
#: Between two items that only name the position.
_MARK_S = 5.0


@call(
    "GET /events", Permission.DEVICES_READ, scope=BY_CALL, cli="event watch",
    columns=("time", "type", "subject", "actor", "reason"),
)  # fmt: skip
async def watch_events(
    caller: Caller,
    *,
    after: After | None = None,
    type: TypePrefixes = (),
    where: Where | None = None,
    marks: Marks = False,
) -> AsyncIterator[EventResponse]:
    """Follows events as they are committed: those that the caller may see, from now on or after a position.

    A query limits them to events about devices that it selects when they are sent.

    With ``marks`` a watch that has seen no event can be resumed exactly, too.

    The events of a commit come together. If the caller's rights change during a commit, that commit is sent again under
    the new rights.

    Raises:
        QuerySyntaxError: the query cannot be read.
        Refused: the passing of time alone changes what the query selects.
        NotFound: the feed after that position is trimmed; ``ids["oldest"]`` is the first available position.
        NotAuthenticated: the caller's token has ended.
        NotAuthorised: the caller may no longer follow events.
    """
    selection = None if where is None else Selection(caller, followable(where))
    storage = caller.fleet.storage
    newest = await storage.position()
    position = newest if after is None else after
    if position > newest:
        raise NotFound(f"The fleet has not reached position {position}", oldest=newest + 1)
    known: Rights | None = None
    clock = caller.fleet.clock
    marked, marked_s = -1, -_MARK_S
    with caller.waiting() as wait:
        while True:
            rights = await rights_to_follow(caller, "watch_events")
            if selection is not None and (known is None or not same_rights(known, rights)):
                selection.narrow()
            known = rights
            if marks and position != marked and clock.monotonic_s() - marked_s >= _MARK_S:
                marked, marked_s = position, clock.monotonic_s()
                yield _mark(position, clock.now_ms())
            entries = await storage.feed(position, _PAGE)
            for entry in entries:
                for event in await _visible(caller, entry, tuple(type), selection):
                    # With a slow reader this lasts longer than the rights may.
                    if not same_rights(rights, await rights_to_follow(caller, "watch_events")):
                        break
                    yield event
                else:
                    position = entry.position
                    continue
                break
            if not entries:
                await wait(storage.wait_feed(position, _WAIT_S))


def _mark(position: int, now: int) -> EventResponse:
    return EventResponse(type=POSITION, subject="", time=Ms(now), actor="", reason="", data={}, position=position)


async def rights_to_follow(caller: Caller, what: str) -> Rights:
    """The caller's current rights. Raises NotAuthenticated, NotAuthorised."""
    rights = await caller.renewed()
    if not rights.holds(Permission.DEVICES_READ):
        raise caller.denied(what, Permission.DEVICES_READ)
    return rights


def same_rights(rights: Rights, now: Rights) -> bool:
    """Whether the rights are unchanged; a change of another principal's makes them anew, and equal."""
    return now is rights or now.to_plain() == rights.to_plain()


async def is_visible(caller: Caller, event: Event) -> bool:
    """Whether the caller may see an event."""
    return await caller.rights.sees(caller.fleet.events.find(event.type), event.subject, event.data)


async def selected(events: Sequence[Event], prefixes: tuple[str, ...], selection: Selection | None) -> list[Event]:
    """The events of types with one of these beginnings, if any, about devices of a selection, if given."""
    wanted = [event for event in events if not prefixes or event.type.startswith(prefixes)]
    if selection is None:
        return wanted
    about = [(event, device_of(event)) for event in wanted]
    return [event for event, device in about if device is not None and await selection.holds(device)]


async def _visible(
    caller: Caller, entry: FeedEntry, prefixes: tuple[str, ...], selection: Selection | None
) -> list[EventResponse]:
    if selection is not None:
        selection.see(entry)
    wanted = await selected(entry.events, prefixes, selection)
    seen = [event for event in wanted if await is_visible(caller, event)]
    return [event_response(event, entry.position if event is seen[-1] else None) for event in seen]


def event_response(event: Event, position: int | None = None) -> EventResponse:
    """An event as an answer."""
    return EventResponse(
        type=event.type,
        subject=event.subject,
        time=Ms(event.time),
        actor=event.actor,
        reason=event.reason,
        data=to_builtins(event.data),
        position=position,
    )
