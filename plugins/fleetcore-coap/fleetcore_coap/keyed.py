"""An association with a pre-shared key: reads the identity, looks up the key, then lets OpenSSL verify the proof.

OpenSSL asks for a key and needs it at once, but a key may come from a store. So the datagrams from the identity on are
held back until the key is known. A peer with an unknown identity is checked with a random key, so it fails as with a
wrong key (RFC 4279 §2). OpenSSL drops a proof that it cannot decrypt, as DTLS drops any such record, and would wait for
another until the deadline; here the handshake ends with an alert.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from OpenSSL import SSL

from fleetcore_coap.association import Association
from fleetcore_coap.clear_text import changes_cipher, decrypt_error, has_finished, identity_in
from fleetcore_coap.psk import nobodys_key

#: Datagrams held back during a lookup: a flight in pieces, twice. The peer repeats dropped ones.
_MAX_HELD = 8


class Keys:
    """Gives OpenSSL its keys: from the association that it currently handles."""

    def __init__(self) -> None:
        self._working_for: KeyedAssociation | None = None

    @contextmanager
    def working_for(self, association: "KeyedAssociation") -> Iterator[None]:
        """OpenSSL is called for an association."""
        self._working_for = association
        try:
            yield
        finally:
            self._working_for = None

    def key_of(self, identity: bytes) -> bytes:
        """The key of the association that OpenSSL currently handles."""
        assert self._working_for is not None
        return self._working_for.key_of(identity)


class KeyedAssociation(Association):
    """The association; see the module.

    Args:
        asks: called once with the identity; :meth:`know` delivers the key later.

    Attributes:
        proven: the authenticated identity of the peer; None until it is established.
        refused: after a failed proof the identity, or ``b""`` if none was looked up. None before, and for an
            identity that has no key.
    """

    __slots__ = (
        "_asked",
        "_asking",
        "_asks",
        "_changed",
        "_claimed",
        "_held",
        "_judged",
        "_key",
        "_keys",
        "proven",
        "refused",
    )

    def __init__(
        self, connection: SSL.Connection, send: Callable[[bytes], None], keys: Keys, asks: Callable[[bytes], None]
    ) -> None:
        super().__init__(connection, send)
        self._keys, self._asks = keys, asks
        self._claimed: bytes | None = None
        self._key: bytes | None = None
        #: The identity whose key OpenSSL got.
        self._judged: bytes | None = None
        self._held: list[bytes] = []
        #: The key is looked up; OpenSSL has one; the peer has announced encryption.
        self._asking = self._asked = self._changed = False
        self.proven: bytes | None = None
        self.refused: bytes | None = None

    @property
    def timeout_s(self) -> float | None:
        # The last flight has arrived while its answer is held back.
        return None if self._asking else super().timeout_s

    def receive(self, datagram: bytes) -> list[bytes]:
        if self.established:
            return super().receive(datagram)
        if self._asking:
            if len(self._held) < _MAX_HELD:
                self._held.append(datagram)
            return []
        if self._claimed is None:
            self._claimed = identity_in(datagram)
            if self._claimed is not None and self.ended is None:
                self._asking = True
                self._held.append(datagram)
                self._asks(self._claimed)
                return []
        return self._judge(datagram)

    def know(self, key: bytes | None) -> list[bytes]:
        """Delivers the looked up key, or None; handles the held back datagrams, and returns their messages."""
        self._key, self._asking = key, False
        held, self._held = self._held, []
        return [message for datagram in held for message in self._judge(datagram)]

    def key_of(self, identity: bytes) -> bytes:
        """The key that the peer must prove."""
        self._asked = True
        # OpenSSL may have read another identity than the one that was looked up.
        if self._key is None or identity != self._claimed:
            self._judged = None
            return nobodys_key()
        self._judged = identity
        return self._key

    def _judge(self, datagram: bytes) -> list[bytes]:
        if self.established or self.ended is not None:
            return super().receive(datagram)
        with self._keys.working_for(self):
            messages = super().receive(datagram)
        # OpenSSL drops a change of ciphers that has overtaken the exchange of keys.
        self._changed = self._changed or (self._asked and changes_cipher(datagram))
        self._conclude(datagram)
        return messages

    def _conclude(self, datagram: bytes) -> None:
        if self.established:
            self.proven = self._judged
            return
        if self.ended is not None or not (self._asked and self._changed and has_finished(datagram)):
            return
        self.ended = "the peer does not have the key"
        if self._claimed is None or self._key is not None:
            self.refused = self._claimed or b""
        self._send(decrypt_error())
