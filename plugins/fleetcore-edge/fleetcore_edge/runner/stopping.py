"""Why a function is stopped, within the worker."""

import wasmtime
from wasmtime import TrapCode

CODES = {
    TrapCode.OUT_OF_FUEL: "out_of_fuel",
    TrapCode.INTERRUPT: "out_of_time",
    TrapCode.STACK_OVERFLOW: "stack",
}

#: A trap with more of its memory in use than this is taken for one for want of memory.
_NEARLY = 7 / 8


class Stopped(Exception):
    """The batch is stopped: a code and the reason."""


def of_trap(trap: wasmtime.Trap, memory_kib: int, limit_kib: int) -> Stopped:
    """What a trap means."""
    code = CODES.get(trap.trap_code) if trap.trap_code is not None else None
    reason = " ".join(trap.message.split()).rpartition("wasm trap: ")[2][:300]
    # A compiler's allocator traps when it gets no more; it asks for more than one page at a time.
    if code is None and memory_kib > _NEARLY * limit_kib:
        return Stopped("out_of_memory", f"{reason}, with {memory_kib} of {limit_kib} KiB of memory in use")
    if code is None:
        return Stopped("trapped", f"{reason}, with {memory_kib} of {limit_kib} KiB of memory in use")
    return Stopped(code, reason)
