"""One device's connection: how it opens, what it subscribes to, and how it ends.

Order of a connection: authenticate, then authorise, and only then touch state that other connections can see (the class
of NanoMQ #2333). Publications go through :mod:`.uplinks`, downlinks through :mod:`.downlinks`; the bytes are in
:mod:`.stream`. A peer with a claim certificate is not a device yet: :mod:`.claim_connection` serves it.
"""

import asyncio
from collections.abc import Callable
from enum import Enum, auto

from fleetcore.errors import FleetError, NotAuthenticated, Refused, Unavailable
from fleetcore.interfaces import ClaimSession, Session
from fleetcore.listening.applicants import Applicants
from fleetcore.model.credential import CertificateCredential, Credential, TokenCredential
from fleetcore.model.message import UNKNOWN, Inbound, Rejected
from fleetcore.wire.replies import problem
from fleetcore.wire.times import format_time
from fleetcore_mqtt import topics
from fleetcore_mqtt.bodies import closing
from fleetcore_mqtt.claim_connection import ClaimConnection
from fleetcore_mqtt.downlinks import WINDOW, Downlinks
from fleetcore_mqtt.framing import CONNECT_BYTES
from fleetcore_mqtt.host import Host
from fleetcore_mqtt.packets import (
    PINGRESP,
    Codec,
    Connect,
    Disconnect,
    PingReq,
    PubAck,
    Reason,
    Subscribe,
    Unsubscribe,
    Violation,
    Welcome,
    Will,
)
from fleetcore_mqtt.sessions import EXPIRY_S
from fleetcore_mqtt.stream import Hold, PacketStream
from fleetcore_mqtt.uplinks import TOPIC_BYTES, Uplinks, content_type
from fleetcore_mqtt.v5 import V5
from fleetcore_mqtt.v311 import V311

#: The device plane must authenticate it within this time, or the client is asked to connect later.
AUTHENTICATION_S = 30.0
#: A client that reads nothing for this long is disconnected.
UNWRITABLE_S = 30.0
#: After this, a closed connection whose peer does not read the rest is aborted.
LINGER_S = 5.0
#: The longest keep alive, which CONNACK tells a version 5 client.
KEEP_ALIVE_S = 1200
#: Bytes in the transport's buffer before downlinks wait in the outbox, which is bounded.
WRITE_BUFFER_BYTES = 256 * 1024

_CODECS: dict[int, Codec] = {4: V311(), 5: V5()}


class _State(Enum):
    WAITING = auto()
    AUTHENTICATING = auto()
    OPEN = auto()


class Connection(PacketStream):
    """One connection; see the module. Everything runs on the endpoint's loop."""

    def __init__(self, host: Host, lost: Callable[[], None] = lambda: None) -> None:
        super().__init__(CONNECT_BYTES)
        self._lost = lost
        self._host = host
        self._state = _State.WAITING
        self._codec = _CODECS[4]
        self._session: Session | None = None
        self._uplinks: Uplinks | None = None
        self._downlinks: Downlinks | None = None
        self._claimant: ClaimConnection | None = None
        self._will: Will | None = None
        self._reasons = True
        self._expiry_s = 0
        self._silence_s = 0.0
        # Moments of the monotonic clock for the sweep, in seconds.
        self._opened_s = self._heard_s = host.clock.monotonic_s()
        self._asked_s = self._opened_s
        self._unwritable_s: float | None = None
        self._closed_s: float | None = None

    @property
    def identity(self) -> str:
        """The device, or empty before it is authenticated."""
        return "" if self._session is None else self._session.identity

    @property
    def busy(self) -> bool:
        """Whether a packet was read and is not answered yet."""
        if self.closed:
            return False
        if self._claimant is not None:
            return self._claimant.busy
        return self._state is _State.AUTHENTICATING or (self._uplinks is not None and self._uplinks.busy)

    def drain(self) -> None:
        """Stops reading; what was read is answered."""
        self.hold(Hold.DRAIN)

    def end(self, reason: Reason, text: str = "", *, will: bool = False) -> None:
        """Gives the reason, if the version can, and closes. Idempotent.

        The will is not published if the server ends the connection of a live device: at shutdown, takeover, overload
        and revocation.
        """
        if self.closed:
            return
        match self._state:
            case _State.OPEN:
                self._say_why(reason, text)
            case _State.AUTHENTICATING:
                self.send(self._codec.refuse(reason, text))
            case _State.WAITING:
                self._host.count("mqtt_no_connect")
        if not will:
            self._will = None
        self._close()

    def broken(self, violation: Violation) -> None:
        session = self._session
        message = Inbound(type=UNKNOWN, subject=self.identity, payload=b"")
        rejected = Rejected(code="protocol_violation", reason=str(violation))
        self._host.plane.refused(session, message, rejected, protocol=self._host.name)
        super().broken(violation)

    def _say_why(self, reason: Reason, text: str) -> None:
        """Sends the DISCONNECT, or a message on ``errors`` if the version has none."""
        if self._codec.version >= 5:
            self.send(self._codec.disconnect(reason, text if self._reasons else ""))
        elif self._downlinks is not None:
            self._downlinks.complain(closing(reason, text, self._host.clock.now_ms()))

    def _close(self) -> None:
        """The only way in which a connection ends, from either side."""
        self.flush()
        self.closed = True
        self._closed_s = self._host.clock.monotonic_s()
        downlinks = self._downlinks
        if downlinks is not None and self._session is not None and self._session.ended is None:
            self._host.sessions.keep(self.identity, downlinks.filters, downlinks.outbox.unacked, self._expiry_s)
        if self.transport is not None:
            self.transport.close()

    def sweep(self, now_s: float) -> None:
        """Called about once a second: closes the connection if a deadline has passed."""
        if self._closed_s is not None:
            if now_s - self._closed_s >= LINGER_S:
                self.abort()
        elif self._state is _State.WAITING:
            if now_s - self._opened_s >= self._host.connect_s:
                self.end(Reason.PROTOCOL_ERROR)
        elif self._state is _State.AUTHENTICATING:
            if now_s - self._asked_s >= AUTHENTICATION_S:
                self.end(Reason.UNAVAILABLE)
        elif self._uplinks and self._uplinks.retries.overdue(now_s):
            self._uplinks.retries.give_up()
        elif self._claimant is not None and now_s >= self._claimant.until_s:
            self.end(Reason.CONNECT_TIME)
        elif self._unwritable_s is not None and now_s - self._unwritable_s >= UNWRITABLE_S:
            self._host.count("mqtt_slow_consumer")
            self.end(Reason.QUOTA, will=True)
        elif self.heard or self.held:
            self.heard, self._heard_s = False, now_s
        elif self._silence_s and now_s - self._heard_s > self._silence_s:
            self.end(Reason.KEEP_ALIVE, will=True)

    # -- asyncio.Protocol -----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._host.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - how it was lost changes nothing
        self.transport = None
        if not self.closed:
            self._close()
        self._host.lost(self)
        self._lost()
        if self._claimant is not None:
            self._claimant.lost()
        session, will = self._session, self._will
        if session is not None:
            if will is None or session.ended is not None:
                session.close()
            else:
                self._host.spawn(self._publish_will(session, will), f"mqtt will of {session.identity}")
        # Each refers to this connection, which holds OpenSSL memory; the collector frees such a cycle only after hours.
        self._uplinks = self._downlinks = self._claimant = None

    def pause_writing(self) -> None:
        self._unwritable_s = self._host.clock.monotonic_s()
        if self._downlinks is not None:
            self._downlinks.outbox.pause()
        # Otherwise acknowledgements would pile up: a client that does not read is not read.
        self.hold(Hold.WRITING)

    def resume_writing(self) -> None:
        self._unwritable_s = None
        if self._downlinks is not None:
            self._downlinks.outbox.resume()
        self.release(Hold.WRITING)

    # -- packets --------------------------------------------------------------------------------------------------

    def begins(self, first: int) -> None:
        if self._state is _State.WAITING and first != 0x10:
            raise Violation("the first packet must be CONNECT", Reason.PROTOCOL_ERROR)

    def packet(self, data: bytes, start: int, at: int, end: int) -> None:
        if self._uplinks is not None and data[start] & 0xF0 == 0x30:
            self._uplinks.publish(data, start, at, end)
        elif self._downlinks is not None:
            self._control(self._downlinks, data, start, at, end)
        elif self._claimant is not None:
            self._claimant.packet(data, start, at, end)
        else:
            self._first(data, start, at, end)

    def _control(self, downlinks: Downlinks, data: bytes, start: int, at: int, end: int) -> None:
        match self._codec.read(data, start, at, end):
            case PubAck(packet_id):
                downlinks.outbox.acknowledged(packet_id)
            case PingReq():
                self.send(PINGRESP)
            case Subscribe() as packet:
                downlinks.subscribe(packet)
            case Unsubscribe() as packet:
                downlinks.unsubscribe(packet)
            case Disconnect() as packet:
                self._leave(packet)
            case Connect():
                raise Violation("a second CONNECT", Reason.PROTOCOL_ERROR)

    def _first(self, data: bytes, start: int, at: int, end: int) -> None:
        self.begins(data[start])
        if end < at + 7 or data[at : at + 6] != b"\0\4MQTT":
            raise Violation("the protocol is not MQTT")
        codec = _CODECS.get(data[at + 6])
        if codec is None:
            self._state = _State.AUTHENTICATING
            self.end(Reason.VERSION)
            return
        self._codec = codec
        if codec.version >= 5:
            # From here on its end is answered with a reason; MQTT 3.1.1 (§3.1.4) just closes.
            self._state = _State.AUTHENTICATING
        connect = codec.read(data, start, at, end)
        assert isinstance(connect, Connect)
        self._state = _State.AUTHENTICATING
        self._asked_s = self._host.clock.monotonic_s()
        self.hold(Hold.AUTHENTICATION)
        self._host.spawn(self._authenticate(connect), "mqtt authentication")

    def _leave(self, packet: Disconnect) -> None:
        """The client's DISCONNECT: its will is dropped, unless it asks for it (MQTT 5.0 §3.14.2.1)."""
        if packet.expiry_s is not None:
            if packet.expiry_s and not self._expiry_s:
                raise Violation("a session without an expiry cannot get one", Reason.PROTOCOL_ERROR)
            self._expiry_s = min(packet.expiry_s, EXPIRY_S)
        if packet.reason != Reason.WITH_WILL:
            self._will = None
        self._close()

    # -- opening --------------------------------------------------------------------------------------------------

    async def _authenticate(self, connect: Connect) -> None:
        if connect.authentication_method is not None:
            self.end(Reason.AUTHENTICATION_METHOD)
            return
        session: Session | ClaimSession | None = None
        try:
            credential, name, peer = self._credential(connect), self._host.name, self.peer
            if isinstance(credential, CertificateCredential):
                session = await self._host.plane.claim(credential.der, protocol=name, peer=peer)
            if session is None:
                session = await self._host.plane.authenticate(credential, protocol=name, peer=peer)
        except NotAuthenticated as error:
            self.end(Reason.NOT_AUTHORISED if connect.password is None else Reason.BAD_CREDENTIAL, error.code)
        except Refused as error:
            self.end(Reason.NOT_AUTHORISED, error.code)
        except FleetError as error:
            if not isinstance(error, Unavailable):
                self._host.logger.warning("authentication failed: %s", error)
            self.end(Reason.UNAVAILABLE, error.code)
        else:
            if isinstance(session, ClaimSession):
                self._serve_claim(connect, session)
                return
            objection = None if self.closed else _objection(connect, session.identity, self._codec.version)
            if self.closed or objection is not None:
                session.close()
            if objection is not None:
                self.end(objection)
            elif not self.closed:
                self._open(connect, session)

    def _credential(self, connect: Connect) -> Credential:
        der = self.peer_certificate
        if der:
            return CertificateCredential(der)
        if connect.password is None:
            raise NotAuthenticated("neither a client certificate nor a device token was given")
        try:
            return TokenCredential(connect.password.decode(), connect.username or None)
        except UnicodeDecodeError as error:
            raise NotAuthenticated("the device token is not valid text") from error

    def _open(self, connect: Connect, session: Session) -> None:
        host, codec = self._host, self._codec
        self._session, self._state = session, _State.OPEN
        self._reasons = connect.reasons
        refused = None if connect.will is None else _will_refusal(connect.will, session.identity)
        self._will = connect.will if refused is None else None
        self.limit_bytes = host.packet_bytes
        host.authenticated(session.identity, self)
        kept = host.sessions.take(session.identity)
        if connect.clean:
            kept = None
        self._expiry_s = min(connect.expiry_s, EXPIRY_S)
        asked = connect.keep_alive_s
        # Only version 5 can be told another interval; for a 3.1.1 client without one TCP's keep-alive is used.
        imposed = None if 0 < asked <= KEEP_ALIVE_S or codec.version < 5 else KEEP_ALIVE_S
        self._silence_s = (asked if imposed is None else imposed) * 1.5
        window = min(connect.receive_maximum, WINDOW)
        downlinks = Downlinks(self, host, codec, session, window=window, packet_bytes=connect.packet_bytes)
        self._downlinks = downlinks
        self._uplinks = Uplinks(self, host, codec, session, downlinks, reasons=connect.reasons)
        self.send(
            codec.welcome(
                Welcome(
                    session_present=kept is not None,
                    assigned_id=None if connect.client_id else session.identity,
                    keep_alive_s=imposed,
                    expiry_s=None if self._expiry_s == connect.expiry_s else self._expiry_s,
                    receive_maximum=host.in_flight,
                    packet_bytes=host.packet_bytes,
                    reason="" if refused is None or not connect.reasons else f"{refused.code}: {refused.reason}",
                )
            )
        )
        self.release(Hold.AUTHENTICATION)
        if kept is not None:
            downlinks.restore(kept)
        if connect.will is not None and refused is not None:
            self._drop_will(session, connect.will, refused)
        session.on_end(self._session_ended)

    def _serve_claim(self, connect: Connect, session: ClaimSession) -> None:
        """Opens for a peer that may enrol: no device session is affected, whatever the client id."""
        if self.closed:
            session.close()
            return
        objection = _claim_objection(self._host.claimants, connect, session, self._codec)
        if objection is not None:
            session.close()
            self._host.count("mqtt_claim_refused")
            self.end(objection)
            return
        self._state, self._reasons = _State.OPEN, connect.reasons
        self._silence_s = connect.keep_alive_s * 1.5  # of any length: the whole connection is bounded
        self._claimant = ClaimConnection(self, self._host, self._codec, session, connect, self._leave)
        self.release(Hold.AUTHENTICATION)
        session.on_end(self._session_ended)

    def _drop_will(self, session: Session, will: Will, refused: Rejected) -> None:
        """Continues without the will: bridges and gateways send wills that are meant for brokers."""
        message = Inbound(type=UNKNOWN, subject=session.identity, payload=will.payload, target=will.topic[:TOPIC_BYTES])
        self._host.plane.refused(session, message, refused, protocol=self._host.name)
        if self._downlinks is not None:
            received = format_time(self._host.clock.now_ms())
            self._downlinks.complain(problem(refused, topic=will.topic[:TOPIC_BYTES], received=received))

    def _session_ended(self, code: str) -> None:
        # When the plane ends, it closes the sessions of all devices before the endpoint does.
        self.end(Reason.SHUTTING_DOWN if code == "closed" else Reason.ADMINISTRATIVE, code)

    async def _publish_will(self, session: Session, will: Will) -> None:
        """Submits the will as a message of the device, checked by its rights at this moment."""
        try:
            delay_s = min(will.delay_s, self._expiry_s)
            if delay_s:
                await self._host.clock.sleep(delay_s)
                if self._host.is_connected(session.identity):
                    return
            meaning = topics.parse(will.topic)
            assert meaning is not None
            assert meaning.type is not None
            message = Inbound(
                type=meaning.type,
                subject=meaning.subject,
                payload=will.payload,
                content_type=content_type(will.content_type, will.payload, senml=meaning.senml),
                id=will.id,
                target=meaning.target,
            )
            await self._host.ingest.submit(session, message)
        except FleetError as error:
            self._host.logger.warning("the will of %s is lost: %s", session.identity, error)
        finally:
            session.close()


def _objection(connect: Connect, identity: str, version: int) -> Reason | None:
    """Why an authenticated client is refused nevertheless, or None: for its client id, or the QoS of its will."""
    if connect.client_id not in {"", identity}:
        return Reason.CLIENT_ID
    if not connect.client_id and not connect.clean and version < 5:
        return Reason.CLIENT_ID  # MQTT 3.1.1 §3.1.3.1
    # Why a claimant is refused at its CONNECT, or None.
    return Reason.QOS if connect.will is not None and connect.will.qos == 2 and version >= 5 else None


def _claim_objection(claimants: Applicants, connect: Connect, session: ClaimSession, codec: Codec) -> Reason | None:
    """Why a claimant is refused at its CONNECT, or None."""
    if connect.will is not None:
        session.denied("will", "not_authorised")
        return Reason.NOT_AUTHORISED
    if not connect.client_id and not connect.clean and codec.version < 5:
        return Reason.CLIENT_ID  # MQTT 3.1.1 §3.1.3.1
    if claimants.full(session.name):
        session.denied("session", "overloaded")
        return Reason.BUSY
    return None


def _will_refusal(will: Will, identity: str) -> Rejected | None:
    """Why a will is dropped, or None: a message that the device may not send, or that means nothing."""
    meaning = topics.parse(will.topic)
    if meaning is not None and meaning.device != identity:
        return Rejected(code="not_your_device", reason="the will is dropped: its topic belongs to another device")
    if meaning is None or meaning.type not in topics.DELIVERED:
        return Rejected(code="topic_invalid", reason=f"the will is dropped: {identity} cannot publish to its topic")
    return None
