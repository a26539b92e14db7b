"""What a machine says about time: which boot this is, how long ago that was, its wall clock, and whether it is set.

Linux says all of it. Elsewhere each process counts as a boot of its own, and the wall clock counts as set.
"""

import ctypes
import time
import uuid
from abc import ABC, abstractmethod
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_RTC, _DEVICE_TREE = Path("/sys/class/rtc"), Path("/proc/device-tree")
#: adjtimex(2), linux/timex.h: the clock is not synchronised; a struct timex has fewer bytes than these, its ``status``
#: is after an int and four longs.
_STA_UNSYNC, _TIMEX_BYTES = 0x0040, 512
_BOOTTIME: int | None = getattr(time, "CLOCK_BOOTTIME", None)


class Machine(ABC):
    """A machine's clocks."""

    @abstractmethod
    def boot_id(self) -> str:
        """The same for every process of one boot, and for no other boot."""

    @abstractmethod
    def boottime_ms(self) -> int:
        """Since the machine's start, also while it was suspended; on one scale for every process of a boot."""

    @abstractmethod
    def wall_ms(self) -> int:
        """The machine's wall clock, ms since the epoch, right or wrong."""

    @abstractmethod
    def is_synchronised(self) -> bool:
        """Whether the kernel says that something, such as NTP, keeps the wall clock right."""

    @abstractmethod
    def may_forget(self) -> bool:
        """Whether the wall clock may be lost when the machine is off: a board without a battery-backed clock."""


class LinuxMachine(Machine):
    """This machine."""

    def __init__(self) -> None:
        try:
            self._boot = _BOOT_ID.read_text().strip()
        except OSError:
            self._boot = ""
        if not self._boot or _BOOTTIME is None:
            self._boot = str(uuid.uuid4())

    def boot_id(self) -> str:
        return self._boot

    def boottime_ms(self) -> int:
        return (time.monotonic_ns() if _BOOTTIME is None else time.clock_gettime_ns(_BOOTTIME)) // 1_000_000

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def is_synchronised(self) -> bool:
        # A long is as long as a pointer on Linux, and the longs after the first int are aligned to it.
        longs = (ctypes.c_long * (_TIMEX_BYTES // ctypes.sizeof(ctypes.c_long)))()
        try:
            state = ctypes.CDLL(None).adjtimex(longs)  # modes is 0: it reads
        except (OSError, AttributeError):
            return True
        status = ctypes.c_int.from_address(ctypes.addressof(longs) + 5 * ctypes.sizeof(ctypes.c_long)).value
        return state >= 0 and not status & _STA_UNSYNC

    def may_forget(self) -> bool:
        # Boards have a device tree; a PC has a clock with a battery, and a virtual machine or container that shows no
        # clock has its host's time.
        return _DEVICE_TREE.exists() and not (_RTC.is_dir() and any(_RTC.iterdir()))
