"""Message types by protocol: the address of each, or its replacement there."""

from collections.abc import Iterator, Mapping

from attrs import frozen

from fleetcore.model.message import Direction, MessageType
from fleetcore.wire import messages

PROTOCOLS = ("mqtt", "http", "coap", "websocket")

#: The replacement where a protocol does not carry a message type. Every other cell must have an address.
_INSTEAD: Mapping[tuple[MessageType, str], str] = {
    (messages.ARTIFACT, "mqtt"): "over HTTP or CoAP",
    (messages.ARTIFACT, "websocket"): "over HTTP or CoAP",
    (messages.COMMAND_CANCEL, "http"): '`"cancel": true` in the list of commands',
    (messages.COMMAND_CANCEL, "coap"): '`"cancel": true` in the list of commands',
    (messages.ERRORS, "http"): "the answer itself",
    (messages.ERRORS, "coap"): "the answer itself",
}


@frozen(kw_only=True)
class Cell:
    """One message type on one protocol.

    Attributes:
        address: topic, path or ``op``; empty where the protocol does not carry it.
        instead: what a device uses instead; empty where it is carried.
        later: the name is reserved; the message is refused ``operation_unknown``.
    """

    address: str
    instead: str = ""
    later: bool = False

    @property
    def carried(self) -> bool:
        """Whether a device can use it today."""
        return bool(self.address) and not self.later


def rows() -> Iterator[tuple[MessageType, Mapping[str, Cell]]]:
    """Every message type, with its cell on each protocol."""
    for row in messages.ALL:
        yield row, {protocol: cell(row, protocol) for protocol in PROTOCOLS}


def cell(row: MessageType, protocol: str) -> Cell:
    """A cell; raises KeyError where a message type has neither an address on the protocol nor a replacement."""
    if (row, protocol) in _INSTEAD:
        return Cell(address="", instead=_INSTEAD[row, protocol])
    address = _ADDRESS[protocol](row)
    if not address:
        raise KeyError(f"{row} has neither an address on {protocol} nor a replacement")
    # A type that no protocol carries yet is reserved on all of them.
    everywhere = {"mqtt", "http"} <= row.later
    return Cell(address=address, later=everywhere or protocol in row.later)


def topics(row: MessageType) -> list[str]:
    """The topics of a message type below a device's prefix, for documentation: U published, D subscribed."""
    return [f"U `{name}`" for name in row.mqtt] + ([f"D `{row.mqtt_down}`"] if row.mqtt_down else [])


def _mqtt(row: MessageType) -> str:
    found = topics(row)
    if not found and row.direction is Direction.CALL:
        found = [f"U `request/{{rid}}` op `{row.name}`"]
    return ", ".join(found)


def _http(row: MessageType) -> str:
    return "" if row.path is None else f"`{'/'.join(row.methods)} /{row.path}`"


def _coap(row: MessageType) -> str:
    if row.path is None:
        return ""
    method = row.coap_method or "/".join(row.methods)
    return f"`{method} /{row.path}`" + (f", `{row.coap_alias}`" if row.coap_alias else "")


def _websocket(row: MessageType) -> str:
    return f"`{row.name}`"


_ADDRESS = {"mqtt": _mqtt, "http": _http, "coap": _coap, "websocket": _websocket}
