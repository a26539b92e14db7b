"""Ids of objects that are made often, such as commands: unique, and in the order of time."""

import os

_TIME_BITS = 48


def ordered_id(now_ms: int) -> str:
    """32 hex digits in the form of RFC 9562 §5.7 (a UUID, version 7): 48 bits of time, then 74 random ones.

    Objects made at one time are adjacent in every index of a store, so that a commit of many changes writes few pages;
    with random ids each change touches other pages.
    """
    time = now_ms & ((1 << _TIME_BITS) - 1)
    random = int.from_bytes(os.urandom(10), "big")
    high, low = random >> 64 & 0xFFF, random & ((1 << 62) - 1)
    return f"{time << 80 | 7 << 76 | high << 64 | 2 << 62 | low:032x}"
