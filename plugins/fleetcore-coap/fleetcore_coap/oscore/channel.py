"""A client's connection to one server under OSCORE, with the key of its device token.

A device must never reuse a sequence number with a key, and a client saves nothing. So it begins at the milliseconds
since 2026 and counts on: an earlier run used lower numbers, as long as it sent fewer than a thousand requests a second
and the clock was not set back meanwhile. Clients of one token in one process count together. Two processes must not use
one token at the same time: give each its own token.
"""

import time
from collections.abc import Callable

from aiocoap.oscore import RequestIdentifiers

from fleetcore.errors import Refused
from fleetcore.interfaces.protocol import DeviceSecrets
from fleetcore.model.message import Rejected
from fleetcore.wire.shared_keys import shared_key
from fleetcore_coap import problems
from fleetcore_coap.channel import Channel
from fleetcore_coap.codec import UNAUTHORIZED, Option, Packet
from fleetcore_coap.oscore.header import read
from fleetcore_coap.oscore.numbers import EPOCH_MS
from fleetcore_coap.oscore.security import DEVICE, REPLAYED, SERVER, NotOpened, Security

#: By token id, the last number used in this process.
_used: dict[str, int] = {}


class ProtectedChannel(Channel):
    """The connection; see the module."""

    protected = True

    def __init__(self, endpoint: str, secrets: DeviceSecrets) -> None:
        super().__init__(endpoint, secrets)
        assert secrets.token is not None
        key = shared_key(secrets.device, secrets.token)
        self._security = Security(key, DEVICE, SERVER, _numbers(key.token), None)
        self._bindings: dict[bytes, RequestIdentifiers] = {}
        #: For each observation, the Partial IV of the newest notification.
        self._newest: dict[bytes, int] = {}

    async def _ask(self, packet: Packet, token: bytes | None) -> Packet:
        token = self.correlation.new_token() if token is None else token
        outer, self._bindings[token] = self._security.request(packet)
        try:
            return await super()._ask(outer, token)
        finally:
            if not self.correlation.observes(token):
                del self._bindings[token]

    def _opened(self, packet: Packet) -> Packet | None:
        """The message in a response; None for a forged one, and for a repeated notification.

        An unprotected refusal is believed: whether it comes from the server or an attacker, nothing gets through. A
        replay error means that the request was accepted: its answer is lost, for example because the address changed
        before it arrived.
        """
        value, binding = packet.get(Option.OSCORE), self._bindings.get(packet.token)
        if binding is None:
            return None
        if value is None:
            if packet.payload == REPLAYED.encode():
                self.correlation.lose(packet.token, "The request was accepted, but its answer is lost")
                return None
            return _refusal(packet) if packet.code >= 128 else None
        try:
            opened = self._security.response(packet, binding)
        except NotOpened:
            return None
        header = read(value)
        if header is not None and header.piv is not None and self.correlation.observes(packet.token):
            number = int.from_bytes(header.piv, "big")
            if number <= self._newest.get(packet.token, -1):
                return None
            self._newest[packet.token] = number
        return opened


def _refusal(packet: Packet) -> Packet:
    why = packet.payload.decode("utf-8", "replace") or f"code {packet.code >> 5}.{packet.code & 31:02}"
    refusal = problems.problem(Rejected(code="not_authenticated", reason=why), code=UNAUTHORIZED)
    return Packet(
        kind=packet.kind,
        code=refusal.code,
        mid=packet.mid,
        token=packet.token,
        options=refusal.options,
        payload=refusal.payload,
    )


def _numbers(token: str) -> Callable[[], int]:
    """The source of a token's sequence numbers; raises Refused if the clock is certainly wrong."""
    begin = time.time_ns() // 1_000_000 - EPOCH_MS
    if begin < 0:
        raise Refused("The clock is before 2026, so sequence numbers would be reused", remedy="Set the clock")
    _used[token] = max(_used.get(token, -1), begin)

    def number() -> int:
        _used[token] += 1
        return _used[token]

    return number
