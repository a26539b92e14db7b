"""Waves: the devices of an operation in parts of growing size, so that a fault affects few of them."""

import hashlib
from collections.abc import Iterable, Sequence
from math import ceil

from fleetcore.errors import Refused

#: One device, then a tenth, then the rest.
WAVES = ("1", "10%")
#: The default share of failures, of the devices in the started waves, beyond which the operation stops.
MAX_FAILED = 0.05


def in_waves(devices: Iterable[str]) -> list[str]:
    """Devices in the order of waves: by a digest, since consecutive ids are often of one type, or of one site."""
    return sorted(devices, key=lambda device: hashlib.sha256(device.encode()).digest())


def wave_sizes(waves: Sequence[str], count: int) -> tuple[int, ...]:
    """The waves as numbers of devices, each at least one; the rest is a last wave.

    Args:
        waves: sizes, or shares as ``10%``.

    Raises:
        Refused: a wave is neither.
    """
    found: list[int] = []
    left = count
    for text in waves:
        share, number = text.endswith("%"), text.removesuffix("%")
        try:
            value = float(number) if share else int(number)
        except ValueError:
            value = -1
        if not (0 < value <= 100 if share else value > 0):
            raise Refused(f"{text!r} is not a wave", remedy="Write a number of devices, or a share: 10%")
        size = min(left, max(1, ceil(count * value / 100)) if share else int(value))
        if size:
            found.append(size)
        left -= size
    return (*found, left) if left else tuple(found)
