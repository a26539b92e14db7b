"""Compiles one module, as a process of its own: ``python -m fleetcore_edge.runner.compiling SECONDS MIB NICE KIND``.

The module comes on standard input, the answer goes to standard output: a JSON document with its length before it, and
the compiled code. The system limits processor time and memory before anything is read; no file can be written.
"""

import json
import resource
import sys

from fleetcore_edge.runner.confine import die_with_parent, give_up
from fleetcore_edge.runner.frames import LENGTH

#: Address space of the interpreter and the engine's library before any module is read (VmPeak: 43 MiB).
_OWN_MIB = 64


def main(seconds: int, memory_mib: int, nice: int, kind: str) -> None:
    """Answers; ends by a signal at the limit of time, and by an abort of the engine at that of memory."""
    die_with_parent()
    give_up(
        {
            resource.RLIMIT_AS: (memory_mib + _OWN_MIB) << 20,
            resource.RLIMIT_CPU: seconds,
            resource.RLIMIT_FSIZE: 0,
            resource.RLIMIT_CORE: 0,
        },
        nice,
    )
    said, code = _answer(sys.stdin.buffer.read(), own=kind == "own")
    document = json.dumps(said).encode()
    sys.stdout.buffer.write(LENGTH.pack(len(document)) + document + code)


def _answer(content: bytes, *, own: bool) -> tuple[dict[str, object], bytes]:
    import wasmtime

    from fleetcore_edge.runner.contract import Unsuitable, check
    from fleetcore_edge.runner.engine import make_engine

    try:
        module = wasmtime.Module(make_engine(), content)
        if not own:
            check(module)
    except wasmtime.WasmtimeError as error:
        reason = f"The module cannot be compiled: {' '.join(str(error).split())[:500]}"
        return _refusal("module_invalid", reason, "Build it for wasm32 without threads, 64-bit memories and exceptions")
    except Unsuitable as unsuitable:
        return _refusal(*unsuitable.args)
    return {}, bytes(module.serialize())


def _refusal(code: str, reason: str, remedy: str) -> tuple[dict[str, object], bytes]:
    return {"code": code, "reason": reason, "remedy": remedy}, b""


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
