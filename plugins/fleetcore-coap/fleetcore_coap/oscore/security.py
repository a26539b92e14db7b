"""A security context, which protects and opens messages: aiocoap's OSCORE between our records.

Encryption, nonces and the replay window are aiocoap's; this module chooses identifiers and sequence numbers, and
decodes decrypted messages with our codec. It sends nothing, and looks nothing up.

A device has the empty sender id and the server ``01``. Their ID Context is the id of the device token, and the master
secret its shared key (:mod:`fleetcore.wire.shared_keys`); there is no salt. The algorithms are those that every OSCORE
implementation has: AES-CCM-16-64-128 and HKDF with SHA-256 (RFC 8613 §3.2).
"""

from collections.abc import Callable

from aiocoap.error import Error
from aiocoap.message import Direction, Message
from aiocoap.numbers.codes import Code
from aiocoap.numbers.optionnumbers import OptionNumber
from aiocoap.oscore import (
    CanProtect,
    CanUnprotect,
    DecodeError,
    ProtectionInvalid,
    ReplayError,
    ReplayErrorWithEcho,
    ReplayWindow,
    RequestIdentifiers,
    SecurityContextUtils,
    algorithms,
    hashfunctions,
)
from msgspec import Struct
from msgspec.structs import replace

from fleetcore.wire.shared_keys import SharedKey
from fleetcore_coap.codec import Malformed, Option, Packet, options, read_body
from fleetcore_coap.oscore.header import read

DEVICE, SERVER = b"", b"\x01"
#: RFC 8613 §8.2: the answer to such an invalid request.
REPLAYED, FORGED, UNDECODABLE = "Replay detected", "Decryption failed", "Failed to decode COSE"
#: RFC 8613 §3.2.2: the defaults of every implementation.
_WINDOW = 32


class Opened(Struct, frozen=True):
    """A genuine, new request; its answers are bound to ``binding``."""

    packet: Packet
    binding: RequestIdentifiers


class Unfresh(Struct, frozen=True):
    """A genuine request that may be a replay: nothing is known of earlier ones (RFC 8613 App. B.1.2)."""

    binding: RequestIdentifiers


class NotOpened(Exception):
    """Base of the reasons why a message is refused; the text is the standard's (RFC 8613 §8.2 and §8.4)."""


class Undecodable(NotOpened):
    """The option, or the protected content, is malformed."""


class Replayed(NotOpened):
    """It is a repetition, or older than the replay window."""


class Forged(NotOpened):
    """It was not protected with this key, or was modified."""


class Security(CanProtect, CanUnprotect, SecurityContextUtils):  # type: ignore[misc]  # aiocoap has no types
    """The context; see the module.

    Args:
        key: the token's key.
        sender, recipient: :data:`DEVICE` and :data:`SERVER`, from this side.
        number: returns a sequence number never used with this key.
        echo: the value that shows that a request is not a replay; None for a client, which is not challenged.
    """

    def __init__(
        self, key: SharedKey, sender: bytes, recipient: bytes, number: Callable[[], int], echo: bytes | None
    ) -> None:
        self.alg_aead = algorithms["AES-CCM-16-64-128"]
        self.hashfun = hashfunctions["sha256"]
        self.id_context = key.token.encode()
        self.sender_id, self.recipient_id, self.echo_recovery = sender, recipient, echo
        self.derive_keys(b"", key.key)
        self.recipient_replay_window = ReplayWindow(_WINDOW, lambda: None)
        if echo is None:
            self.recipient_replay_window.initialize_empty()
        self._number = number
        self._plaintext = b""

    @property
    def proved(self) -> bool:
        """Whether a request has shown that it is not a replay, so that the replay window is valid."""
        return bool(self.recipient_replay_window.is_initialized())

    def new_sequence_number(self) -> int:
        return self._number()

    def post_seqnoincrease(self) -> None:
        """Nothing to save: :attr:`_number` never repeats a number."""

    def _post_decrypt_checks(self, _aad: object, plaintext: bytes, _message: object, _binding: object) -> None:
        self._plaintext = plaintext

    # -- the server's side -----------------------------------------------------------------------------------------

    def open(self, request: Packet) -> Opened | Unfresh:
        """The content of a protected request; raises :class:`NotOpened`.

        Of the outer options only the OSCORE option counts. Observe is used if both agree (RFC 8613 §4.1.3.5): an
        attacker can remove it, and nothing else.
        """
        try:
            _, binding = self.unprotect(_incoming(request))
        except ReplayErrorWithEcho as error:
            return Unfresh(error.request_id)
        except (Error, ValueError, IndexError, OverflowError) as error:
            raise _reason(error) from error
        packet = self._inner(request)
        if not packet.is_request:
            raise Undecodable(UNDECODABLE)
        if request.get(Option.OBSERVE) != packet.get(Option.OBSERVE):
            packet = _observing(packet, None)
        return Opened(packet, binding)

    def answer(self, response: Packet, binding: RequestIdentifiers) -> Packet:
        """A protected response: the first one to a fresh request needs no sequence number."""
        observe = response.get(Option.OBSERVE)
        if observe is not None:
            # Notifications are ordered by their Partial IVs; the outer option is for intermediaries.
            response = _observing(response, b"")
        outer, _ = self.protect(_outgoing(response), binding)
        return _packet(response, outer, observe)

    # -- the device's side -----------------------------------------------------------------------------------------

    def request(self, packet: Packet) -> tuple[Packet, RequestIdentifiers]:
        """A protected request, and the binding of its answers."""
        outer, binding = self.protect(_outgoing(packet))
        return _packet(packet, outer, packet.get(Option.OBSERVE)), binding

    def response(self, answer: Packet, binding: RequestIdentifiers) -> Packet:
        """The content of a protected response; raises :class:`NotOpened`. Observe is the outer one."""
        try:
            self.unprotect(_incoming(answer), binding)
        except (Error, ValueError, IndexError, OverflowError) as error:
            raise _reason(error) from error
        packet = self._inner(answer)
        if not packet.is_response:
            raise Undecodable(UNDECODABLE)
        observe = answer.get(Option.OBSERVE) if packet.get(Option.OBSERVE) is not None else None
        return _observing(packet, observe)

    def _inner(self, outer: Packet) -> Packet:
        plaintext, self._plaintext = self._plaintext, b""
        try:
            given, payload = read_body(plaintext, 1, None)
        except Malformed as error:
            raise Undecodable(UNDECODABLE) from error
        return Packet(
            kind=outer.kind, code=plaintext[0], mid=outer.mid, token=outer.token, options=given, payload=payload
        )


def _reason(error: Exception) -> NotOpened:
    if isinstance(error, ReplayError):
        return Replayed(REPLAYED)
    if isinstance(error, ProtectionInvalid) and not isinstance(error, DecodeError):
        return Forged(FORGED)
    return Undecodable(UNDECODABLE)


def _incoming(packet: Packet) -> Message:
    value = packet.get(Option.OSCORE) or b""
    if read(value) is None:
        raise Undecodable(UNDECODABLE)
    message = Message(code=Code(packet.code), payload=packet.payload)
    message.opt.oscore = value
    message.direction = Direction.INCOMING
    return message


def _outgoing(packet: Packet) -> Message:
    message = Message(code=Code(packet.code), payload=packet.payload)
    for number, value in packet.options:
        message.opt.add_option(OptionNumber(number).create_option(decode=value))
    return message


def _packet(inner: Packet, outer: Message, observe: bytes | None) -> Packet:
    return Packet(
        kind=inner.kind,
        code=int(outer.code),
        mid=inner.mid,
        token=inner.token,
        options=options([(Option.OBSERVE, observe), (Option.OSCORE, outer.opt.oscore)]),
        payload=outer.payload,
    )


def _observing(packet: Packet, observe: bytes | None) -> Packet:
    """The message with this value of Observe, or without it."""
    kept = [option for option in packet.options if option[0] != Option.OBSERVE]
    return replace(packet, options=options([*kept, (Option.OBSERVE, observe)]))
