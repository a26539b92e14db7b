"""aiocoap's codec, used by the device client: so two codecs read every message between the two ends."""

from aiocoap.error import UnparsableMessage
from aiocoap.message import Message
from aiocoap.numbers.codes import Code
from aiocoap.numbers.optionnumbers import OptionNumber
from aiocoap.numbers.types import Type

from fleetcore_coap.codec import Codec, Kind, Malformed, Packet


def _decode(datagram: bytes) -> Packet:
    try:
        message = Message.decode(datagram)
        options = tuple((int(option.number), option.encode()) for option in message.opt.option_list())
    except (UnparsableMessage, ValueError, OverflowError, IndexError) as error:
        raise Malformed(str(error)) from error
    return Packet(
        kind=Kind(int(message.mtype)),
        code=int(message.code),
        mid=int(message.mid),
        token=message.token,
        options=options,
        payload=message.payload,
    )


def _encode(packet: Packet) -> bytes:
    message = Message(
        code=Code(packet.code), payload=packet.payload, _mid=packet.mid, _mtype=Type(packet.kind), _token=packet.token
    )
    for number, value in packet.options:
        message.opt.add_option(OptionNumber(number).create_option(decode=value))
    encoded: bytes = message.encode()
    return encoded


AIOCOAP = Codec(_decode, _encode)
