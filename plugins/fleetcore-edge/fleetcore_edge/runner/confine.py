"""What the processes of the runner take away from themselves before they look at anything from outside."""

import contextlib
import ctypes
import os
import resource
import signal
import sys

# include/uapi/linux/prctl.h
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38


def die_with_parent() -> None:
    """Ends this process when its parent ends, where the system can do that. Elsewhere the end of its socket does."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == 1:
        sys.exit(0)


def give_up(limits: dict[int, int], nice: int) -> None:
    """Sets limits, hard and soft, gives up new rights, and steps behind the rest of the machine."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    with contextlib.suppress(OSError):
        os.nice(nice)
    for kind, limit in limits.items():
        _, hard = resource.getrlimit(kind)
        least = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (least, least))


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
