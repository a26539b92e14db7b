"""Key lookups, and the requests that wait for them: a few of each, and of each address a part."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine

from attrs import define, field

from fleetcore.errors import FleetError
from fleetcore_coap.addresses import Address
from fleetcore_coap.codec import Packet
from fleetcore_coap.crowd import Pending

#: As many as handshakes under way with DTLS.
MAX = 256
#: Requests that wait for one key. A device has one request under way; a peer repeats dropped ones.
_MAX_WAITING = 4

Waiting = tuple[Address, Packet]


@define(eq=False)
class _Lookup:
    network: str
    waiting: list[Waiting] = field(factory=list)
    task: "asyncio.Task[None] | None" = None


class Lookups:
    """The lookups; see the module.

    Args:
        find: the key of a token by its id and the name of an address; None if the token is not valid.
        found: called with the id, the key, and the requests that waited for it.
        full: called with the limit if there is no room for another one.
        per_address: the part of :data:`MAX` for one address.
        now_s: the monotonic clock.
        spawn: runs each one in a named task.
    """

    def __init__(
        self,
        find: Callable[[str, str], Awaitable[bytes | None]],
        found: Callable[[str, bytes | None, list[Waiting]], None],
        full: Callable[[str, str], None],
        *,
        per_address: int,
        now_s: Callable[[], float],
        spawn: "Callable[[Coroutine[object, object, None], str], asyncio.Task[None]]",
    ) -> None:
        self._find, self._found, self._full = find, found, full
        self._now_s, self._spawn = now_s, spawn
        self._pending: Pending[_Lookup] = Pending(MAX, per_address)
        self._by_token: dict[str, _Lookup] = {}

    def wait(self, token: str, network: str, name: str, waiting: Waiting) -> None:
        """Makes a request wait for the key of a token; drops it if there is no room."""
        lookup = self._by_token.get(token)
        if lookup is None:
            now_s = self._now_s()
            bound = self._pending.full(network, now_s)
            if bound:
                self._full(bound, network)
                return
            lookup = self._by_token[token] = _Lookup(network)
            displaced = self._pending.enter(lookup, now_s)
            if displaced is not None and displaced.task is not None:
                displaced.task.cancel()
            lookup.task = self._spawn(self._look_up(token, name, lookup), "key of a peer")
        if len(lookup.waiting) < _MAX_WAITING:
            lookup.waiting.append(waiting)

    async def _look_up(self, token: str, name: str, lookup: _Lookup) -> None:
        try:
            key = await self._find(token, name)
        except FleetError:  # the store fails: the peer asks again
            lookup.waiting.clear()
            return
        finally:
            self._pending.leave(lookup)
            del self._by_token[token]
        self._found(token, key, lookup.waiting)
