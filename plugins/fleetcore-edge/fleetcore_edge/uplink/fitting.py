"""Lists that fit into messages: one that is too long for the core is halved until each part is taken or refused."""

from collections.abc import Sequence
from typing import Any

import msgspec

from fleetcore.model.message import MessageType, Reply
from fleetcore_edge.uplink.link import Link


async def send_all(
    link: Link, type: MessageType, items: Sequence[Any], *, subject: str | None
) -> Sequence[tuple[Sequence[Any], Reply]]:
    """Sends a list, in one message where it fits; returns each part with its final reply, in their order.

    A message that the core's limit turned out to be too small for lowers what the link sends from then on.
    """
    body = msgspec.json.encode(items)
    if len(items) == 1 or len(body) <= link.message_bytes:
        reply = await link.send(type, body, subject=subject)
        if len(items) == 1 or not _too_long(reply):
            return [(items, reply)]
        link.message_bytes = min(link.message_bytes, len(body) // 2)
    half = len(items) // 2
    return [
        *await send_all(link, type, items[:half], subject=subject),
        *await send_all(link, type, items[half:], subject=subject),
    ]


def _too_long(reply: Reply) -> bool:
    """Whether the message itself was too long, and not a reading in it."""
    error = reply.error or {}
    return error.get("code") == "limit_exceeded" and not error.get("rejected")
