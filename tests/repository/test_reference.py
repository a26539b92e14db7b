"""Reference pages say what the code says."""

import importlib
import importlib.util
import inspect
import re
from pathlib import Path

import pytest

from fleetcore import hookspecs, interfaces

ROOT = Path(__file__).parents[2]


@pytest.fixture
def reference(monkeypatch):
    """``scripts/reference.py`` as a module, with its neighbours."""
    monkeypatch.syspath_prepend(ROOT / "scripts")
    spec = importlib.util.spec_from_file_location("reference", ROOT / "scripts" / "reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_generated_pages_are_what_the_code_gives_today(reference):
    assert reference.stale(reference.pages()) == [], "run `make generate` and commit what it writes"


def test_a_page_that_is_stale_or_left_over_is_found(reference):
    made = reference.pages()
    left_over = {name: text for name, text in made.items() if name != "cli/device.md"}

    assert reference.stale({**made, "errors.md": "# Other"}) == ["errors.md"]
    assert reference.stale(left_over) == ["cli/device.md"]


def test_every_noun_of_the_command_line_has_an_example(reference):
    nouns = {name.removeprefix("cli/").removesuffix(".md") for name in reference.pages() if name.startswith("cli/")}
    files = {file.stem: file.read_text(encoding="utf-8") for file in reference.cli_reference.EXAMPLES.iterdir()}

    assert files.keys() == nouns, "scripts/cli_examples has a file for each noun: `$ fleetcore NOUN …` and its output"
    assert [noun for noun, text in files.items() if not text.startswith(f"$ fleetcore {noun} ")] == []


PAGES = sorted((ROOT / "docs" / "reference").rglob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_reference_page_opens_with_an_example(page):
    top, _, _ = page.read_text(encoding="utf-8").partition("\n## ")

    assert "\n```" in top, "say what the reader can do, and show it with its output"


HOOKS = [name for name, one in vars(hookspecs).items() if name.startswith("fleetcore_") and callable(one)]


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_is_documented_where_it_stands(hook):
    text = inspect.getdoc(getattr(hookspecs, hook)) or ""

    assert len(text.splitlines()[0]) > 20


@pytest.mark.parametrize("hook", HOOKS)
def test_what_the_docstring_of_a_hook_names_can_be_imported(hook):
    for path in re.findall(r"``(fleetcore\.[a-z_.]+\.?[A-Za-z_]+)``", inspect.getdoc(getattr(hookspecs, hook)) or ""):
        module, _, name = path.rpartition(".")
        assert hasattr(importlib.import_module(module), name), path


def test_the_hooks_page_shows_the_module_of_the_hooks():
    assert "::: fleetcore.hookspecs" in (ROOT / "docs" / "reference" / "hooks.md").read_text(encoding="utf-8")


ABSTRACT = [
    (name, member)
    for name in interfaces.__all__
    if inspect.isclass(one := getattr(interfaces, name)) and inspect.isabstract(one)
    for member in sorted(one.__abstractmethods__)
]


@pytest.mark.parametrize(("interface", "member"), ABSTRACT)
def test_what_a_plugin_must_do_is_documented(interface, member):
    assert inspect.getdoc(getattr(getattr(interfaces, interface), member)), f"{interface}.{member} has no docstring"


@pytest.mark.parametrize("interface", sorted({name for name, _ in ABSTRACT}))
def test_an_interface_is_on_its_page(interface):
    home = inspect.getmodule(getattr(interfaces, interface)).__name__
    page = (ROOT / "docs" / "reference" / "interfaces.md").read_text(encoding="utf-8")

    assert f"::: {home}" in page or f"::: fleetcore.interfaces.{interface}" in page
