"""What a module must export and may import, looked at before any of it runs."""

import wasmtime

from fleetcore_edge.runner import abi


class Unsuitable(Exception):
    """A module that does not keep to the ABI: a code, the reason and the remedy."""


def check(module: wasmtime.Module) -> None:
    """Raises Unsuitable unless imports and exports are those of the ABI."""
    for found in module.imports:
        _check_import(found)
    exports = {export.name: export.type for export in module.exports}
    if not isinstance(exports.get(abi.MEMORY), wasmtime.MemoryType):
        raise Unsuitable(
            "export_missing", "The module exports no memory named memory", 'Export the memory: (export "memory")'
        )
    for name, expected in {**abi.REQUIRED, **abi.OPTIONAL}.items():
        if name not in exports and name in abi.OPTIONAL:
            continue
        if _signature(exports.get(name)) != expected:
            raise Unsuitable(
                "export_missing",
                f"The module has no function {name} of the type {_written(expected)}",
                "Include the SDK's header, or export it as docs/reference/edge-abi.md says",
            )


def _check_import(found: wasmtime.ImportType) -> None:
    name = f"{found.module}.{found.name}"
    expected = abi.IMPORTS.get(found.name or "") if found.module == abi.IMPORT_MODULE else None
    if expected is None:
        raise Unsuitable(
            "import_unknown",
            f"The module imports {name}, which the runner does not give",
            "Functions may import fleetcore.log, fleetcore.now and fleetcore.secret. Build without WASI",
        )
    if _signature(found.type) != expected:
        raise Unsuitable(
            "import_unknown", f"The module imports {name} with another type than {_written(expected)}", "Use the SDK"
        )


def _signature(kind: object) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    if not isinstance(kind, wasmtime.FuncType):
        return None
    return tuple(map(str, kind.params)), tuple(map(str, kind.results))


def _written(signature: tuple[tuple[str, ...], tuple[str, ...]]) -> str:
    takes, gives = (" ".join(part) or "nothing" for part in signature)
    return f"{takes} -> {gives}"
