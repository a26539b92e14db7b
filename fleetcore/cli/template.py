"""The plugin project that ``fleetcore plugin new`` writes: a detector, its contract test, its packaging.

It is made from the folder ``plugin_template`` beside this module. examples/plugin_template is written by the same code,
and the tests run it.
"""

from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template

from fleetcore.errors import Refused


def write_plugin(name: str, into: Path) -> Path:
    """Writes the project and returns its folder; raises Refused if it exists."""
    folder = into / f"fleetcore-{name}"
    if folder.exists():
        raise Refused(f"{folder} exists already", remedy="Choose another name or folder")
    _write(files("fleetcore.cli") / "plugin_template", folder, name)
    return folder


def _write(source: Traversable, target: Path, name: str) -> None:
    """Copies a folder; NAME in the names of files, and ``${name}`` and ``${title}`` in their texts, are filled in."""
    target.mkdir(parents=True)
    title = "".join(part.capitalize() for part in name.split("_"))
    for each in source.iterdir():
        its = target / each.name.removesuffix(".txt").replace("NAME", name)
        if each.is_dir():
            _write(each, its, name)
        else:
            its.write_text(Template(each.read_text(encoding="utf-8")).substitute(name=name, title=title))
