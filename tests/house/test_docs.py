"""Documentation is held to the code: its commands exist, its files load, its code compiles."""

import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest

from fleetcore.cli.root import root

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted(ROOT.glob("plugins/*/README.md")),
    ROOT / "examples" / "README.md",
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


@pytest.mark.parametrize("text", blocks("toml"))
def test_toml_can_be_read(text):
    tomllib.loads(text)


def commands():
    found = {}
    for block in blocks("sh") + blocks("console"):
        joined = block.values[0].replace("\\\n", " ")
        for line in joined.splitlines():
            for part in re.findall(r"\bfleetcore ((?:[a-z-]+ )?[^#|()\"'`$&;]*)", line.split("#")[0]):
                words = part.split()
                if words and not words[0].startswith(("-", "/", ".", "=", "[")):
                    found.setdefault(part.strip(), block.id)
    return [pytest.param(text, id=text) for text in sorted(found)]


@pytest.mark.parametrize("text", commands())
def test_a_command_and_its_options_exist(text):
    words = shlex.split(text)
    command, context = root, click.Context(root, info_name="fleetcore")
    while isinstance(command, click.Group):
        assert words, f"fleetcore {text}: which of {command.list_commands(context)}?"
        found = command.get_command(context, words[0])
        assert found is not None, f"there is no `{words[0]}` in `fleetcore {text}`"
        command, words = found, words[1:]
        context = click.Context(command, parent=context)
    known = {name for one in command.params for name in (*one.opts, *one.secondary_opts)} | {"--help", "-h"}
    for word in words:
        if word.startswith("-"):
            assert word.partition("=")[0] in known, f"`fleetcore {text}` has no {word}"
