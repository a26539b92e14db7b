"""Listening: the adapter that the core opens, and the path of a datagram to its peer."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from random import SystemRandom

from attrs import define, field
from OpenSSL import SSL

from fleetcore.errors import ConfigError
from fleetcore.interfaces.ingest import Ingest
from fleetcore.interfaces.protocol import DevicePlane
from fleetcore.interfaces.provider import Context, TlsMaterial
from fleetcore.listening.sockets import names, open_sockets
from fleetcore.model.credential import CertificateCredential, KeyCredential
from fleetcore.wire.endpoints import Listener
from fleetcore_coap.addresses import Address, name_of, network_of
from fleetcore_coap.app_state import AppState
from fleetcore_coap.association import Association
from fleetcore_coap.clear_text import offers_key
from fleetcore_coap.config import CoapConfig
from fleetcore_coap.contexts import key_server_context, server_context
from fleetcore_coap.crowd import Crowd, Pending
from fleetcore_coap.datagram_adapter import DatagramAdapter, keeping
from fleetcore_coap.echo import Echo
from fleetcore_coap.exchanges import Exchanges
from fleetcore_coap.hellos import Hellos
from fleetcore_coap.key_search import KeySearch
from fleetcore_coap.keyed import KeyedAssociation, Keys
from fleetcore_coap.listening import Door, Places
from fleetcore_coap.peer import Peer
from fleetcore_coap.readings import Readings
from fleetcore_coap.records import look
from fleetcore_coap.sockets import Datagrams

#: Handshakes under way, each of which has returned a cookie from its address; see :class:`Pending` for one more.
_MAX_PENDING = 256
#: Peers of plain CoAP on the loopback.
_MAX_PLAIN = 256
#: A peer without an accepted credential is kept this long after its last message.
_STRANGER_S = 120.0


@define(eq=False)
class _Place:
    """An association and its peer.

    Attributes:
        peer: None until the handshake is complete.
        finding: the lookup of the peer's key.
    """

    address: Address
    network: str
    association: Association | None
    until_s: float
    peer: Peer | None = None
    exchanges: Exchanges | None = None
    timer: asyncio.TimerHandle | None = field(default=None)
    finding: asyncio.Task[None] | None = field(default=None)


class CoapAdapter(DatagramAdapter):
    """An open listener; made by :func:`serve`."""

    def __init__(
        self, config: CoapConfig, listener: Listener, context: Context, plane: DevicePlane, ingest: Ingest
    ) -> None:
        self._config, self._listener, self._context, self._ingest = config, listener, context, ingest
        self._loop = asyncio.get_running_loop()
        self._state = AppState(context=context, plane=plane, ingest=ingest, random=SystemRandom())
        self._readings = Readings(self._state)
        self._places: Places[_Place] = Places()
        budget = context.listening
        self._pending: Pending[_Place] = Pending(_MAX_PENDING, budget.per_address(_MAX_PENDING))
        self._crowd: Crowd[_Place] = Crowd(
            config.associations, budget.per_address(config.associations), budget.limits.per_identity
        )
        self._hellos = Hellos(config.associations, budget.per_address(config.associations), budget.limits.handshake_s)
        #: Set while a check of the waiting hellos is scheduled.
        self._admitting: asyncio.Handle | None = None
        self._material: TlsMaterial | None = None
        self._door: Door | None = None
        if listener.tls:
            self._material = self._current_material()
            self._door = Door(self._tls(self._material))
        self._keys, self._search = Keys(), KeySearch(self._state)
        #: For peers that offer a pre-shared key.
        self._key_door = Door(key_server_context(self._keys.key_of)) if config.psk else None
        bound = open_sockets(config.listen, listener.host, listener.port, datagrams=True)
        scheme = config.listen.partition(":")[0]
        self._endpoints = tuple(f"{scheme}://{name}" for name in names(listener.host, bound))
        self._datagrams = Datagrams(bound, self._received)

    @property
    def endpoints(self) -> Sequence[str]:
        return self._endpoints

    @property
    def connections(self) -> int:
        return len(self._places.live)

    # -- datagrams -------------------------------------------------------------------------------------------------

    def _received(self, address: Address, datagram: bytes) -> None:
        if self._door is None:
            self._plain(address, datagram)
            return
        shown = look(datagram)
        if shown is None:
            return
        place = self._places.whose(address, shown)
        if place is not None:
            self._feed(place, datagram)
        elif shown.is_hello and not (shown.cookie and self._door_for(datagram).knows(address, shown.cookie)):
            self._door_for(datagram).hello(address, datagram, lambda answer: self._datagrams.send(address, answer))
        elif shown.is_hello and not self._places.is_late(address, shown):
            # A late one would begin a handshake that its peer does not answer, and that would keep its place to the
            # end.
            self._asks(address, shown.random, datagram)

    def _door_for(self, hello: bytes) -> Door:
        """A peer offers keys only if it has one, and certificates even without one: so keys go first."""
        assert self._door is not None
        return self._key_door if self._key_door is not None and offers_key(hello) else self._door

    def _asks(self, address: Address, random: bytes, datagram: bytes) -> None:
        """A hello with its cookie: its handshake begins, or it waits."""
        where, now_s = network_of(address), self._context.clock.monotonic_s()
        bound = self._pending.full(where, now_s)
        if not bound and not self._hellos.has(where):
            self._shake_hands(address, random, datagram)
            return
        waits = self._hellos.wait(where, address, datagram, now_s)
        if waits and not bound:
            return
        used = f"{where} uses its share of" if bound == "per_address" else "there are no more than"
        then = "its hellos wait" if waits else "too many hellos wait; the peer repeats this one"
        note = f"{used} {_MAX_PENDING} handshakes at a time; {then}"
        self._context.listening.note(self._context.name, bound or "handshakes", note)

    def _shake_hands(self, address: Address, random: bytes, datagram: bytes) -> None:
        door = self._door_for(datagram)

        def send(out: bytes) -> None:
            self._datagrams.send(address, out)

        connection = door.hello(address, datagram, send)
        if connection is None:
            return
        if door is not self._key_door:
            self._begin(address, random, Association(connection, send))
            return
        keyed = KeyedAssociation(connection, send, self._keys, lambda identity: self._find_key(address, identity))
        self._begin(address, random, keyed)

    def _left(self, place: _Place) -> None:
        """A handshake has ended; the waiting hellos are checked in another turn, after what was read meanwhile."""
        self._pending.leave(place)
        self._admit_soon()

    def _admit_soon(self) -> None:
        if len(self._hellos) and self._admitting is None:
            self._admitting = self._loop.call_soon(self._admit)

    def _admit(self) -> None:
        """Starts one of the waiting hellos, and checks the next one in the next turn."""
        self._admitting = None
        now_s = self._context.clock.monotonic_s()
        if self._pending.closed(now_s):
            return
        found = self._hellos.next(lambda where: not self._pending.full(where, now_s), now_s)
        if found is None:
            return
        address, datagram = found
        shown = look(datagram)
        assert shown is not None  # it was checked before it waited
        if self._places.whose(address, shown) is None and not self._places.is_late(address, shown):
            self._shake_hands(address, shown.random, datagram)
        self._admit_soon()

    def _begin(self, address: Address, random: bytes, association: Association) -> None:
        now_s = self._context.clock.monotonic_s()
        until_s = now_s + self._context.listening.limits.handshake_s
        place = _Place(address, network_of(address), association, until_s)
        replaced = self._places.begin(address, random, place)
        if replaced is not None:
            self._end(replaced)
        displaced = self._pending.enter(place, now_s)
        if displaced is not None:
            self._context.listening.note(self._context.name, "handshakes", f"{displaced.network} has most of them")
            self._end(displaced)
        association.begin()
        self._after(place)

    def _feed(self, place: _Place, datagram: bytes) -> None:
        association = place.association
        assert association is not None
        self._fed(place, association, association.receive(datagram))

    def _find_key(self, address: Address, identity: bytes) -> None:
        _, place = self._places.pending[address]
        association = place.association
        assert isinstance(association, KeyedAssociation)

        def found(messages: list[bytes]) -> None:
            place.finding = None
            self._fed(place, association, messages)

        place.finding = self._search.begin(association, identity, name_of(address), found)

    def _fed(self, place: _Place, association: Association, messages: list[bytes]) -> None:
        if association.established and place.peer is None:
            self._established(place, association)
        if place.peer is not None:
            if messages:
                self._heard(place)
            for message in messages:
                self._message(place, message)
        self._after(place)

    def _established(self, place: _Place, association: Association) -> None:
        self._left(place)
        old = self._places.complete(place.address)
        if old is not None:  # RFC 6347 §4.2.8: only now
            self._end(old)
        place.peer = self._peer(place, association.send, _credential(association))
        self._make_room(self._crowd.enter(place), f"of [protocols.coap] associations = {self._config.associations}")
        self._heard(place)

    def _peer(
        self,
        place: _Place,
        send: Callable[[bytes], None],
        credential: CertificateCredential | KeyCredential | None,
        echo: Echo | None = None,
    ) -> Peer:
        exchanges = Exchanges(send, self._state.random, lambda request: peer.busy(request))  # noqa: PLW0108 - made below
        place.exchanges = exchanges
        peer = Peer(
            self._state,
            name_of(place.address),
            end=lambda: self._end(place),
            identified=lambda: self._identified(place),
            credential=credential,
            exchanges=exchanges,
            echo=echo,
            readings=self._readings,
        )
        return peer

    def _message(self, place: _Place, message: bytes) -> None:
        assert place.peer is not None
        assert place.exchanges is not None
        packet = place.exchanges.receive(message, self._context.clock.monotonic_s())
        if packet is None:
            return
        if packet.is_request:
            place.peer.handle(packet)
        else:  # devices need no check
            place.exchanges.refuse(packet)

    def _heard(self, place: _Place) -> None:
        known = place.peer is not None and place.peer.session is not None
        place.until_s = self._context.clock.monotonic_s() + (self._config.idle_s if known else _STRANGER_S)
        self._crowd.heard(place)

    def _after(self, place: _Place) -> None:
        """Checks whether the association has ended, and when OpenSSL must send its last flight again."""
        association = place.association
        assert association is not None
        if place.timer is not None:
            place.timer.cancel()
            place.timer = None
        if association.ended is not None:
            if isinstance(association, KeyedAssociation):
                self._search.note_refused(association, name_of(place.address))
            self._end(place)
            return
        wait_s = association.timeout_s
        if wait_s is not None:
            # OpenSSL's timer uses the machine's clock, so ours is the loop's.
            place.timer = self._loop.call_later(wait_s + 0.001, self._retransmit, place)

    def _retransmit(self, place: _Place) -> None:
        place.timer = None
        assert place.association is not None
        place.association.retransmit()
        self._after(place)

    def _plain(self, address: Address, datagram: bytes) -> None:
        place = self._places.live.get(address)
        if place is None:
            place = _Place(address, network_of(address), None, 0.0)
            place.peer = self._peer(place, lambda message: self._datagrams.send(address, message), None, Echo(address))
            self._places.live[address] = place
            if len(self._places.live) > _MAX_PLAIN:
                self._end(next(iter(self._places.live.values())))
        self._heard(place)
        assert place.peer is not None
        self._message(place, datagram)

    def _end(self, place: _Place) -> None:
        if place.timer is not None:
            place.timer.cancel()
            place.timer = None
        if place.finding is not None:
            place.finding.cancel()
        self._places.drop(place.address, place)
        if place.association is not None:
            place.association.close()
        self._left(place)
        self._crowd.leave(place)
        if place.peer is not None:
            place.peer.close()

    # -- bounds ----------------------------------------------------------------------------------------------------

    def _identified(self, place: _Place) -> None:
        """Limits the associations of one device: a returning device must not be kept out by old ones."""
        peer = place.peer
        if peer is None or peer.session is None:
            return
        oldest = self._crowd.identified(place, peer.session.identity)
        self._heard(place)
        if oldest is not None:
            self._context.listening.note(
                self._context.name, "per_identity", f"the oldest association of {peer.session.identity} ends"
            )
            self._end(oldest)

    def _make_room(self, passed: tuple[str, _Place] | None, whole: str) -> None:
        """Another handshake or association exceeds a limit; the one that must give way is ended."""
        if passed is None:
            return
        bound, place = passed
        why = f"{place.network} has its part" if bound == "per_address" else "all are taken"
        self._context.listening.note(self._context.name, bound, f"{why} {whole}; the one silent for longest ends")
        self._end(place)

    # -- time ------------------------------------------------------------------------------------------------------

    def sweep(self, now_s: float) -> None:
        """Ends what is silent or slow for too long, and reloads the server's certificate."""
        for place in list(self._places.live.values()):
            if place.until_s <= now_s:
                self._end(place)
        for _, place in list(self._places.pending.values()):
            if place.until_s <= now_s:
                self._context.listening.note(self._context.name, "handshake_s", "a handshake took too long")
                self._end(place)
        self._admit_soon()  # a handshake may have stalled meanwhile, which makes room
        # Files of a few kilobytes: a renewed certificate or a new CA takes effect a second later.
        self._renew()

    def _renew(self) -> None:
        if self._door is None:
            return
        try:
            material = self._current_material()
            if material != self._material:
                self._door.renew(self._tls(material))
                self._material = material
        except (ConfigError, OSError):  # a file is being written: the old ones are used meanwhile
            return

    def _current_material(self) -> TlsMaterial:
        return self._context.tls_of(self._config.listen, plain="coap://127.0.0.1:PORT").material(enrolling=True)

    def _tls(self, material: TlsMaterial) -> SSL.Context:
        tls = self._context.tls
        assert tls is not None
        return server_context(material.chain, material.key, material.trusted, tls.certificate_refused)

    # -- closing ---------------------------------------------------------------------------------------------------

    def end_unfinished(self) -> None:
        """Ends the handshakes under way."""
        self._hellos = Hellos(0, 0, 0.0)
        for _, place in list(self._places.pending.values()):
            self._end(place)

    def end_all(self) -> None:
        """Ends every association."""
        self.end_unfinished()
        for place in list(self._places.live.values()):
            self._end(place)


@asynccontextmanager
async def serve(config: CoapConfig, context: Context, plane: DevicePlane, ingest: Ingest) -> AsyncIterator[CoapAdapter]:
    """Listens as ``config`` says until the context ends; raises as :func:`fleetcore_coap.plugin.open_coap`."""
    async with keeping(CoapAdapter(config, config.listener(), context, plane, ingest), context.name) as adapter:
        yield adapter


def _credential(association: Association) -> CertificateCredential | KeyCredential | None:
    """The peer's credential from its handshake."""
    if isinstance(association, KeyedAssociation):
        assert association.proven is not None
        return KeyCredential(association.proven.decode())
    shown = association.certificate
    return None if shown is None else CertificateCredential(shown)
