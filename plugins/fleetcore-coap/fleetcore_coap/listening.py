"""Admission of handshakes: cookies before state, and one place for each address (RFC 6347 §4.2.1 and §4.2.8).

A ClientHello without a valid cookie is answered with one, smaller than the hello, and forgotten. A hello with a cookie
begins a handshake beside the existing association of its address; that one ends when the handshake is complete, so a
forged hello, or a device that has restarted on its port, ends nothing before it has authenticated. Any other datagram
of an unknown address is dropped without an answer.
"""

import hmac
import secrets
from collections.abc import Callable
from typing import Generic, TypeVar

from OpenSSL import SSL

from fleetcore_coap.addresses import Address
from fleetcore_coap.association import prepare, written
from fleetcore_coap.records import Content, Look, look, pack

#: 128 bits of HMAC-SHA-256 bound to the address: a HelloVerifyRequest of 44 bytes, less than any ClientHello.
_COOKIE_BYTES = 16


class Door:
    """Answers hellos with cookies, and makes OpenSSL connections for those that return them.

    One OpenSSL object serves all hellos: it keeps no state of one without a valid cookie.
    """

    def __init__(self, context: SSL.Context) -> None:
        self._secret = secrets.token_bytes(32)
        self._take(context)

    def renew(self, context: SSL.Context) -> None:
        """Further handshakes use another context, for example with a new certificate; cookies stay valid."""
        self._take(context)

    def _take(self, context: SSL.Context) -> None:
        context.set_cookie_generate_callback(self._cookie)
        context.set_cookie_verify_callback(self._is_cookie)
        self._context = context
        self._waiting = self._fresh()

    def knows(self, address: Address, cookie: bytes) -> bool:
        """Whether a cookie is the one that was sent to the address."""
        return hmac.compare_digest(cookie, self._cookie_of(address))

    def _cookie_of(self, address: Address) -> bytes:
        return hmac.digest(self._secret, repr(address).encode(), "sha256")[:_COOKIE_BYTES]

    def _cookie(self, connection: SSL.Connection) -> bytes:
        return self._cookie_of(connection.get_app_data())

    def _is_cookie(self, connection: SSL.Connection, cookie: bytes) -> bool:
        return self.knows(connection.get_app_data(), cookie)

    def _fresh(self) -> SSL.Connection:
        connection = SSL.Connection(self._context, None)
        connection.set_accept_state()
        prepare(connection)
        return connection

    def hello(self, address: Address, datagram: bytes, send: Callable[[bytes], None]) -> SSL.Connection | None:
        """The connection that this hello with its cookie begins; None if it was answered with a cookie, or invalid."""
        connection = self._waiting
        connection.set_app_data(address)
        connection.bio_write(datagram)
        try:
            connection.DTLSv1_listen()
        except SSL.WantReadError:
            for answer in pack(written(connection)):
                if len(answer) <= len(datagram):
                    send(answer)
            return None
        except SSL.Error:
            self._waiting = self._fresh()  # the rest of a broken hello must not affect the next one
            return None
        self._waiting = self._fresh()
        return connection


T = TypeVar("T")


class Places(Generic[T]):
    """The places of an address: an association, and a handshake beside it.

    Attributes:
        live, pending: by address.
    """

    def __init__(self) -> None:
        self.live: dict[Address, T] = {}
        self.pending: dict[Address, tuple[bytes, T]] = {}
        #: The random of the handshake that led to each association.
        self._came_of: dict[Address, bytes] = {}

    def begin(self, address: Address, random: bytes, thing: T) -> T | None:
        """A handshake begins; returns the one that it replaces."""
        replaced = self.pending.pop(address, None)
        self.pending[address] = random, thing
        return None if replaced is None else replaced[1]

    def complete(self, address: Address) -> T | None:
        """Its handshake is complete; returns the association that it replaces."""
        random, thing = self.pending.pop(address)
        old = self.live.pop(address, None)
        self.live[address], self._came_of[address] = thing, random
        return old

    def drop(self, address: Address, thing: T) -> None:
        """It has ended."""
        if self.live.get(address) is thing:
            del self.live[address]
            self._came_of.pop(address, None)
        pending = self.pending.get(address)
        if pending is not None and pending[1] is thing:
            del self.pending[address]

    def is_late(self, address: Address, shown: Look) -> bool:
        """Whether a hello repeats the one that led to the association of its address."""
        return self._came_of.get(address) == shown.random

    def whose(self, address: Address, shown: Look) -> T | None:
        """The receiver of a datagram that begins so; None for a hello that is answered with a cookie, or unknown."""
        pending = self.pending.get(address)
        if shown.is_hello:
            # The repeated hello of the handshake under way; any other begins with a cookie.
            return pending[1] if pending is not None and shown.cookie and pending[0] == shown.random else None
        if pending is not None and shown.content in {Content.HANDSHAKE, Content.CHANGE_CIPHER_SPEC}:
            return pending[1]
        if address in self.live:
            return self.live[address]
        return None if pending is None else pending[1]


__all__ = ["Door", "Look", "Places", "look"]
