"""Ids of what is made often: unique, and in the order of time."""

import os

_TIME_BITS = 48


def ordered_id(now_ms: int) -> str:
    """32 hex digits as RFC 9562 §5.7 has them (a UUID, version 7): 48 bits of time, then 74 random ones.

    What is made at one time lies together in every index of a store, so that a commit of many changes writes few
    pages; with random ids each change touches pages of its own.
    """
    time = now_ms & ((1 << _TIME_BITS) - 1)
    random = int.from_bytes(os.urandom(10), "big")
    high, low = random >> 64 & 0xFFF, random & ((1 << 62) - 1)
    return f"{time << 80 | 7 << 76 | high << 64 | 2 << 62 | low:032x}"
