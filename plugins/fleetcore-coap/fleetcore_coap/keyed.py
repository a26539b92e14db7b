"""An association whose peer proves that it has a pre-shared key: the identity is read, the key looked for, then judged.

OpenSSL asks for a key and wants it at once, while a key may come of a store. So what brings the identity is held back
until the key is known. A peer without a key to its name is judged by a random one, and so fails as with a wrong
key (RFC 4279 §2). OpenSSL drops a proof that it cannot read, as DTLS drops any such record, and would wait for another
until the deadline; here the handshake ends with an alert.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from OpenSSL import SSL

from fleetcore_coap.association import Association
from fleetcore_coap.clear_text import changes_cipher, decrypt_error, has_finished, identity_in
from fleetcore_coap.psk import nobodys_key

#: Datagrams held back while a key is looked for: a flight in pieces, twice. The peer repeats what is dropped.
_MAX_HELD = 8


class Keys:
    """Whom OpenSSL asks for keys: the association that it is working for."""

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
        """The key of the peer that OpenSSL is busy with."""
        assert self._working_for is not None
        return self._working_for.key_of(identity)


class KeyedAssociation(Association):
    """See the module.

    Args:
        asks: is told an identity, once, and answers in its own time by :meth:`know`.

    Attributes:
        proven: the identity that the peer has proved; None until it is established.
        refused: the identity whose key the peer does not have, once the handshake has ended for it; empty where none
            was looked for. None for one that there is no key for, and while nothing is refused.
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
        #: Whose key OpenSSL was told.
        self._judged: bytes | None = None
        self._held: list[bytes] = []
        #: The key is looked for; OpenSSL was told one; the peer has said that it encrypts.
        self._asking = self._asked = self._changed = False
        self.proven: bytes | None = None
        self.refused: bytes | None = None

    @property
    def timeout_s(self) -> float | None:
        # The last flight has arrived where its answer is held back.
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
        """The key that was looked for, or None; takes what was held back, and returns the messages in it."""
        self._key, self._asking = key, False
        held, self._held = self._held, []
        return [message for datagram in held for message in self._judge(datagram)]

    def key_of(self, identity: bytes) -> bytes:
        """The key by which the peer is judged."""
        self._asked = True
        # What OpenSSL has read may be another identity than the one that was looked for.
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
