"""The device plane: what a protocol plugin is lent, and what it offers in return.

A protocol plugin is only wire. It turns a connection into a credential, a packet into an
:class:`~fleetcore.model.message.Inbound`, and a :class:`~fleetcore.model.message.Downlink` into a packet. Which device
may say what, what is stored and what waits for a device is decided behind :class:`DevicePlane` and, for messages to be
committed, :class:`~fleetcore.interfaces.ingest.Ingest`.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from ssl import SSLContext
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

from attrs import field, frozen

from fleetcore.model.credential import Credential
from fleetcore.model.message import Downlink, Inbound, MessageType, Rejected, Reply

if TYPE_CHECKING:
    from fleetcore.wire.messages import EnrollBody


class Ending(ABC):
    """Something that lives as long as a connection, or until the rights end that it rests on."""

    @property
    @abstractmethod
    def ended(self) -> str | None:
        """None while alive; else the code of why it ended, ``closed`` or ``device_revoked`` for example."""

    @abstractmethod
    def on_end(self, callback: Callable[[str], None]) -> None:
        """``callback(code)`` is called once when the session ends: close the connection then. At once if it has."""

    @abstractmethod
    def close(self) -> None:
        """The connection is gone; idempotent."""


class CloseOnce(Ending):
    """Ends for the first reason that it is given, and tells its callbacks once."""

    __slots__ = ("_callbacks", "_ended")

    def __init__(self) -> None:
        self._ended: str | None = None
        self._callbacks: list[Callable[[str], None]] = []

    @property
    def ended(self) -> str | None:
        return self._ended

    def on_end(self, callback: Callable[[str], None]) -> None:
        if self._ended is not None:
            callback(self._ended)
        else:
            self._callbacks.append(callback)

    def close(self) -> None:
        self.end("closed")

    def end(self, code: str) -> None:
        """Ends it for a reason; the first one stays."""
        if self._ended is not None:
            return
        self._ended = code
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(code)


class Session(Ending):
    """An authenticated device on one connection. It ends with the connection, or when the device loses its rights."""

    @property
    @abstractmethod
    def identity(self) -> str:
        """The device that the credential names."""


class ClaimSession(Ending):
    """A peer that has shown a batch's claim certificate on one connection: it may enrol devices and do nothing else.

    Any number may be open by one certificate, and none of them takes over from another;
    how many and for how long is the adapter's to bound. It ends with the connection, or when the batch is disabled.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """The certificate's common name, ``fleetcore:claim:<batch>``, which no device can have."""

    @abstractmethod
    def denied(self, what: str, code: str, **data: object) -> None:
        """Writes down that the adapter has refused it something; ``what`` is a word, ``data`` has the rest."""

    @abstractmethod
    async def call(self, message: Inbound) -> Reply:
        """``enroll``, ``ca.get`` or ``time``, answered; every other type of message is refused, which is written down.

        The body of ``enroll`` is ``{"csr", "parameters"}``, or in a second step ``{"ownership_token", "parameters"}``.
        Never raises for a claimant's mistake: the reply carries the problem then.
        """


@frozen(kw_only=True)
class EnrollRequest:
    """A device asks for a certificate.

    Attributes:
        csr: PKCS #10, PEM or DER; empty in the second step of a claim, which has ``ownership``.
        token: an enrolment token, or None.
        certificate: what the peer has shown in TLS, DER, or None: a claim certificate, a manufacturer's, or one that
            the device has already.
        ownership: the ownership token that the first step of a claim gave, or None.
        at_once: both steps of a claim in this one request.
        renewal: the certificate shown has to be the device's own.
        parameters: whatever the device says about itself.
        source: where it came from, for the audit.
        protocol: the adapter's name.
    """

    csr: bytes = b""
    token: str | None = field(default=None, repr=False)
    certificate: bytes | None = None
    ownership: str | None = field(default=None, repr=False)
    at_once: bool = False
    renewal: bool = False
    parameters: Mapping[str, object] = field(factory=dict)
    source: str = ""
    protocol: str = ""

    @classmethod
    def of(
        cls,
        body: "EnrollBody",
        *,
        token: str | None = None,
        certificate: bytes | None = None,
        source: str,
        protocol: str,
    ) -> Self:
        """The request that a body and what the peer has shown make; ``token`` may be from either: the caller says."""
        return cls(
            csr=(body.csr or "").encode("ascii"),
            token=token,
            certificate=certificate,
            ownership=body.ownership_token,
            parameters=body.parameters or {},
            source=source,
            protocol=protocol,
        )


class ArtifactReader(ABC):
    """An artifact that the subject may download."""

    @property
    @abstractmethod
    def sha256(self) -> str:
        """64 hex digits; also its ETag."""

    @property
    @abstractmethod
    def size_bytes(self) -> int:
        """Of the whole artifact."""

    @abstractmethod
    def read(self, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Bytes ``start <= i < end`` in pieces."""


class DevicePlane(ABC):
    """What a protocol is lent. All methods belong to one event loop."""

    @abstractmethod
    async def authenticate(
        self, credential: Credential, *, protocol: str, peer: str = "", lasting: bool = True
    ) -> Session:
        """Opens a session.

        ``protocol`` is the adapter's name and ``peer`` the remote address, both for people to read. A device's second
        session on one protocol instance does not end the first; an adapter whose protocol has takeover does that.
        ``lasting``: the device is online while the session is open and offline when its last one ends. False where
        connections come and go with the messages, as on HTTP: then only the messages tell that it is there.

        Raises:
            NotAuthenticated: ``not_authenticated``, ``certificate_invalid``.
            NotAuthorised: ``device_unknown``, ``device_revoked``, ``device_retired``. (A suspended device gets a
                session; its messages are refused.)
        """

    async def claim(self, certificate: bytes, *, protocol: str, peer: str = "") -> ClaimSession | None:
        """Opens a session by a claim certificate; None where the TLS peer's certificate (DER) is none.

        For protocols that keep connections; asked before :meth:`authenticate`, to which every other certificate goes
        at no cost. A plane without an override takes no claim certificates.

        Raises:
            NotAuthenticated: ``certificate_invalid``.
            NotAuthorised: ``not_authorised``; the batch is disabled or unknown.
        """
        del certificate, protocol, peer
        return None

    async def shared_key(self, token_id: str, *, protocol: str, peer: str = "") -> bytes | None:
        """The key that a device proves to have by PSK or OSCORE; None where the token is not good, which is noted.

        ``token_id`` and the key are as :mod:`fleetcore.wire.shared_keys` makes them. A peer that has proved that it has
        the key is authenticated by :class:`~fleetcore.model.credential.KeyCredential`. A plane without an override
        takes no such keys.
        """
        del token_id, protocol, peer
        return None

    def key_refused(self, token_id: str, *, protocol: str, peer: str = "") -> None:
        """A peer has named a token and does not have the key that :meth:`shared_key` gave for it: it is noted.

        ``token_id`` is empty where the peer named none that can be read.
        """
        del token_id, protocol, peer

    @abstractmethod
    async def call(self, session: Session, message: Inbound) -> Reply:
        """Any message that a device sends, answered: calls with content, uplinks with their outcome after the commit.

        Never raises for a device's mistake: the reply carries the problem then.
        """

    @abstractmethod
    def refused(self, session: Session | None, message: Inbound, rejected: Rejected, *, protocol: str) -> None:
        """The adapter has refused a message by itself, before it handed it on: it is counted, and kept for operators.

        Without a session, as of a peer that has not shown a credential, it is counted only. ``protocol`` is as for
        :meth:`authenticate`.
        What :meth:`call` and :class:`~fleetcore.interfaces.ingest.Ingest` refuse is noted by them.
        """

    @abstractmethod
    def listen(self, session: Session, sink: Callable[[Downlink], None]) -> None:
        """Has downlinks for the identity and its leaves handed to ``sink`` until the session ends.

        ``sink`` must not block. What is unfinished comes at once: desired state (``since: 0``), commands, the offer.
        Handing over counts as *sent*, never as delivered.
        """

    @abstractmethod
    def add_broker_sink(self, sink: Callable[[Downlink], None]) -> Callable[[], None]:
        """Has downlinks for every device without a listening session handed to ``sink``: for a broker in between.

        Returns what ends it.
        """

    def watch_revocations(self, revoked: Callable[[frozenset[str]], None]) -> Callable[[], None]:
        """``revoked(devices)`` after revocations, once the revocation list that names them is written.

        For a broker in between, which has connections of its own; sessions end without it. With no devices the list
        was renewed. Returns what ends it.
        """
        del revoked
        return lambda: None

    @abstractmethod
    async def wait(
        self, session: Session, subject: str, what: MessageType, *, after: int = 0, timeout_s: float = 0.0
    ) -> Mapping[str, object] | None:
        """The wire body of what waits for ``subject``, as soon as there is some, or None after the time-out.

        ``what`` is a row with ``waits``. ``twin.desired``: a change newer than version ``after``. ``command``: the
        snapshot ``{"commands", "more"}``. ``firmware``: the offer, or its withdrawal. ``inbox``: all of them.

        Raises:
            NotAuthorised: the subject is foreign, or may not speak.
        """

    @abstractmethod
    async def pending(self, session: Session, subject: str) -> Mapping[str, int]:
        """What waits: counts of ``commands`` and ``firmware``, the version of ``desired``; only what there is."""

    @abstractmethod
    async def enroll(self, request: EnrollRequest) -> Reply:
        """A CSR in, a chain out (docs/reference/wire.md §11): status 201, 202 while pending, or a problem."""

    @abstractmethod
    async def open_artifact(self, session: Session, subject: str, sha256: str) -> ArtifactReader:
        """An artifact of an open offer of ``subject``; raises NotFound (``artifact_unknown``) for any other."""


@frozen(kw_only=True)
class Finding:
    """What an examination of something that runs has shown; ``state`` is ok, warning or problem."""

    state: Literal["ok", "warning", "problem"]
    what: str
    detail: str
    remedy: str = ""


class ProtocolAdapter(ABC):
    """An open protocol. Its opener has it listening before it yields and closes every connection when it ends."""

    @property
    @abstractmethod
    def endpoints(self) -> Sequence[str]:
        """The URLs it really listens on (port 0 resolved), or the broker's; empty for the in-process protocol."""

    @property
    def connections(self) -> int:
        """Open connections, for ``doctor`` and metrics."""
        return 0

    @property
    def listens(self) -> bool:
        """Whether devices connect to its endpoints, which ``doctor`` then tries as one; not so behind a broker."""
        return True

    async def examine(self) -> Sequence[Finding]:
        """Looks for what is wrong around the protocol, such as a broker's access list; for ``doctor``."""
        return ()

    @property
    def trouble(self) -> str:
        """Why no message can come in now though it is open, such as a broker out of reach; empty where all is well."""
        return ""

    @abstractmethod
    async def drain(self) -> None:
        """Stops accepting and reading; returns once every message already read is answered."""


@frozen(kw_only=True)
class DeviceSecrets:
    """What a device has to prove itself and to trust the server.

    Attributes:
        certificate: the chain, PEM, leaf first, or None before enrolment.
        key: the private key, PEM, or None.
        ca: the CA bundle, PEM.
        token: a device token instead of a certificate, or None.
    """

    device: str
    certificate: bytes | None = None
    key: bytes | None = field(default=None, repr=False)
    ca: bytes | None = None
    token: str | None = field(default=None, repr=False)

    def tls(self) -> SSLContext:
        """A client context that trusts only ``ca`` and shows the certificate, where there is one."""
        from fleetcore.wire.tls import client_context  # the ssl module is not needed to import a plugin

        return client_context(ca=self.ca, certificate=self.certificate, key=self.key)


class DeviceClient(ABC):
    """The device's side of a protocol: what the simulator is handed and what device code may use.

    An async context manager: entering connects, leaving disconnects cleanly. One connection; a lost one raises
    :class:`~fleetcore.errors.Unavailable` from what is under way, and the owner opens a new client.
    """

    @abstractmethod
    async def __aenter__(self) -> Self:
        """Connects and authenticates; raises what :meth:`DevicePlane.authenticate` raises, or Unavailable."""

    @abstractmethod
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Says goodbye where the protocol has a word for it, and closes."""

    @abstractmethod
    async def send(
        self,
        type: MessageType,
        body: object,
        *,
        subject: str | None = None,
        target: str | None = None,
        id: str | None = None,
    ) -> Reply:
        """Sends an uplink and returns when the server has acknowledged it, so it is committed.

        ``body`` is plain data or ready bytes. A refusal comes as a reply with ``error``. On MQTT 3.1.1 a permanent
        refusal cannot be told apart in the acknowledgement: it comes as a downlink ``errors``.
        """

    @abstractmethod
    async def request(self, type: MessageType, body: object = None, *, subject: str | None = None) -> Reply:
        """Any operation that is answered with content: twin.get, time, inbox, ca.get, leaf.register."""

    @abstractmethod
    def downlinks(self) -> AsyncIterator[Downlink]:
        """What the server sends; ends when the client closes. At most one reader."""

    @abstractmethod
    async def enroll(self, request: EnrollRequest) -> Reply:
        """Asks for a certificate. Raises :class:`~fleetcore.errors.Refused` where the protocol cannot enrol."""

    @abstractmethod
    def artifact(self, sha256: str, start: int = 0) -> AsyncIterator[bytes]:
        """Downloads an artifact from byte ``start``. Raises Refused where the protocol cannot download."""
