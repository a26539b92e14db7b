"""Documentation is held to the code: its commands exist, its files load, its code compiles."""

import importlib
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from fleetcore.cli.root import root
from fleetcore.runtime.config import load
from fleetcore.runtime.core_keys import CORE_KEYS
from fleetcore.runtime.plugins import PluginHost
from fleetcore.testing.patience import PATIENCE_S

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted(ROOT.glob("plugins/*/README.md")),
    *sorted(ROOT.glob("connectors/*/README.md")),
    *sorted((ROOT / "examples").rglob("*.md")),
]
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(language):
    found = []
    for page in PAGES:
        for number, (kind, text) in enumerate(_BLOCK.findall(page.read_text(encoding="utf-8"))):
            if kind == language:
                found.append(pytest.param(text, id=f"{page.relative_to(ROOT)}-{number}"))
    return found


def test_the_two_commands_stand_on_the_first_screen():
    first = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:24]

    assert any("make demo" in line for line in first)
    assert any("make test" in line for line in first)


@pytest.mark.parametrize("text", blocks("python"))
def test_python_compiles(text):
    compile(text, "docs", "exec", flags=0x2000)  # PyCF_ALLOW_TOP_LEVEL_AWAIT


def test_the_script_of_the_readme_runs():
    (script,) = [one.values[0] for one in blocks("python") if one.id.startswith("README.md")]

    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"Fleet health score: [0-9.]+%\n", done.stdout)


@pytest.fixture
def beside(tmp_path, monkeypatch):
    """A folder with the plugins that pages speak of: those in one file, and the project from the template."""
    for file in ((ROOT / "examples").glob("one_file_*.py"), [ROOT / "examples" / "small_storage.py"]):
        for each in file:
            shutil.copy(each, tmp_path)
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "plugin_template"))
    return tmp_path


@pytest.mark.parametrize("text", blocks("toml"))
def test_a_fleet_toml_is_taken_with_all_its_keys(text, beside):
    file = beside / "fleet.toml"
    file.write_text(text, encoding="utf-8")

    config = load(file, environment={})

    host = PluginHost([beside / name for name in config.fleet.plugins])
    jumps = {one.name: one for one in importlib.import_module("fleetcore_jumps.plugin").fleetcore_detectors()}
    for kind in ("protocols", "services", "detectors", "notifiers", "clouds", "admission"):
        offers = host.offers(kind) | (jumps if kind == "detectors" else {})
        for one in getattr(config, kind):
            keys = {key: value for key, value in one.table.items() if key not in CORE_KEYS.get(kind, ())}
            offered = offers[one.kind] if one.kind in offers else host.find(kind, one.kind)
            config.structure(offered.config_class, keys, kind, one.name)


#: Pages that mkdocs does not build; it checks the links of the others.
BESIDE_THE_DOCS = [
    *ROOT.glob("*.md"),
    *ROOT.glob("*/README.md"),
    *ROOT.glob("plugins/*/README.md"),
    *ROOT.glob("connectors/*/README.md"),
]


@pytest.mark.parametrize("page", BESIDE_THE_DOCS, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path) if path else page
        assert there.exists(), f"{page.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", there.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", one).lower().replace(" ", "-") for one in headings}, target


def commands():
    found = {}
    for block in blocks("sh") + blocks("console"):
        lines = block.values[0].replace("\\\n", " ").splitlines()
        prompted = [line for line in lines if line.startswith("$ ")]  # the other lines are output
        for line in prompted or lines:
            for part in re.findall(r"\bfleetcore ((?:[a-z-]+ )?[^#|()\"'`$&;]*)", line.split("#")[0]):
                words = part.split()
                if words and not words[0].startswith(("-", "/", ".", "=", "[")):
                    found.setdefault(part.strip(), block.id)
    return [pytest.param(text, id=text) for text in sorted(found)]


#: A file or folder that a page names in code: below one of these, or below ``fleetcore`` where it says no more.
_NAMED = re.compile(r"`((?:[a-z_-]+/)+(?:[a-z_0-9.-]+)?)`")
_TOPS = {folder.name for folder in ROOT.iterdir() if folder.is_dir()}
_PACKAGES = {folder.name for folder in (ROOT / "fleetcore").iterdir() if folder.is_dir()} - {"testing"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_file_of_the_project_that_a_page_names_exists(page):
    for name in _NAMED.findall(page.read_text(encoding="utf-8")):
        top = name.partition("/")[0]
        if top in _TOPS:
            assert (ROOT / name).exists(), f"{page.name} names {name}"
        elif top in _PACKAGES and name.endswith((".py", "/")):
            assert (ROOT / "fleetcore" / name).exists(), f"{page.name} names {name}"


def inline_commands():
    """The commands within the sentences and tables of how-to pages, with the options that they name."""
    found = {}
    for page in sorted((ROOT / "docs" / "how-to").glob("*.md")):
        for text in re.findall(r"`fleetcore ([a-z][^`]*)`", _BLOCK.sub("", page.read_text(encoding="utf-8"))):
            words = text.replace("…", "").split()
            group = root.get_command(click.Context(root), words[0])
            # A noun by itself is a group; `weather`, and what add-a-call.md adds, are made by the reader of the page.
            made = words[0] == "weather" or page.name == "add-a-call.md"
            if not made and not (isinstance(group, click.Group) and words[1:] in ([], ["--help"])):
                found.setdefault(" ".join(words), page.name)
    return [pytest.param(text, id=f"{page}-{text}") for text, page in found.items()]


@pytest.mark.parametrize("text", [*commands(), *inline_commands()])
def test_a_command_and_its_options_exist(text):
    words = shlex.split(text)
    command, context = root, click.Context(root, info_name="fleetcore")
    while isinstance(command, click.Group):
        assert words, f"fleetcore {text}: which of {command.list_commands(context)}?"
        if words[0] not in command.list_commands(context) and hasattr(command, "default"):
            words = [command.default, *words]
        found = command.get_command(context, words[0])
        assert found is not None, f"there is no `{words[0]}` in `fleetcore {text}`"
        command, words = found, words[1:]
        context = click.Context(command, parent=context)
    known = {name for one in command.params for name in (*one.opts, *one.secondary_opts)} | {"--help", "-h"}
    for word in words:
        if word.startswith("-"):
            assert word.partition("=")[0] in known, f"`fleetcore {text}` has no {word}"
