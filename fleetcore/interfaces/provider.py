"""What a plugin's offer consists of (a name, a config class, an opener), and the context that an opener gets."""

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from pathlib import Path
from ssl import SSLContext
from typing import Any, Generic, Literal, Protocol, TypeVar

from attrs import field, frozen, validators

from fleetcore.errors import ConfigError
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.scene import Scene
from fleetcore.interfaces.state import PluginState
from fleetcore.interfaces.trial import Trial
from fleetcore.listening.budget import Budget

T = TypeVar("T")
_POSITIVE = validators.gt(0)

#: The time limit for importing a plugin, for its answer to a hook, and for opening each of its components; ``[fleet]
#: open_timeout_s``.
OPEN_TIMEOUT_S = 30.0


@frozen(kw_only=True)
class TlsMaterial:
    """The server's TLS credentials, for a handshake outside the ``ssl`` module: DTLS.

    Attributes:
        chain, key: the server's, PEM, the chain leaf first.
        trusted: the CA certificates that clients may chain to, PEM.
    """

    chain: bytes
    key: bytes = field(repr=False)
    trusted: bytes


class TlsProvider(Protocol):
    """Makes TLS contexts with the fleet's certificates; session tickets are off in all of them."""

    def server(self, *, client_certificates: bool = True, enrolling: bool = False) -> SSLContext:
        """A listener's context: TLS 1.2 or newer, with the server's certificate, also after its renewal.

        A client certificate is requested, not required, and verified against the fleet's CAs where presented. With
        ``enrolling``, a registered manufacturer's and an expired certificate pass the handshake too, since enrolment
        may use them; :meth:`DevicePlane.authenticate` refuses both.
        """
        ...

    def material(self, *, enrolling: bool = False) -> TlsMaterial:
        """The current credentials of :meth:`server`; ask again for each handshake, for they change with each renewal.

        ``enrolling`` is as for :meth:`server`. Raises ConfigError where the server's certificate or key cannot be read.
        """
        ...

    def certificate_refused(self, why: str) -> None:
        """Records that a handshake with :meth:`material` failed on the client's certificate; ``why`` is OpenSSL's text.

        Contexts of :meth:`server` record this by themselves.
        """
        ...

    def ca_bundle(self) -> bytes:
        """The CA certificates that devices trust, PEM."""
        ...

    def service_client(self) -> tuple[Path, Path, Path]:
        """The paths of certificate, key and CA bundle that fleetcore uses as a broker's client."""
        ...

    def takeover_certificate(self, device: str) -> tuple[bytes, bytes]:
        """Chain and key, PEM, with which a broker takes us for a device: connecting disconnects the device.

        Valid for minutes, and for no fleetcore listener.
        """
        ...


@frozen(kw_only=True)
class Limits:
    """The limits of what devices may send; all configurable under ``[limits]``.

    Attributes:
        message_bytes: longest message body.
        json_depth: deepest nesting.
        twin_bytes: length of one twin section as JSON.
        twin_keys: leaves of one twin section; an array is one leaf.
        metrics: metric names of one device.
        rate_per_s: messages a second of one device, sustained: the refill rate of its token bucket.
        burst: messages of one device at once: the size of its token bucket.
        future_ms: how far ahead of the server's clock an event time may lie.
        queue_messages: messages that may wait in the receive queue.
        queue_bytes: bytes that may wait in the receive queue.
    """

    message_bytes: int = field(default=256 * 1024, validator=_POSITIVE)
    json_depth: int = field(default=10, validator=_POSITIVE)
    twin_bytes: int = field(default=64 * 1024, validator=_POSITIVE)
    twin_keys: int = field(default=1000, validator=_POSITIVE)
    metrics: int = field(default=200, validator=_POSITIVE)
    rate_per_s: float = field(default=100.0, validator=validators.gt(0.0))
    burst: int = field(default=1000, validator=_POSITIVE)
    future_ms: int = field(default=10 * 60 * 1000, validator=validators.ge(0))
    queue_messages: int = field(default=16_384, validator=_POSITIVE)
    queue_bytes: int = field(default=64 * 1024 * 1024, validator=_POSITIVE)


@frozen(kw_only=True)
class Context:
    """What every opener gets.

    Attributes:
        name: of the instance (``cold-rooms`` of ``[detectors.cold-rooms]``).
        fleet: the fleet's name; ``fleet_id`` distinguishes fleets of the same name.
        lease: takes the lease on a folder, for a store that one process at a time may open, and holds it for the
            ``with`` block; raises DataFolderInUse. The fleet's data folder is leased already: there it does nothing.
        create: whether the opener may create a store that does not exist; else it raises ConfigError.
        secret: resolves a reference (``env:NAME``, ``file:PATH``) to its value; raises ConfigError.
        tls: None where the fleet has no CA (in memory).
        data: a folder for the plugin's files, or None in memory.
        state: the component's durable state, 64 KiB in all: see :class:`PluginState`. A store's is in memory only: it
            is read before there is a store.
        listening: what listeners share: their deadlines and caps, and the process's descriptors. A
            :class:`~fleetcore.listening.listener.Listener` respects it.
        count: counts under a name, ``count("refused")``; callable from any thread, never raises. ``fleetcore doctor``
            and ``/metrics`` show the counters. Names beyond the first 64 of a component, and names that are not 1-64 of
            ``a-z 0-9 _``, are counted together as ``_other``.
    """

    name: str
    fleet: str
    clock: Clock
    logger: logging.Logger
    secret: Callable[[str], str]
    limits: Limits = Limits()
    tls: TlsProvider | None = None
    data: Path | None = None
    create: bool = True
    fleet_id: str = ""
    state: PluginState = field(factory=PluginState)
    listening: Budget = field(factory=Budget)
    lease: Callable[[Path], AbstractContextManager[object]] = field(default=lambda _folder: nullcontext())
    count: Callable[[str], None] = field(default=lambda _name: None)

    @property
    def mark(self) -> str:
        """The mark that a connector puts on what it creates at a hub: the fleet's name, and the start of its id.

        Several fleets may share a hub, and many keep their default name.
        """
        return f"{self.fleet}-{self.fleet_id[:12]}" if self.fleet_id else self.fleet

    def discovery(self, device: str | None, **limits: int) -> dict[str, Any]:
        """The first message to a device: the fleet, its time if known, the limits, the ``device`` by its credential.

        ``limits`` are the protocol's, in addition to those of every protocol.
        """
        common = self.limits
        found: dict[str, Any] = {
            "fleet": self.fleet,
            **({"time_ms": self.clock.now_ms()} if self.clock.is_known else {}),
            "limits": {
                "message_bytes": common.message_bytes,
                "json_depth": common.json_depth,
                "twin_bytes": common.twin_bytes,
                "twin_keys": common.twin_keys,
                "metrics": common.metrics,
                **limits,
            },
        }
        return found if device is None else {**found, "device": device}

    def server_tls(
        self, url: str, *, plain: str, client_certificates: bool = True, enrolling: bool = False
    ) -> SSLContext:
        """The TLS context of the listener ``url``; the error suggests ``plain``, a URL without TLS.

        The rest is as for :meth:`TlsProvider.server`. Raises ConfigError in a fleet without a CA.
        """
        return self.tls_of(url, plain=plain).server(client_certificates=client_certificates, enrolling=enrolling)

    def tls_of(self, url: str, *, plain: str) -> TlsProvider:
        """:attr:`tls`, for the listener ``url``; the error suggests ``plain``, a URL without TLS.

        Raises ConfigError in a fleet without a CA.
        """
        if self.tls is None:
            raise ConfigError(
                f"{url} needs a server certificate and the fleet has no CA",
                remedy=f"Run fleetcore init, or listen on {plain}",
            )
        return self.tls


#: The kinds of offers: the sections of fleet.toml, and ``codecs``, which have none.
Kind = Literal["storage", "codecs", "protocols", "detectors", "notifiers", "clouds", "services", "admission"]


@frozen(kw_only=True)
class Provider(Generic[T]):
    """An offer. :mod:`fleetcore.interfaces.offers` has a maker for each kind, which checks the opener's types."""

    kind: Kind
    name: str
    config_class: type
    opener: Callable[..., AbstractAsyncContextManager[T]]
    client: Callable[..., Any] | None = None
    demo: Mapping[str, object] | None = None
    trial: Callable[[], AbstractAsyncContextManager[Trial]] | None = None
    scene: Scene | None = None
    summary: str = ""
