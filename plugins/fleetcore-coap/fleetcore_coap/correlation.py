"""A client's waiting requests and observations, by token."""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from random import SystemRandom

from fleetcore.errors import Unavailable
from fleetcore_coap.codec import Packet

#: RFC 7252 §5.3.1: against guessed answers; over TLS nothing can be guessed, so few bytes suffice.
_TOKEN_BYTES = 4


class Correlation:
    """The waiting requests of one connection."""

    def __init__(self, random: SystemRandom) -> None:
        self._random = random
        self._waiting: dict[bytes, asyncio.Future[Packet]] = {}
        self._observing: dict[bytes, asyncio.Queue[Packet | None]] = {}
        self._lost = False

    def new_token(self) -> bytes:
        """A token that no request uses."""
        while True:
            token = self._random.randbytes(_TOKEN_BYTES)
            if token not in self._waiting and token not in self._observing:
                return token

    @contextmanager
    def waiting(self, token: bytes) -> "Iterator[asyncio.Future[Packet]]":
        """The answer to the request with this token."""
        self._waiting[token] = answer = asyncio.get_running_loop().create_future()
        try:
            yield answer
        finally:
            self._waiting.pop(token, None)

    @contextmanager
    def observing(self, tokens: Iterable[bytes], heard: "asyncio.Queue[Packet | None]") -> Iterator[None]:
        """Puts notifications into a queue, and None once the connection is lost."""
        mine = tuple(tokens)
        self._observing.update(dict.fromkeys(mine, heard))
        if self._lost:
            heard.put_nowait(None)
        try:
            yield
        finally:
            for token in mine:
                self._observing.pop(token, None)

    def expects(self, packet: Packet) -> bool:
        """Whether something waits for a message with this token."""
        return packet.token in self._waiting or packet.token in self._observing

    def observes(self, token: bytes) -> bool:
        """Whether an observation has this token."""
        return token in self._observing

    def take(self, packet: Packet) -> None:
        """Handles a response: the answer of a request, else a notification of the observation."""
        waiting, heard = self._waiting.get(packet.token), self._observing.get(packet.token)
        if waiting is not None and not waiting.done():
            waiting.set_result(packet)
        elif heard is not None:
            heard.put_nowait(packet)

    def lose(self, token: bytes, why: str) -> None:
        """Fails the request with this token."""
        waiting = self._waiting.get(token)
        if waiting is not None:
            fail(waiting, why)

    def end(self, why: str) -> None:
        """The connection is lost: everything that waits fails."""
        self._lost = True
        for waiting in self._waiting.values():
            fail(waiting, why)
        for heard in dict.fromkeys(self._observing.values()):
            heard.put_nowait(None)


def fail(waiting: "asyncio.Future[Packet] | asyncio.Future[None]", why: str) -> None:
    """Fails a wait whose connection is lost; a waiting task gets the error, otherwise nothing is raised."""
    if not waiting.done():
        waiting.set_exception(Unavailable(why, code="not_ready"))
        waiting.exception()
