"""The device plane: what the core gives a protocol plugin, and what the plugin provides in return.

A protocol plugin handles only the wire. It turns a connection into a credential, a packet into an
:class:`~fleetcore.model.message.Inbound`, and a :class:`~fleetcore.model.message.Downlink` into a packet.
:class:`DevicePlane` decides which device may send what and what waits for a device;
:class:`~fleetcore.interfaces.ingest.Ingest` takes the messages that are committed.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from ssl import SSLContext
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

from attrs import field, frozen

from fleetcore.model.credential import Credential
from fleetcore.model.file_span import FileSpan
from fleetcore.model.message import Downlink, Inbound, MessageType, Rejected, Reply

if TYPE_CHECKING:
    from fleetcore.wire.messages import EnrollBody


class Ending(ABC):
    """A session: it lasts as long as its connection, or until the rights that it rests on end."""

    @property
    @abstractmethod
    def ended(self) -> str | None:
        """None while it is open; else the code of why it ended, such as ``closed`` or ``device_revoked``."""

    @abstractmethod
    def on_end(self, callback: Callable[[str], None]) -> None:
        """Calls ``callback(code)`` once when the session ends, or at once if it has: close the connection then."""

    @abstractmethod
    def close(self) -> None:
        """Ends the session because the connection is gone; idempotent."""


class CloseOnce(Ending):
    """A session that ends for the first reason given, and calls its callbacks once."""

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
        """Ends the session for a reason; the first reason stays."""
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
        """The device that the credential identifies."""


class ClaimSession(Ending):
    """A peer that has presented a batch's claim certificate on one connection: it may only enrol devices.

    Any number may be open with one certificate, without takeover; the adapter bounds their number and duration. A
    claimant ends with the connection, or when the batch is disabled.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """The certificate's common name, ``fleetcore:claim:<batch>``, which no device can have."""

    @abstractmethod
    def denied(self, what: str, code: str, **data: object) -> None:
        """Records that the adapter has refused a request; ``what`` is a word, ``data`` has the details."""

    @abstractmethod
    async def call(self, message: Inbound) -> Reply:
        """Answers ``enroll``, ``ca.get`` or ``time``; refuses and records every other message type.

        The body of ``enroll`` is ``{"csr", "parameters"}``, or in a second step ``{"ownership_token", "parameters"}``.
        Never raises for a claimant's mistake: the reply then carries the problem.
        """


@frozen(kw_only=True)
class EnrollRequest:
    """A device asks for a certificate.

    Attributes:
        csr: PKCS #10, PEM or DER; empty in the second step of a claim, which sends ``ownership``.
        token: an enrolment token, or None.
        certificate: the peer's TLS certificate, DER, or None: a claim certificate, a manufacturer's, or one of the
            device.
        ownership: the ownership token from the first step of a claim, or None.
        at_once: both steps of a claim in this one request.
        renewal: ``certificate`` must be the device's.
        parameters: what the device says about itself.
        source: the peer's address, for the audit.
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
        """Makes the request from a body and the peer's credentials; the caller takes ``token`` from either."""
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
        """Yields the bytes ``start <= i < end`` in pieces."""

    def spans(self, start: int = 0, end: int | None = None) -> AsyncIterator[FileSpan] | None:
        """As :meth:`read`, in parts of a file that the kernel can send; None, the default, if no file holds them."""
        del start, end
        return None


#: Takes a downlink; False if it could not.
Sink = Callable[[Downlink], bool | None]


class DevicePlane(ABC):
    """What the core gives a protocol. All methods belong to one event loop."""

    @abstractmethod
    async def authenticate(
        self, credential: Credential, *, protocol: str, peer: str = "", lasting: bool = True
    ) -> Session:
        """Opens a session.

        ``protocol`` is the adapter's name and ``peer`` the remote address, both for display. A device's second session
        on one protocol instance does not end the first; an adapter whose protocol has takeover ends it itself.
        ``lasting``: the device is online while the session is open and offline when its last one ends. Pass False where
        connections come and go with the messages, as on HTTP: then each message shows that the device is online.

        Raises:
            NotAuthenticated: ``not_authenticated``, ``certificate_invalid``.
            NotAuthorised: ``device_unknown``, ``device_revoked``, ``device_retired``. (A suspended device gets a
                session; its messages are refused.)
        """

    async def claim(self, certificate: bytes, *, protocol: str, peer: str = "") -> ClaimSession | None:
        """Opens a claimant's session; None where the TLS peer's certificate (DER) is not a claim certificate.

        For protocols that keep connections. Ask it before :meth:`authenticate`, which takes every other certificate;
        the extra check is cheap. By default a plane takes no claim certificates.

        Raises:
            NotAuthenticated: ``certificate_invalid``.
            NotAuthorised: ``not_authorised``; the batch is disabled or unknown.
        """
        del certificate, protocol, peer
        return None

    async def shared_key(self, token_id: str, *, protocol: str, peer: str = "") -> bytes | None:
        """The key that a device must prove by PSK or OSCORE; None where the token is not valid, which is recorded.

        ``token_id`` and the key are as :mod:`fleetcore.wire.shared_keys` makes them. A peer that has proved the key is
        authenticated by :class:`~fleetcore.model.credential.KeyCredential`. By default a plane takes no such keys.
        """
        del token_id, protocol, peer
        return None

    def key_refused(self, token_id: str, *, protocol: str, peer: str = "") -> None:
        """Records that a peer named a token and failed to prove the key that :meth:`shared_key` gave for it.

        ``token_id`` is empty where the peer named none that can be read.
        """
        del token_id, protocol, peer

    @abstractmethod
    async def call(self, session: Session, message: Inbound) -> Reply:
        """Handles any device message: calls return content, uplinks return their outcome after the commit.

        Never raises for a device's mistake: the reply then carries the problem.
        """

    @abstractmethod
    def refused(self, session: Session | None, message: Inbound, rejected: Rejected, *, protocol: str) -> None:
        """Records a message that the adapter itself refused: it is counted, and stored for operators.

        Without a session, such as before authentication, it is only counted. ``protocol`` is as for
        :meth:`authenticate`. :meth:`call` and :class:`~fleetcore.interfaces.ingest.Ingest` record their own refusals.
        """

    @abstractmethod
    def listen(self, session: Session, sink: Sink) -> None:
        """Passes downlinks for the identity and its leaves to ``sink`` until the session ends.

        ``sink`` must not block. If it returns False, it could not pass the downlink on, for example because the device
        has not subscribed to it; a command then comes again when the session listens anew. Unfinished downlinks come
        at once: desired state (``since: 0``), commands, the offer. Passing them on counts as *sent*, never as
        delivered.
        """

    @abstractmethod
    def add_broker_sink(self, sink: Sink) -> Callable[[], None]:
        """Passes downlinks for every device without a listening session to ``sink``: for an external broker.

        Returns a function that ends it.
        """

    def watch_revocations(self, revoked: Callable[[frozenset[str]], None]) -> Callable[[], None]:
        """Calls ``revoked(devices)`` after revocations, once the revocation list that names them is written.

        For an external broker, which has its own connections; sessions end without it. With no devices, the list was
        renewed. Returns a function that ends it.
        """
        del revoked
        return lambda: None

    @abstractmethod
    async def wait(
        self, session: Session, subject: str, what: MessageType, *, after: int = 0, timeout_s: float = 0.0
    ) -> Mapping[str, object] | None:
        """Waits until something is pending for ``subject``, and returns its wire body; None on time-out.

        ``what`` is a message type with ``waits``. ``twin.desired``: a change newer than version ``after``. ``command``:
        the snapshot ``{"commands", "more"}``. ``firmware``: the offer, or its withdrawal. ``inbox``: all of them.

        Raises:
            NotAuthorised: the subject is not the session's, or may not send.
        """

    @abstractmethod
    async def pending(self, session: Session, subject: str) -> Mapping[str, int]:
        """What is pending: counts of ``commands`` and ``firmware``, the version of ``desired``; no empty entries."""

    @abstractmethod
    async def enroll(self, request: EnrollRequest) -> Reply:
        """A CSR in, a chain out (docs/reference/wire.md §11): status 201, 202 while pending, or a problem."""

    @abstractmethod
    async def open_artifact(self, session: Session, subject: str, sha256: str) -> ArtifactReader:
        """An artifact of an open offer of ``subject``; raises NotFound (``artifact_unknown``) for any other."""


@frozen(kw_only=True)
class Finding:
    """The finding of a health check; ``state`` is ok, warning or problem."""

    state: Literal["ok", "warning", "problem"]
    what: str
    detail: str
    remedy: str = ""


class ProtocolAdapter(ABC):
    """An open protocol. Its opener listens before it yields and closes every connection when it ends."""

    @property
    @abstractmethod
    def endpoints(self) -> Sequence[str]:
        """The URLs it listens on (port 0 resolved), or the broker's; empty for the in-process protocol."""

    @property
    def connections(self) -> int:
        """The number of open connections, for ``doctor`` and metrics."""
        return 0

    @property
    def listens(self) -> bool:
        """Whether devices connect to its endpoints, so that ``doctor`` tries them; False behind a broker."""
        return True

    async def examine(self) -> Sequence[Finding]:
        """Checks the protocol's surroundings, such as a broker's access list; for ``doctor``."""
        return ()

    @property
    def trouble(self) -> str:
        """Why it cannot receive messages although it is open, such as an unreachable broker; empty where it can."""
        return ""

    @abstractmethod
    async def drain(self) -> None:
        """Stops accepting and reading; returns when every message already read is answered."""


@frozen(kw_only=True)
class DeviceSecrets:
    """What a device uses to prove its identity and to trust the server.

    Attributes:
        certificate: the chain, PEM, leaf first, or None before enrolment.
        key: the private key, PEM, or None.
        ca: the CA bundle, PEM.
        token: a device token instead of a certificate, or None.
        now_ms: the time by which the server's certificate is judged: see :func:`~fleetcore.wire.tls.client_context`.
    """

    device: str
    certificate: bytes | None = None
    key: bytes | None = field(default=None, repr=False)
    ca: bytes | None = None
    token: str | None = field(default=None, repr=False)
    now_ms: Callable[[], int | None] | None = None

    def tls(self) -> SSLContext:
        """A client context that trusts only ``ca`` and presents the certificate, where there is one."""
        from fleetcore.wire.tls import client_context

        return client_context(ca=self.ca, certificate=self.certificate, key=self.key, now_ms=self.now_ms)


class DeviceClient(ABC):
    """The device's side of a protocol, for the simulator and for device code.

    An async context manager: entering connects, leaving disconnects cleanly. It is one connection; when that is lost,
    calls in progress raise :class:`~fleetcore.errors.Unavailable`, and the owner opens a new client.
    """

    @abstractmethod
    async def __aenter__(self) -> Self:
        """Connects and authenticates; raises what :meth:`DevicePlane.authenticate` raises, or Unavailable."""

    @abstractmethod
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Sends the protocol's disconnect message where it has one, and closes."""

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

        ``body`` is plain data or encoded bytes. A refusal comes as a reply with ``error``. MQTT 3.1.1 cannot express a
        permanent refusal in the acknowledgement: it comes as a downlink ``errors``.
        """

    @abstractmethod
    async def request(self, type: MessageType, body: object = None, *, subject: str | None = None) -> Reply:
        """Sends a call, which is answered with content: twin.get, time, inbox, ca.get, leaf.register."""

    @abstractmethod
    def downlinks(self) -> AsyncIterator[Downlink]:
        """The downlinks; ends when the client closes. At most one reader."""

    @property
    def ended(self) -> str:
        """Why the server has ended the connection: a key of ``CODES``; empty where it has not, or gave no reason."""
        return ""

    @abstractmethod
    async def enroll(self, request: EnrollRequest) -> Reply:
        """Requests a certificate. Raises :class:`~fleetcore.errors.Refused` where the protocol cannot enrol."""

    @abstractmethod
    def artifact(self, sha256: str, start: int = 0, *, subject: str | None = None) -> AsyncIterator[bytes]:
        """Downloads an artifact of an offer, to a leaf ``subject`` or to the device itself, from byte ``start``.

        Raises Refused where the protocol cannot download.
        """
