"""Imports point one way: the rule of docs/explanation/architecture.md, stated once here and changed with it."""

import ast
from pathlib import Path

import pytest

from fleetcore.testing.patience import PATIENCE_S
from scripts.pictures import imports

ROOT = Path(__file__).parents[2]

#: Package or module of the core → what of the core it may import beside itself.
MAY = {
    "errors": set(),
    "files": {"errors"},
    "threads": set(),
    "hookspecs": {"interfaces", "model"},
    "model": {"errors"},
    "query": {"errors", "model"},
    "wire": {"errors", "model", "query"},
    "rollout": {"errors", "model"},
    "plots": {"errors"},
    "views": {"calls", "errors", "model", "plots", "wire"},
    "calls": {"errors", "model", "query", "rollout", "wire", "interfaces", "fleet", "runtime"},
    "client": {"calls", "errors", "frontends", "model", "views", "wire"},
    "listening": {"errors"},
    "interfaces": {"errors", "model", "query", "wire", "listening", "threads"},
    "fleet": {"errors", "files", "listening", "model", "query", "rollout", "wire", "interfaces", "threads"},
    "pipeline": {"errors", "model", "query", "wire", "interfaces", "fleet", "threads"},
    "builtin": {"errors", "files", "model", "query", "wire", "interfaces", "hookspecs", "threads"},
    "testing": {"errors", "model", "query", "wire", "interfaces", "listening"},
    "runtime": {
        "errors",
        "listening",
        "files",
        "model",
        "query",
        "wire",
        "interfaces",
        "fleet",
        "pipeline",
        "builtin",
        "hookspecs",
        "threads",
    },
    "frontends": {
        "calls",
        "errors",
        "model",
        "query",
        "views",
        "wire",
        "interfaces",
        "fleet",
        "pipeline",
        "runtime",
        "threads",
    },
    "cli": {
        "client",
        "errors",
        "files",
        "model",
        "plots",
        "wire",
        "interfaces",
        "runtime",
        "calls",
        "frontends",
        "listening",
        "testing",
        "threads",
    },
    "__main__": {"cli"},
    "__init__": {"errors", "fleet", "hookspecs", "interfaces", "frontends", "cli"},
}
PLUGINS_SEE = {"errors", "model", "query", "wire", "interfaces", "hookspecs", "listening", "testing", "threads"}
#: The operators' API is handed the open fleet, and speaks to its capabilities.
API_SEES = PLUGINS_SEE | {"calls", "fleet", "frontends", "runtime"}
#: A gateway's uplink is handed its open fleet too, and follows its feed.
EDGE_SEES = PLUGINS_SEE | {"fleet", "runtime", "pipeline", "files", "cli", "frontends"}
SEES = {"fleetcore_api": API_SEES, "fleetcore_edge": EDGE_SEES}


def core_files() -> list[Path]:
    return sorted((ROOT / "fleetcore").rglob("*.py"))


@pytest.mark.parametrize("file", core_files(), ids=lambda file: str(file.relative_to(ROOT)))
def test_the_core_imports_one_way(file: Path) -> None:
    place = file.relative_to(ROOT / "fleetcore").parts[0].removesuffix(".py")

    beyond = imports(file) - {place} - MAY[place]

    assert not beyond, f"{file.name} in {place} reaches for {sorted(beyond)}"


@pytest.mark.parametrize(
    "file",
    sorted(
        file
        for folder in ("plugins", "connectors")
        for file in (ROOT / folder).rglob("*.py")
        if "tests" not in file.parts
    ),
    ids=lambda file: str(file.relative_to(ROOT)),
)
def test_plugins_see_the_interfaces_alone_and_never_each_other(file: Path) -> None:
    own = next(part for part in file.parts if part.startswith("fleetcore_"))

    beyond = imports(file) - SEES.get(own, PLUGINS_SEE) - {own}

    assert not beyond


PACKAGES = [
    ROOT / "fleetcore",
    *sorted(
        file.parent for folder in ("plugins", "connectors") for file in ROOT.glob(f"{folder}/*/fleetcore_*/__init__.py")
    ),
]


def modules(package: Path) -> dict[str, Path]:
    """The modules of a package by name."""
    found = {}
    for file in package.rglob("*.py"):
        parts = file.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imported(name: str, file: Path, known: dict[str, Path]) -> set[str]:
    """The modules of ``known`` that a module imports, wherever it does: in a function or for types alone."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
                base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])
            full = {f"{base}.{alias.name}" for alias in node.names}
            found |= full & known.keys() or {base}
    return (found & known.keys()) - {name}


def circle(graph: dict[str, set[str]]) -> list[str]:
    """A shortest circle of modules that import each other, or nothing."""
    found: list[list[str]] = []
    for start in sorted(graph):
        paths, seen = [[start]], {start}
        while paths:
            path = paths.pop(0)
            if start in graph[path[-1]]:
                found.append([*path, start])
                break
            paths += [[*path, after] for after in sorted(graph[path[-1]] - seen)]
            seen |= graph[path[-1]]
    return min(found, key=len, default=[])


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_no_modules_import_each_other_in_a_circle(package: Path) -> None:
    known = modules(package)
    graph = {name: imported(name, file, known) for name, file in known.items()}
    # The public names of the package load on first use (PEP 562): it refers to its parts and does not import them.
    graph[package.name] = set()

    found = circle(graph)

    assert not found, " -> ".join(found)


@pytest.mark.parametrize(
    "text",
    [
        "import p.a",
        "from p.a import x",
        "from p import a",
        "from . import a",
        "from .a import x",
        "def f():\n    import p.a",
    ],
)
def test_a_circle_is_found_however_it_is_imported(tmp_path: Path, text: str) -> None:
    package = tmp_path / "p"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "a.py").write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p.b import x\n")
    (package / "b.py").write_text(text + "\n")
    known = modules(package)

    found = circle({name: imported(name, file, known) for name, file in known.items()})

    assert found == ["p.a", "p.b", "p.a"]


def test_every_module_opens_with_a_docstring() -> None:
    bare = [
        str(file.relative_to(ROOT))
        for folder in ("fleetcore", "plugins", "connectors")
        for file in (ROOT / folder).rglob("*.py")
        if "tests" not in file.parts and file.read_text().strip() and not ast.get_docstring(ast.parse(file.read_text()))
    ]

    assert bare == []


def test_every_module_of_a_plugin_entry_point_is_light() -> None:
    import subprocess
    import sys

    heavy = (
        "paho",
        "mqtt5",
        "aiohttp",
        "boto3",
        "botocore",
        "google",
        "grpc",
        "numpy",
        "cryptography",
        "starlette",
        "uvicorn",
    )
    for file in sorted([*ROOT.glob("plugins/*/*/plugin.py"), *ROOT.glob("connectors/*/*/plugin.py")]):
        module = f"{file.parent.name}.plugin"
        code = f"import sys, {module}; print([one for one in {heavy!r} if one in sys.modules])"
        out = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=PATIENCE_S
        )

        assert out.stdout.strip() == "[]", f"importing {module} imports {out.stdout}"
