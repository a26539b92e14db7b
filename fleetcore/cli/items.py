"""All items of a list, read page after page over an open connection."""

from collections.abc import Mapping
from typing import Any

from fleetcore.cli.connect import Caller
from fleetcore.errors import Unavailable
from fleetcore.frontends.catalogue import PAGE, CallInfo


async def items_of(caller: Caller, call: CallInfo, given: Mapping[str, Any], most: int | None = None) -> list[Any]:
    """All items of a list, or the first ``most``, for a command that has its connection."""
    if not any(parameter.name == "cursor" for parameter in call.parameters):
        whole: list[Any] = _page(await caller.run(call.name, given))["items"]
        return whole[:most]
    found: list[Any] = []
    cursor: str | None = None
    while most is None or len(found) < most:
        limit = PAGE if most is None else min(PAGE, most - len(found))
        page = _page(await caller.run(call.name, {**given, "limit": limit, "cursor": cursor}))
        found += page["items"]
        cursor = page["next"]
        if cursor is None:
            break
    return found


def _page(answer: Any) -> Mapping[str, Any]:
    """A page that was answered; of a plugin's call only its server knows the answer's type."""
    if isinstance(answer, dict) and isinstance(answer.get("items"), list) and "next" in answer:
        return answer
    raise Unavailable("The server's answer cannot be read: it is no page", remedy="Is it a fleetcore server?")
