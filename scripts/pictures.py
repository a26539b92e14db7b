"""The pictures in docs/explanation, drawn from the code as SVG.

packages.svg    the packages in layers, with the imports between them
data-path.svg   a message's way: the steps that ``pipeline/path.py`` imports, and every consumer of the feed

``python scripts/pictures.py`` writes them (``make generate``); with ``--check`` it exits with 1 if one is stale.
"""

import ast
import re
import sys
import textwrap
from collections.abc import Iterable, Mapping
from graphlib import TopologicalSorter
from html import escape
from pathlib import Path

import fleetcore

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "explanation"
CORE = ROOT / "fleetcore"
_TOP_LEVEL = {"hookimpl", "__version__", "PLUGIN_API"} | {
    name for name in fleetcore.__all__ if name.startswith("offer_")
}
#: The modules that start everything; with them a picture would have arrows to everything.
_STARTERS = {"__init__", "__main__"}
_OUTSIDE = "plugins and connectors"

_HEAD = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="{label}">
<style>
text {{ font: 12px system-ui, sans-serif; fill: #1c2733; text-anchor: middle }}
.name {{ font-weight: 600; font-size: 13px }}
.box {{ fill: #eef3f8; stroke: #5b7083 }}
.edge {{ fill: none; stroke: #8496a6; marker-end: url(#tip) }}
</style>
<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">
<path d="M0 0 8 4 0 8z" fill="#8496a6"/></marker></defs>
<rect width="{width}" height="{height}" fill="#ffffff"/>
"""


def imports(file: Path) -> set[str]:
    """Modules of fleetcore that a file imports, first level below fleetcore; ``TYPE_CHECKING`` blocks count too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [node.module]
            if node.module == "fleetcore":
                names = [f"fleetcore.{alias.name}" for alias in node.names if alias.name not in _TOP_LEVEL]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("fleetcore.")}
        found |= {name.split(".")[0] for name in names if name.startswith("fleetcore_")}
    return found


def graph() -> dict[str, set[str]]:
    """Each package or module of the core, and all plugins as one, with their imports from the core."""
    found: dict[str, set[str]] = {}
    for file in CORE.rglob("*.py"):
        place = file.relative_to(CORE).parts[0].removesuffix(".py")
        if place not in _STARTERS:
            found.setdefault(place, set()).update(imports(file) - {place})
    places = set(found)
    outside = [file for folder in ("plugins", "connectors") for file in (ROOT / folder).glob("*/fleetcore_*/**/*.py")]
    found[_OUTSIDE] = {place for file in outside for place in imports(file)}
    return {place: targets & places for place, targets in found.items()}


def layers(edges: Mapping[str, set[str]]) -> list[list[str]]:
    """The nodes in layers: each above all its imports, as low as possible. Raises CycleError."""
    depth: dict[str, int] = {}
    for node in TopologicalSorter(edges).static_order():
        depth[node] = 1 + max((depth[target] for target in edges.get(node, ())), default=-1)
    return [sorted(node for node in depth if depth[node] == level) for level in range(max(depth.values()) + 1)]


def reduced(edges: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """The edges that are not implied by a longer path."""

    def beyond(node: str) -> set[str]:
        return {far for target in edges[node] for far in (target, *beyond(target))}

    return {node: targets - {far for target in targets for far in beyond(target)} for node, targets in edges.items()}


def packages() -> str:
    """The picture of packages; imports are below their importers."""
    edges = graph()
    rows = layers(edges)[::-1]
    width, step = 860, 74
    at: dict[str, tuple[float, float, float]] = {}
    for row, names in enumerate(rows):
        for column, name in enumerate(names):
            size = max(84.0, 7.6 * len(name) + 22)
            # A single node stands left of the middle, where fewer arrows pass.
            share = 0.38 if len(names) == 1 and row else (column + 1) / (len(names) + 1)
            at[name] = (width * share, 40.0 + row * step, size)
    height = 40 + len(rows) * step
    label = "fleetcore's packages in layers; an arrow leads from a package to one that it imports"
    lines = [_HEAD.format(width=width, height=height, label=label)]
    for node, targets in sorted(reduced(edges).items()):
        for target in sorted(targets):
            (x, y, _), (to_x, to_y, _) = at[node], at[target]
            middle = (y + to_y) / 2
            lines.append(
                f'<path class="edge" d="M{x:.0f} {y + 17:.0f}C{x:.0f} {middle:.0f} {to_x:.0f} {middle:.0f}'
                f' {to_x:.0f} {to_y - 18:.0f}"/>'
            )
    for name, (x, y, size) in at.items():
        lines.append(_box(x, y, size, 34) + f'<text class="name" x="{x:.0f}" y="{y + 4:.0f}">{escape(name)}</text>')
    return "\n".join([*lines, "</svg>", ""])


def steps() -> dict[str, str]:
    """The steps of the data path, as ``path.py`` imports them, with the summaries of their modules."""
    path = CORE / "pipeline" / "path.py"
    there = {
        name.rpartition(".")[2]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fleetcore.pipeline")
        for name in (node.module or "", *(alias.name for alias in node.names))
    }
    order = ("receive", "admit", "fast_path", "decode", "validate", "handlers", "store", "acknowledge")
    assert set(order) <= there, f"path.py has no step {set(order) - there}"
    return {name: _said(path.parent / f"{name}.py") for name in order}


def consumers() -> dict[str, str]:
    """The consumers of the feed: every class in the pipeline that is a Consumer without subclasses there."""
    bases: dict[str, tuple[Path, set[str]]] = {}
    for file in sorted((CORE / "pipeline").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef):
                names = {inner.id for base in node.bases for inner in ast.walk(base) if isinstance(inner, ast.Name)}
                bases[node.name] = (file, names)
    kinds = {"Consumer"}
    while more := {name for name, (_, names) in bases.items() if names & kinds} - kinds:
        kinds |= more
    parents = {name for kind in kinds & bases.keys() for name in bases[kind][1]}
    files = sorted({bases[kind][0] for kind in kinds - parents})
    return {file.relative_to(CORE / "pipeline").with_suffix("").as_posix(): _said(file) for file in files}


def _said(file: Path) -> str:
    """The first sentence of a module's docstring, without the leading name."""
    opening = (ast.get_docstring(ast.parse(file.read_text())) or "").partition("\n\n")[0]
    sentence = re.split(r"\.(?:\s|$)| \(wire\.md", " ".join(opening.split()))[0]
    said = re.sub(r"^[A-Z][\w -]{0,20}: ", "", sentence)
    return said[0].upper() + said[1:]


def data_path() -> str:
    """The picture of a message's way, and the consumers of the feed."""
    found, readers = steps(), consumers()
    width, size, gap = 1280, 180, 32
    at = {
        "receive": (0, 1), "admit": (1, 1), "fast_path": (2, 0), "decode": (2, 1), "validate": (3, 1),
        "handlers": (2, 2), "store": (4, 1), "acknowledge": (5, 1),
    }  # fmt: skip
    left, top, tall, row = 20 + size / 2, 138.0, 112, 132

    def place(name: str) -> tuple[float, float]:
        column, line = at[name]
        return left + column * (size + gap), top + line * row

    feed_y, readers_y = top + 3 * row + 10, top + 3 * row + 130
    height = int(readers_y + 90)
    label = "A message's way from the protocol through the data path into the store, its feed, and the feed's consumers"
    lines = [_HEAD.format(width=width, height=height, label=label)]

    def arrow(*points: tuple[float, float]) -> None:
        lines.append(f'<path class="edge" d="M{" L".join(f"{x:.0f} {y:.0f}" for x, y in points)}"/>')

    def between(name: str, other: str) -> None:
        (x, y), (to_x, to_y) = place(name), place(other)
        # Far arrows turn just before their end, near ones halfway.
        half = to_x - size / 2 - gap / 2
        arrow((x + size / 2, y), (half, y), (half, to_y), (to_x - size / 2, to_y))

    for name, other in (
        ("receive", "admit"), ("admit", "fast_path"), ("admit", "decode"), ("admit", "handlers"),
        ("decode", "validate"), ("validate", "store"), ("fast_path", "store"), ("handlers", "store"),
        ("store", "acknowledge"),
    ):  # fmt: skip
        between(name, other)
    first, last, store = place("receive"), place("acknowledge"), place("store")
    arrow((first[0], 58), (first[0], first[1] - tall / 2))
    arrow((last[0], last[1] - tall / 2), (last[0], 58))
    arrow((store[0], store[1] + tall / 2), (store[0], feed_y - 20))
    lines.append(_captioned(width / 2, 40, width - 40, 36, "protocol", ""))
    for name, said in found.items():
        lines.append(_captioned(*place(name), size, tall, name, said))
    lines.append(_captioned(width / 2, feed_y, width - 40, 40, "feed: the commits in their order", ""))
    each = (width - 40 - gap / 2 * (len(readers) - 1)) / len(readers)
    for number, (name, said) in enumerate(readers.items()):
        x = 20 + each / 2 + number * (each + gap / 2)
        arrow((x, feed_y + 20), (x, readers_y - 60))
        lines.append(_captioned(x, readers_y, each, 120, name, said))
    return "\n".join([*lines, "</svg>", ""])


def _box(x: float, y: float, width: float, height: float) -> str:
    return (
        f'<rect class="box" rx="6" x="{x - width / 2:.0f}" y="{y - height / 2:.0f}"'
        f' width="{width:.0f}" height="{height:.0f}"/>'
    )


def _captioned(x: float, y: float, width: float, height: float, name: str, said: str) -> str:
    told = textwrap.wrap(said, int(width / 7.2), max_lines=6, placeholder=" …") if said else []
    start = y + 5 - 7.5 * len(told)
    texts = [f'<text class="name" x="{x:.0f}" y="{start:.0f}">{escape(name)}</text>']
    texts += [
        f'<text x="{x:.0f}" y="{start + 16 + 14 * number:.0f}">{escape(line)}</text>'
        for number, line in enumerate(told)
    ]
    return "\n".join([_box(x, y, width, height), *texts])


PICTURES = {"packages.svg": packages, "data-path.svg": data_path}


def stale() -> Iterable[str]:
    """The pictures that differ from the code."""
    for name, make in PICTURES.items():
        place = FOLDER / name
        if not place.is_file() or place.read_text(encoding="utf-8") != make():
            yield name


def main() -> None:
    """Writes or compares them."""
    for name in list(stale()):
        if "--check" in sys.argv:
            sys.exit(f"docs/explanation/{name} is stale: run `make generate`")
        (FOLDER / name).write_text(PICTURES[name](), encoding="utf-8")
        print(FOLDER / name)


if __name__ == "__main__":
    main()
