"""Lists in messages that fit: what turns out to be too long for the core is sent in shorter ones."""

from collections.abc import Sequence
from typing import Any

from fleetcore.model.message import MessageType, Reply
from fleetcore_edge.splitting import split
from fleetcore_edge.uplink.link import Link


async def send_all(
    link: Link, type: MessageType, items: Sequence[Any], *, subject: str | None
) -> Sequence[tuple[Sequence[Any], Reply]]:
    """Sends a list, in one message where it fits; returns each part with its final reply, in their order.

    A message that was too long lowers what the link sends from then on.
    """
    found: list[tuple[Sequence[Any], Reply]] = []
    for part, body in split(items, link.message_bytes):
        reply = await link.send(type, body, subject=subject)
        if len(part) > 1 and _too_long(reply):
            link.message_bytes = min(link.message_bytes, len(body) // 2)
            found += await send_all(link, type, part, subject=subject)
        else:
            found.append((part, reply))
    return found


def _too_long(reply: Reply) -> bool:
    """Whether the message itself was too long, and not a reading in it."""
    error = reply.error or {}
    return error.get("code") == "limit_exceeded" and not error.get("rejected")
