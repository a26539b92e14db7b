"""What a gateway has and uses, as it reports it: ``reported.resources``."""

import os
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

_MIB = 1 << 20
_MEMORY = Path("/proc/meminfo")


def measured(folder: Path) -> Mapping[str, object]:
    """The machine's processors, memory and disk, in MiB, and its load over one minute. Of Linux; else what is known."""
    disk = shutil.disk_usage(folder)
    found: dict[str, object] = {
        "cpu_cores": os.cpu_count() or 1,
        "disk_mib": disk.total // _MIB,
        "free_disk_mib": disk.free // _MIB,
        "engine": f"wasmtime {version('wasmtime')}",
    }
    if hasattr(os, "getloadavg"):
        found["load"] = round(os.getloadavg()[0], 2)
    if _MEMORY.exists():
        kib = {name: int(rest.split()[0]) for name, rest in map(_member, _MEMORY.read_text().splitlines())}
        found |= {"memory_mib": kib["MemTotal"] // 1024, "free_memory_mib": kib["MemAvailable"] // 1024}
    return found


def _member(line: str) -> tuple[str, str]:
    name, _, rest = line.partition(":")
    return name, rest
