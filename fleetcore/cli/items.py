"""All items of a list, read page by page over an open connection."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from fleetcore.cli.connect import Caller
from fleetcore.errors import Unavailable
from fleetcore.frontends.catalogue import PAGE, CallInfo


async def items_of(caller: Caller, call: CallInfo, given: Mapping[str, Any], most: int | None = None) -> list[Any]:
    """All items of a list, or the first ``most``, for a command with an open connection."""
    return [item async for page in pages_of(caller, call, given, most) for item in page]


async def pages_of(
    caller: Caller, call: CallInfo, given: Mapping[str, Any], most: int | None = None
) -> AsyncIterator[Sequence[Any]]:
    """The same, a page at a time: only one page of a long list is in memory."""
    if not any(parameter.name == "cursor" for parameter in call.parameters):
        yield _page(await caller.run(call.name, given))["items"][:most]
        return
    count = 0
    cursor: str | None = None
    while most is None or count < most:
        limit = PAGE if most is None else min(PAGE, most - count)
        page = _page(await caller.run(call.name, {**given, "limit": limit, "cursor": cursor}))
        count += len(page["items"])
        yield page["items"]
        cursor = page["next"]
        if cursor is None:
            break


def _page(answer: Any) -> Mapping[str, Any]:
    """A page of an answer; only the server knows the type of a plugin's call."""
    if isinstance(answer, dict) and isinstance(answer.get("items"), list) and "next" in answer:
        return answer
    message = "The server's answer cannot be read: it is not a page of a list"
    raise Unavailable(message, remedy="Is it a fleetcore server?")
