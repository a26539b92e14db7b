"""Makes one delta, as a separate process: ``python delta_worker.py BASE TARGET DELTA MEMORY SECONDS``.

It imports nothing of fleetcore. The system limits its memory, processor time and the size of what it writes before it
reads anything. It prints the size of the delta, and that of the target compressed by bzip2, as the delta is.
"""

import bz2
import resource
import sys

#: Address space that the interpreter and its libraries take before any image is read.
_OWN_BYTES = 256 << 20


def main(base: str, target: str, delta: str, memory_bytes: int, seconds: int) -> None:
    """Writes the delta; ends with MemoryError, or by a signal, at a limit."""
    import bsdiff4  # type: ignore[import-not-found,import-untyped,unused-ignore]  # optional

    with open(base, "rb") as old, open(target, "rb") as new:  # noqa: PTH123 - pathlib is not needed otherwise
        size = new.seek(0, 2)
        new.seek(0)
        limits = {
            resource.RLIMIT_AS: memory_bytes + _OWN_BYTES,
            resource.RLIMIT_CPU: seconds,
            resource.RLIMIT_FSIZE: 2 * size + 1024,
            resource.RLIMIT_CORE: 0,
        }
        for kind, limit in limits.items():
            resource.setrlimit(kind, (limit, limit))
        content = new.read()
        made = bsdiff4.diff(old.read(), content)
    packed = len(bz2.compress(content))
    # One that is larger is not kept anyway, only its size is told.
    with open(delta, "wb") as file:  # noqa: PTH123
        file.write(made[: packed + 1])
    print(len(made), packed)  # noqa: T201 - the answer


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
