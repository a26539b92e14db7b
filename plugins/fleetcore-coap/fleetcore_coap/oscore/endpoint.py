"""Listening on ``coap://`` for messages under OSCORE: finds the context of a datagram, and enforces limits.

No state is kept of an address before a message from it has proved to be a device's and new, except for a few places of
unprotected peers. A refusal is shorter than its request, and has the standard's text (RFC 8613 §8.2).
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from random import SystemRandom
from weakref import WeakSet

from fleetcore.errors import ConfigError, Unavailable
from fleetcore.interfaces.ingest import Ingest
from fleetcore.interfaces.protocol import DevicePlane
from fleetcore.interfaces.provider import Context
from fleetcore.listening.sockets import names, open_sockets
from fleetcore.model.credential import KeyCredential
from fleetcore.wire.shared_keys import SharedKey, is_token_id
from fleetcore_coap.addresses import Address, name_of, network_of
from fleetcore_coap.app_state import AppState
from fleetcore_coap.codec import (
    BAD_OPTION,
    BAD_REQUEST,
    METHOD_NOT_ALLOWED,
    UNAUTHORIZED,
    Kind,
    Malformed,
    Method,
    Option,
    Packet,
    addressed,
    decode,
    encode,
)  # fmt: skip
from fleetcore_coap.config import CoapConfig
from fleetcore_coap.datagram_adapter import DatagramAdapter, keeping
from fleetcore_coap.echo import Echo
from fleetcore_coap.oscore.contexts import Kept
from fleetcore_coap.oscore.header import read
from fleetcore_coap.oscore.lookups import MAX, Lookups, Waiting
from fleetcore_coap.oscore.numbers import Numbers
from fleetcore_coap.oscore.secured import Secured
from fleetcore_coap.oscore.security import (
    DEVICE,
    SERVER,
    UNDECODABLE,
    Forged,
    NotOpened,
    Replayed,
    Security,
    Unfresh,
)  # fmt: skip
from fleetcore_coap.oscore.way import Way
from fleetcore_coap.peer import Peer
from fleetcore_coap.readings import Readings
from fleetcore_coap.request import empty
from fleetcore_coap.sockets import Datagrams

#: Unprotected addresses.
_MAX_STRANGERS = 256
#: A peer that is not a device yet is kept this long after its last message.
_STRANGER_S = 120.0
_NO_CONTEXT = "Security context not found"
#: Planes that already have a listener with OSCORE.
_served: WeakSet[DevicePlane] = WeakSet()


class OscoreAdapter(DatagramAdapter):
    """An open listener; made by :func:`serve`."""

    def __init__(self, config: CoapConfig, context: Context, plane: DevicePlane, ingest: Ingest) -> None:
        self._config, self._context, self._plane = config, context, plane
        self._state = AppState(context=context, plane=plane, ingest=ingest, random=SystemRandom())
        self._readings = Readings(self._state)
        self.numbers = Numbers(context)
        self._reserving: asyncio.Task[None] | None = None
        self._kept: Kept[Secured] = Kept(config.associations)
        self._ways: dict[Address, Way] = {}
        self._awake: set[Way] = set()
        self._strangers: OrderedDict[Address, Way] = OrderedDict()
        self._lookups = Lookups(
            self._key_of,
            self._found,
            self._no_room,
            per_address=context.listening.per_address(MAX),
            now_s=self._now_s,
            spawn=self._state.spawn,
        )
        listener = config.listener()
        bound = open_sockets(config.listen, listener.host, listener.port, datagrams=True)
        self._endpoints = tuple(f"coap://{name}" for name in names(listener.host, bound))
        self._datagrams = Datagrams(bound, self._received)

    @property
    def endpoints(self) -> Sequence[str]:
        return self._endpoints

    @property
    def connections(self) -> int:
        return len(self._kept) + len(self._strangers)

    # -- datagrams -------------------------------------------------------------------------------------------------

    def _received(self, address: Address, datagram: bytes) -> None:
        try:
            packet = decode(datagram)
        except Malformed:
            return  # it may be ignored (RFC 7252 §4.2), and anybody can forge a source
        if not packet.is_request or packet.kind not in {Kind.CON, Kind.NON}:
            self._signal(address, packet)
        elif packet.get(Option.OSCORE) is None:
            self._unprotected(address, packet)
        else:
            self._protected(address, packet)

    def _signal(self, address: Address, packet: Packet) -> None:
        """An acknowledgement, a reset, a ping, or an unexpected response."""
        way = self._ways.get(address)
        if way is None:
            return
        response = way.exchanges.take(packet, self._now_s())
        if response is not None:
            way.exchanges.refuse(response)

    def _unprotected(self, address: Address, packet: Packet) -> None:
        """Handles a request without a credential: only public paths; short answers until the address is verified."""
        now_s = self._now_s()
        way = self._way(address)
        self._strangers[address] = way
        self._strangers.move_to_end(address)
        way.stranger_until_s = now_s + _STRANGER_S
        if way.stranger is None:
            way.stranger = Peer(
                self._state,
                way.name,
                end=lambda: self._forget(way),
                identified=lambda: None,
                credential=None,
                exchanges=way.exchanges,
                echo=Echo(address),
                readings=self._readings,
            )
        if len(self._strangers) > _MAX_STRANGERS:
            self._forget(next(iter(self._strangers.values())))
        request = way.exchanges.take(packet, now_s)
        if request is not None:
            way.stranger.handle(request)

    def _protected(self, address: Address, packet: Packet) -> None:
        way, now_s = self._ways.get(address), self._now_s()
        if way is not None and way.exchanges.repeated(packet, now_s):
            return
        header = read(packet.get(Option.OSCORE) or b"")
        if packet.code not in {Method.POST, Method.FETCH}:
            self._refuse(address, packet, METHOD_NOT_ALLOWED)
        elif header is None or header.piv is None or header.kid is None:
            self._refuse(address, packet, BAD_OPTION, UNDECODABLE)
        elif header.kid != DEVICE or header.context is None or not is_token_id(header.context.decode("latin-1")):
            self._refuse(address, packet, UNAUTHORIZED, _NO_CONTEXT)
        else:
            token = header.context.decode()
            secured = self._kept.find(token)
            if secured is None:
                self._lookups.wait(token, network_of(address), name_of(address), (address, packet))
            else:
                self._open(secured, address, packet, now_s)

    def _open(self, secured: Secured, address: Address, packet: Packet, now_s: float) -> None:
        try:
            opened = secured.security.open(packet)
        except NotOpened as error:
            code = {Replayed: UNAUTHORIZED, Forged: BAD_REQUEST}.get(type(error), BAD_OPTION)
            if isinstance(error, Forged):
                self._plane.key_refused(secured.token, protocol=self._context.name, peer=name_of(address))
            self._refuse(address, packet, code, str(error))
            return
        if isinstance(opened, Unfresh):
            self._challenge(secured, address, packet, opened, now_s)
            return
        self._make_room(self._kept.heard(secured))
        self._heard(secured)
        left = secured.take(self._way(address), packet, opened, now_s)
        if left is not None:
            self._drop_unused(left)

    def _challenge(self, secured: Secured, address: Address, packet: Packet, unfresh: Unfresh, now_s: float) -> None:
        # In both cases the device repeats its request.
        if not self.numbers.at_hand or not secured.may_challenge(now_s):
            self._context.count("oscore_challenges_held_back")
            return
        echo = secured.security.echo_recovery
        secured.seal(
            empty(UNAUTHORIZED, (Option.ECHO, echo)), unfresh.binding, lambda outer: self._reply(address, packet, outer)
        )

    def _refuse(self, address: Address, packet: Packet, code: int, text: str = "") -> None:
        """Unprotected, and without an answer to a non-confirmable request; never longer than the request."""
        self._context.count(f"oscore_refused_{code >> 5}{code & 31:02}")
        if packet.kind is not Kind.CON:
            return
        answer = Packet(kind=Kind.ACK, code=code, options=((Option.MAX_AGE, b""),), payload=text.encode())
        longest = len(encode(packet))
        if len(encode(addressed(answer, Kind.ACK, packet.mid, packet.token))) > longest:
            answer = empty(code)
        self._reply(address, packet, answer)

    def _reply(self, address: Address, request: Packet, answer: Packet) -> None:
        """Answers without keeping state of the exchange."""
        confirmed = request.kind is Kind.CON
        kind, mid = (Kind.ACK, request.mid) if confirmed else (Kind.NON, self._state.random.getrandbits(16))
        self._datagrams.send(address, encode(addressed(answer, kind, mid, request.token)))

    # -- contexts --------------------------------------------------------------------------------------------------

    async def _key_of(self, token: str, name: str) -> bytes | None:
        try:
            return await self._plane.shared_key(token, protocol=self._context.name, peer=name)
        except Exception as error:  # the store fails; the peer asks again
            self._context.logger.exception("The key of %s could not be looked up", name)
            raise Unavailable("The key cannot be looked up", code="not_ready") from error

    def _found(self, token: str, key: bytes | None, waiting: list[Waiting]) -> None:
        if key is not None:
            self._make_room(self._kept.enter(self._made(SharedKey(token, key))))
        for address, packet in waiting:
            if key is None:
                self._refuse(address, packet, UNAUTHORIZED, _NO_CONTEXT)
            else:
                self._protected(address, packet)

    def _made(self, key: SharedKey) -> Secured:
        echo = self._kept.echo(key.token)
        security = Security(key, SERVER, DEVICE, self.numbers.take, echo)
        secured = Secured(key.token, security, self.numbers, self._awake.add)
        secured.peer = Peer(
            self._state,
            "",
            end=lambda: self._end(secured),
            identified=lambda: self._heard(secured),
            credential=KeyCredential(key.token),
            exchanges=secured,
            readings=self._readings,
        )
        self._heard(secured)
        return secured

    def _heard(self, secured: Secured) -> None:
        kept_s = _STRANGER_S if secured.peer.session is None else self._config.idle_s
        secured.until_s = self._now_s() + kept_s

    def _no_room(self, bound: str, where: str) -> None:
        used = f"{where} uses its share of" if bound == "per_address" else "there are no more than"
        note = f"{used} {MAX} key lookups; the peer repeats its request"
        self._context.listening.note(self._context.name, bound, note)

    def _make_room(self, passed: Secured | None) -> None:
        if passed is None:
            return
        if passed.security.proved:
            most = f"[protocols.{self._context.name}] associations = {self._config.associations}"
            self._context.listening.note(
                self._context.name,
                "associations",
                f"{most} is reached; the association that was silent for longest ends",
            )
        self._end(passed)

    def _end(self, secured: Secured) -> None:
        self._kept.leave(secured)
        secured.close()
        for way in secured.ways:
            way.users.discard(secured)
            self._drop_unused(way)
        secured.ways = []

    # -- ways ------------------------------------------------------------------------------------------------------

    def _way(self, address: Address) -> Way:
        way = self._ways.get(address)
        if way is None:
            way = Way(address, name_of(address), lambda out: self._datagrams.send(address, out), self._state.random)
            self._ways[address] = way
        return way

    def _forget(self, way: Way) -> None:
        """Drops state of unprotected messages."""
        self._strangers.pop(way.address, None)
        if way.stranger is not None:
            way.stranger.close()
            way.stranger = None
        self._drop_unused(way)

    def _drop_unused(self, way: Way) -> None:
        if not way.users and way.stranger is None:
            self._ways.pop(way.address, None)
            self._awake.discard(way)

    # -- time ------------------------------------------------------------------------------------------------------

    def _now_s(self) -> float:
        return self._context.clock.monotonic_s()

    async def tick(self) -> None:
        """Handles repetitions and expiry."""
        if self._reserving is None or self._reserving.done():
            # A task, so that repetitions go on while a store is slow.
            self._reserving = self._state.spawn(self.numbers.keep(), "numbers")
        now_s = self._now_s()
        for way in list(self._awake):
            if not way.tick(now_s):
                self._awake.discard(way)
        await super().tick()

    def sweep(self, now_s: float) -> None:
        """Ends contexts that were silent for too long."""
        for secured in self._kept.all():
            if secured.until_s <= now_s:
                self._end(secured)
        for way in list(self._strangers.values()):
            if way.stranger_until_s <= now_s:
                self._forget(way)

    def end_all(self) -> None:
        """Ends every context and drops every address."""
        for secured in self._kept.all():
            self._end(secured)
        for way in list(self._strangers.values()):
            self._forget(way)


@asynccontextmanager
async def serve(
    config: CoapConfig, context: Context, plane: DevicePlane, ingest: Ingest
) -> AsyncIterator[OscoreAdapter]:
    """Listens while the context lasts; raises as :func:`fleetcore_coap.plugin.open_coap`.

    A fleet has one such listener: with two, each would have a replay window for the same key, so a message to one could
    be replayed to the other.
    """
    if plane in _served:
        raise ConfigError(
            f"{config.listen} would be a second listener of this fleet with oscore = true",
            remedy="Use one section with oscore = true; it listens on all addresses with coap://[::]:5683",
        )
    _served.add(plane)
    try:
        async with keeping(OscoreAdapter(config, context, plane, ingest), context.name) as adapter:
            await adapter.numbers.open()
            yield adapter
    finally:
        _served.discard(plane)
