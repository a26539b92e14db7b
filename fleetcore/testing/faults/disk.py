"""Failing disks: files that cannot grow, syncs that fail or are slow, flipped bits.

Python's own syncs are replaced in the process (:func:`at_sync`, :func:`failing_sync`, :func:`slow_sync`); those of a C
library, such as SQLite's, by the kernel (:func:`break_calls`). The kernel's way is irreversible, so it is for the child
process of :func:`~fleetcore.testing.kill.killed`.
"""

import ctypes
import errno
import os
import platform
import resource
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any
from unittest.mock import patch


@contextmanager
def files_cannot_grow(pid: int = 0, *, beyond_bytes: int = 1) -> Iterator[None]:
    """Within the block, writes after the first ``beyond_bytes`` of a file fail with EFBIG, in a running process.

    Args:
        pid: the process; 0 is this one.
        beyond_bytes: the maximum size of a file.
    """
    soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (beyond_bytes, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def at_sync(action: Callable[[Callable[[], None]], object]) -> Iterator[None]:
    """Calls ``action(sync)`` in place of each ``os.fsync`` and ``os.fdatasync``; ``sync`` is the real one."""

    def instead(real: Callable[[Any], None], file: Any) -> None:
        action(lambda: real(file))

    with (
        patch.object(os, "fsync", partial(instead, os.fsync)),
        patch.object(os, "fdatasync", partial(instead, os.fdatasync)),
    ):
        yield


@contextmanager
def failing_sync(code: int = errno.EIO) -> Iterator[None]:
    """Syncs fail, as on a broken disk; with ``errno.ENOSPC`` as on a full one that reports it late."""

    def fail(_sync: Callable[[], None]) -> None:
        raise OSError(code, os.strerror(code))

    with at_sync(fail):
        yield


@contextmanager
def slow_sync(wait: Callable[[], object]) -> Iterator[None]:
    """Syncs take as long as ``wait()``, such as until a :class:`~fleetcore.testing.faults.stuck.Stuck` is released."""

    def slowly(sync: Callable[[], None]) -> None:
        wait()
        sync()

    with at_sync(slowly):
        yield


def flip_bit(file: Path, at: int | None = None, *, bit: int = 0) -> int:
    """Flips one bit of a file, by default in its middle byte; returns the byte's offset."""
    content = bytearray(file.read_bytes())
    place = len(content) // 2 if at is None else at % len(content)
    content[place] ^= 1 << bit
    with file.open("r+b") as opened:
        opened.seek(place)
        opened.write(content[place : place + 1])
    return place


#: Calls that write a file's content through to the disk.
SYNCS = ("fsync", "fdatasync", "sync_file_range", "msync")
#: Calls that write at an offset in a file, as databases do. ``write`` is not included: pipes and sockets need it.
PLACED_WRITES = ("pwrite64", "pwritev", "pwritev2", "fallocate")

#: Numbers of system calls by machine (arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h).
_NUMBERS: Mapping[str, Mapping[str, int]] = MappingProxyType(
    {
        "x86_64": {
            "fsync": 74, "fdatasync": 75, "sync_file_range": 277, "msync": 26,
            "pwrite64": 18, "pwritev": 296, "pwritev2": 328, "fallocate": 285, "seccomp": 317,
        },
        "aarch64": {
            "fsync": 82, "fdatasync": 83, "sync_file_range": 84, "msync": 227,
            "pwrite64": 68, "pwritev": 70, "pwritev2": 287, "fallocate": 47, "seccomp": 277,
        },
    }
)  # fmt: skip
#: include/uapi/linux/prctl.h, seccomp.h, filter.h.
_PR_SET_NO_NEW_PRIVS, _SET_MODE_FILTER, _ALL_THREADS = 38, 1, 1
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _FAIL = 0x7FFF0000, 0x00050000


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_ushort),
        ("then", ctypes.c_ubyte),
        ("otherwise", ctypes.c_ubyte),
        ("k", ctypes.c_uint),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.POINTER(_Instruction)))


def can_break_calls() -> bool:
    """Whether :func:`break_calls` works here: on Linux, on x86-64 and 64-bit ARM."""
    return platform.system() == "Linux" and platform.machine() in _NUMBERS


def break_calls(*names: str, code: int = errno.EIO) -> None:
    """Makes these system calls fail in every thread of this process from now on, also those of C code.

    This is irreversible: use it only in a process that ends afterwards, such as the child of
    :func:`~fleetcore.testing.kill.killed`.

    Args:
        names: of :data:`SYNCS` or :data:`PLACED_WRITES`.
        code: the error: ``errno.EIO`` as for a broken disk, ``errno.ENOSPC`` as for a full one.

    Raises:
        NotImplementedError: not on this system, see :func:`can_break_calls`.
        OSError: the kernel refused the filter.
    """
    if not can_break_calls():
        raise NotImplementedError(f"system calls cannot be broken on {platform.system()} {platform.machine()}")
    numbers = _NUMBERS[platform.machine()]
    # A program of the kernel's packet filter: the number of the call is the first word of its input.
    program = [_Instruction(_LOAD, 0, 0, 0)]
    program += [_Instruction(_JUMP_IF_EQUAL, len(names) - place, 0, numbers[name]) for place, name in enumerate(names)]
    program += [_Instruction(_RETURN, 0, 0, _ALLOW), _Instruction(_RETURN, 0, 0, _FAIL | code)]
    instructions = (_Instruction * len(program))(*program)
    library = ctypes.CDLL(None, use_errno=True)
    library.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    given = _Program(len(program), instructions)
    if library.syscall(numbers["seccomp"], _SET_MODE_FILTER, _ALL_THREADS, ctypes.byref(given)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
