"""The section ``[protocols.coap]``, and its checks."""

from importlib.util import find_spec

from attrs import field, frozen, validators

from fleetcore.errors import ConfigError
from fleetcore.wire.endpoints import Listener, Schemes, take_apart

#: RFC 7252 §6.1 and §6.2.
_UDP = Schemes("coaps", 5684, "coap", 5683)
#: RFC 8323 §8.1 and §8.2.
_TCP = Schemes("coaps+tcp", 5684, "coap+tcp", 5683)


@frozen(kw_only=True)
class CoapConfig:
    """``[protocols.coap]``.

    Attributes:
        listen: ``coaps://HOST:PORT`` (DTLS), ``coaps+tcp://HOST:PORT`` (TLS); without ``s`` on a loopback address only,
            where peers have no certificates.
        associations: the most at the same time; beyond, the one silent for longest ends.
        idle_s: an association without messages ends after this; the device shakes hands again.
        oscore: ``coap://HOST:PORT`` on any address, for devices that protect their messages with OSCORE with the key of
            their device token; without that protection a peer counts as one without a certificate. Needs the extra. A
            copy of the store is then as sensitive as with ``psk``.
        psk: over ``coaps://`` a device may prove the key of a device token instead of sending a certificate. The store
            then contains these keys: a copy of it can impersonate these devices.
    """

    listen: str = "coaps://0.0.0.0:5684"
    associations: int = field(default=8192, validator=validators.ge(1))
    idle_s: float = field(default=86_400.0, validator=validators.gt(0.0))
    oscore: bool = False
    psk: bool = False

    @property
    def stream(self) -> bool:
        """Whether it is CoAP over TCP."""
        return _is_stream(self.listen)

    def listener(self) -> Listener:
        """``listen``, parsed. Raises :class:`ConfigError` if it is not safe to listen on."""
        if self.psk and not takes_keys(self.listen):
            raise ConfigError(
                f"psk = true needs DTLS, and {self.listen} does not use it",
                remedy="Listen on coaps://, or remove psk; TLS on TCP only accepts certificates",
            )
        if not self.oscore:
            return listener(self.listen)
        if self.listen.partition(":")[0] != _UDP.plain:
            raise ConfigError(
                f"oscore = true is for {_UDP.plain}://, and listen is {self.listen!r}",
                remedy="Listen on coap://0.0.0.0:5683; configure DTLS and TLS in separate sections, with certificates",
            )
        return listener(self.listen, protected=True)


def listener(url: str, *, protected: bool = False) -> Listener:
    """A CoAP URL without a path, parsed; raises :class:`ConfigError` for any other, and for an unprotected one.

    ``protected``: OSCORE protects each message, so the transport need not be.
    """
    schemes = _TCP if _is_stream(url) else _UDP
    example = f"{schemes.secure}://0.0.0.0:5684"
    return take_apart(url, schemes, example=example, secrets="would talk to devices", protected=protected)


def takes_keys(url: str) -> bool:
    """Whether pre-shared keys can be used: only with DTLS."""
    return url.partition(":")[0] == _UDP.secure


def _is_stream(url: str) -> bool:
    return url.partition(":")[0].endswith("+tcp")


def needs_oscore() -> None:
    """Raises :class:`ConfigError` if the OSCORE library is not installed."""
    # aiocoap is always installed; filelock stands for its extra, without which aiocoap.oscore cannot be imported.
    if find_spec("filelock") is None:
        raise ConfigError(
            "OSCORE needs aiocoap's extra of that name", remedy='Run pip install "fleetcore-coap[oscore]"'
        )
