"""The quarantine: refused messages, stored for examination, retry or removal."""

import base64
from typing import Annotated

from msgspec import Meta

from fleetcore.calls.caller import Caller, missing
from fleetcore.calls.cursors import page_of
from fleetcore.calls.responses.dead_letters import DeadLetterResponse, ReplayResponse
from fleetcore.calls.table import BY_CALL, call
from fleetcore.calls.types import Cursor, Limit, Names, Page, Reason, to_response
from fleetcore.errors import NotFound
from fleetcore.model.dead_letter import DeadLetter
from fleetcore.model.message import Rejected
from fleetcore.model.operator import Permission
from fleetcore.runtime.replay import discard, replay

LetterNumber = Annotated[
    int, Meta(ge=0, le=2**53, description="The message's number, from the list."), Names("list_dead_letters", "number")
]


async def _letter(caller: Caller, number: int) -> DeadLetter:
    caller.asked = True
    try:
        found = await caller.fleet.dead_letters.get(number)
    except NotFound:
        raise missing("dead letter", str(number)) from None
    await caller.item(found.device, "dead letter", str(number))
    return found


@call(
    "GET /quarantine", Permission.QUARANTINE_READ, scope=BY_CALL, cli="quarantine list",
    columns=("number", "time", "device", "operation", "code", "reason"),
)  # fmt: skip
async def list_dead_letters(
    caller: Caller, *, limit: Limit = 100, cursor: Cursor | None = None
) -> Page[DeadLetterResponse]:
    """Lists the stored refused messages, the oldest first."""
    letters = await caller.fleet.dead_letters.list()
    allowed = await caller.allowed(frozenset(letter.device for letter in letters))
    mine = [letter for letter in letters if letter.device in allowed]
    return page_of(
        mine,
        cursor,
        limit,
        lambda item: f"{item.number:016d}",
        lambda item: to_response(DeadLetterResponse, item, text=None),
    )


@call("GET /quarantine/{number}", Permission.QUARANTINE_READ, scope=BY_CALL, cli="quarantine show NUMBER")
async def get_dead_letter(caller: Caller, number: LetterNumber) -> DeadLetterResponse:
    """Shows a refused message with its payload.

    Raises:
        NotFound: there is no such message.
    """
    letter = await _letter(caller, number)
    return to_response(DeadLetterResponse, letter, text=base64.b64decode(letter.payload).decode("utf-8", "replace"))


@call("POST /quarantine/{number}/replay", Permission.QUARANTINE_WRITE, scope=BY_CALL, cli="quarantine replay NUMBER")
async def replay_dead_letter(caller: Caller, number: LetterNumber, *, reason: Reason = "") -> ReplayResponse:
    """Sends a refused message through the data path again, with its original time of receipt.

    If it is refused again, it is stored as a new one.

    Raises:
        NotFound: there is no such message.
        Refused: its payload was cut.
    """
    letter = await _letter(caller, number)
    outcome = await replay(caller.fleet, letter, actor=caller.actor, reason=reason)
    if isinstance(outcome, Rejected):
        return ReplayResponse(number=number, accepted=False, code=outcome.code, reason=outcome.reason)
    return ReplayResponse(number=number, accepted=True)


@call(
    "DELETE /quarantine/{number}", Permission.QUARANTINE_WRITE, scope=BY_CALL, cli="quarantine discard NUMBER",
    status=204, confirm="Removes the refused message {number} for good.",
)  # fmt: skip
async def discard_dead_letter(caller: Caller, number: LetterNumber, *, reason: Reason = "") -> None:
    """Removes a refused message for good.

    Raises:
        NotFound: there is no such message.
    """
    await discard(caller.fleet, await _letter(caller, number), actor=caller.actor, reason=reason)
