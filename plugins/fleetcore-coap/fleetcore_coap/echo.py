"""Verifies the address of a peer of plain CoAP (RFC 9175 §2.4): without DTLS a sender can forge its source.

Until a peer has returned an Echo value that was sent to its address, it gets no answer longer than its request, and its
requests change nothing, so an attacker cannot use the server to flood a third party. A challenge is at most three times
as long as the shortest request. No sockets, no tasks.
"""

import hmac
import secrets

from msgspec.structs import replace

from fleetcore_coap.codec import UNAUTHORIZED, Method, Option, Packet, encode, options
from fleetcore_coap.request import empty

#: With it a challenge has 12 bytes with an empty token, for a request of 4.
_ECHO_BYTES = 6
#: One secret for the life of the process: a value shows that its address was reached, not when.
_SECRET = secrets.token_bytes(32)


class Echo:
    """One peer's.

    Args:
        address: its address, the same for later messages.
    """

    __slots__ = ("_reached", "_value")

    def __init__(self, address: object) -> None:
        self._value = hmac.digest(_SECRET, repr(address).encode(), "sha256")[:_ECHO_BYTES]
        self._reached = False

    def challenge(self, request: Packet, response: Packet | None = None) -> Packet | None:
        """The challenge to send instead of handling a request, or instead of ``response``; None if none is needed."""
        shown = request.get(Option.ECHO)
        if not self._reached and shown is not None and hmac.compare_digest(shown, self._value):
            self._reached = True
        if self._reached:
            return None
        if response is None:
            small = request.code == Method.GET
        else:
            addressed = replace(response, token=request.token)
            small = len(encode(addressed)) <= len(encode(request))
        return None if small else empty(UNAUTHORIZED, (Option.ECHO, self._value))


def with_echo(request: Packet, refusal: Packet) -> Packet | None:
    """The request to send again after a challenge; None if the refusal is not a challenge."""
    value = refusal.get(Option.ECHO)
    if refusal.code != UNAUTHORIZED or value is None or request.get(Option.ECHO) is not None:
        return None
    return replace(request, options=options([*request.options, (Option.ECHO, value)]))
