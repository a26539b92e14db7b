"""What ``[protocols.coap]`` may say, and what of it is refused."""

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
            where a peer cannot show a certificate.
        associations: how many are kept; beyond, the one that was silent for the longest ends.
        idle_s: an association on which nothing comes for this long ends; the device shakes hands again.
        oscore: ``coap://HOST:PORT`` on any address, for devices that protect their messages by OSCORE with the key of
            their device token; without that protection a peer is as one without a certificate. Needs the extra. A copy
            of the store is then worth as much as with ``psk``.
        psk: over ``coaps://`` a device may prove the key of a device token instead of showing a certificate. The store
            then has all that such a proof needs: a copy of it lets its holder speak as these devices.
    """

    listen: str = "coaps://0.0.0.0:5684"
    associations: int = field(default=8192, validator=validators.ge(1))
    idle_s: float = field(default=86_400.0, validator=validators.gt(0.0))
    oscore: bool = False
    psk: bool = False

    @property
    def stream(self) -> bool:
        """Whether it is CoAP on TCP."""
        return _is_stream(self.listen)

    def listener(self) -> Listener:
        """``listen``, taken apart. Raises :class:`ConfigError` where it cannot be listened on safely."""
        if self.psk and not takes_keys(self.listen):
            raise ConfigError(
                f"psk = true needs DTLS, and {self.listen} has none",
                remedy="Listen on coaps://, or remove psk; TLS on TCP takes certificates alone",
            )
        if not self.oscore:
            return listener(self.listen)
        if self.listen.partition(":")[0] != _UDP.plain:
            raise ConfigError(
                f"oscore = true is for {_UDP.plain}://, and listen is {self.listen!r}",
                remedy="Listen on coap://0.0.0.0:5683; DTLS and TLS are sections of their own, with their certificates",
            )
        return listener(self.listen, protected=True)


def listener(url: str, *, protected: bool = False) -> Listener:
    """A CoAP URL without a path, taken apart; raises :class:`ConfigError` for any other, and for an open one.

    ``protected``: each message is, by OSCORE, so the transport need not be.
    """
    schemes = _TCP if _is_stream(url) else _UDP
    example = f"{schemes.secure}://0.0.0.0:5684"
    return take_apart(url, schemes, example=example, secrets="would speak to devices", protected=protected)


def takes_keys(url: str) -> bool:
    """Whether pre-shared keys can be used there: with DTLS alone."""
    return url.partition(":")[0] == _UDP.secure


def _is_stream(url: str) -> bool:
    return url.partition(":")[0].endswith("+tcp")


def needs_oscore() -> None:
    """Raises :class:`ConfigError` where the library of OSCORE is not installed."""
    # aiocoap itself is; filelock stands for its extra, without which aiocoap.oscore cannot be imported.
    if find_spec("filelock") is None:
        raise ConfigError(
            "OSCORE needs aiocoap's extra of that name", remedy='Run pip install "fleetcore-coap[oscore]"'
        )
