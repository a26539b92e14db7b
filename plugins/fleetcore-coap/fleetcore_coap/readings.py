"""The fast path of messages that only wait for their commit: no task for each, and one for the answers of a burst.

Unusual requests (blocks, conditions, a path that asks the plane, a mistake) go the normal way, in a separate task,
where they are answered and refused.
"""

import asyncio
from functools import partial
from typing import Protocol

from fleetcore.errors import FleetError
from fleetcore.interfaces.protocol import Session
from fleetcore.model.message import Direction, Outcome
from fleetcore_coap.app_state import AppState
from fleetcore_coap.codec import Method, Option, Packet
from fleetcore_coap.formats import CBOR, JSON
from fleetcore_coap.request import Request, Speaker
from fleetcore_coap.routes import find

_USUAL = frozenset(
    {Option.URI_HOST, Option.URI_PORT, Option.URI_PATH, Option.URI_QUERY, Option.CONTENT_FORMAT, Option.ACCEPT}
)


_FORMS = frozenset({None, JSON, CBOR})


class Finishing(Speaker, Protocol):
    """A peer with requests of the fast path."""

    async def finish(self, request: Request, outcome: Outcome) -> None:
        """Answers a request by its outcome."""


class Readings:
    """The fast path of one listener. The answering task runs while anything is under way, so drains can wait for it."""

    def __init__(self, state: AppState) -> None:
        self._state, self._most_bytes = state, state.context.limits.message_bytes
        self._under_way = 0
        self._ended: list[tuple[Finishing, Request, Outcome]] = []
        self._news = asyncio.Event()

    def take(self, peer: Finishing, session: Session, packet: Packet) -> bool:
        """Takes a request; False if it has to go the normal way."""
        if packet.code != Method.POST or any(number not in _USUAL for number, _ in packet.options):
            return False
        if (
            packet.uint(Option.ACCEPT) not in {None, JSON, CBOR}
            or len(packet.payload) > self._state.context.limits.message_bytes
        ):
            return False
        try:
            match = find(packet.texts(Option.URI_PATH))
            if match is None or match.row is None or packet.code not in match.methods or match.sequence:
                return False
            if match.row.direction is not Direction.UP or match.row.media_types or match.row.checks_version:
                return False
            request = Request(peer=peer, packet=packet, match=match, body=packet.payload, session=session)
            message = request.inbound(target=match.target)
        except FleetError:
            return False
        self._under_way += 1
        if self._under_way == 1:
            self._state.spawn(self._answer(), "answers")
        self._state.ingest.deliver(session, message, partial(self._done, peer, request))
        return True

    def _done(self, peer: Finishing, request: Request, outcome: Outcome) -> None:
        """The plane's answer, within its own turn of the loop: nothing is written here, only collected."""
        self._ended.append((peer, request, outcome))
        self._news.set()

    async def _answer(self) -> None:
        while self._under_way:
            await self._news.wait()
            self._news.clear()
            ended, self._ended = self._ended, []
            for peer, request, outcome in ended:
                try:
                    await peer.finish(request, outcome)
                except Exception:
                    self._state.context.logger.exception("A request of %s failed", peer.name)
            self._under_way -= len(ended)
