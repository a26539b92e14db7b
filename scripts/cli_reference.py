"""Generates docs/reference/cli.md and a page per noun from the commands, as click has them.

A noun's page opens with its example, ``cli_examples/NOUN.txt``: commands, with what they print on the fleet of
``tests/examples/test_reference_pages.py``, which runs them.
"""

import inspect
from collections import Counter
from pathlib import Path

import click
from regions import filled_in

from fleetcore.cli.root import root

#: NOUN.txt: the example of a noun's page.
EXAMPLES = Path(__file__).resolve().parent / "cli_examples"


def pages(folder: Path) -> dict[str, str]:
    """The pages by their names below ``folder``."""
    context = click.Context(root, info_name="fleetcore")
    commands = {name: root.get_command(context, name) for name in root.list_commands(context)}
    found = {name: command for name, command in commands.items() if command is not None}
    common = _common(list(found.values()))
    nouns = {name: command for name, command in found.items() if isinstance(command, click.Group)}
    rows = [f"| [`{name}`](cli/{name}.md) | {_summary(command)} |" for name, command in nouns.items()]
    options = [_option(option) for option in common.values()]
    lines = [
        "| noun | is for |", "|---|---|", *rows, "", "## Options of every command that speaks to a fleet", "",
        "A command's own page names those that it takes.", "", *options, "",
    ]  # fmt: skip
    for name, command in found.items():
        if name not in nouns:
            lines += _command(f"fleetcore {name}", command, common, "cli.md")
    overview = (folder / "cli.md").read_text(encoding="utf-8")
    made = {"cli.md": filled_in(overview, "commands", "\n".join(lines))}
    for name, command in nouns.items():
        heading, before, summary, after, *rest = _command(f"fleetcore {name}", command, common, "../cli.md")
        lines = [heading.removeprefix("#"), before, summary, after, *_example(name), *rest]
        made[f"cli/{name}.md"] = "\n".join(lines)
    return made


def _example(noun: str) -> list[str]:
    """The lines of a noun's example; none if it has none, which a test reports."""
    file = EXAMPLES / f"{noun}.txt"
    return ["```console", *file.read_text(encoding="utf-8").splitlines(), "```", ""] if file.is_file() else []


def _leaves(command: click.Command) -> list[click.Command]:
    if isinstance(command, click.Group):
        return [leaf for inner in command.commands.values() for leaf in _leaves(inner)]
    return [command]


def _common(commands: list[click.Command]) -> dict[str, click.Option]:
    """The options that most commands share, by their help."""
    leaves = [leaf for command in commands for leaf in _leaves(command)]
    options = [option for leaf in leaves for option in leaf.params if isinstance(option, click.Option)]
    counts = Counter(map(_option, options))
    often = {shown for shown, count in counts.items() if count > len(leaves) / 2}
    return {shown: option for option in options if (shown := _option(option)) in often}


def _summary(command: click.Command) -> str:
    return _help(command).partition("\n")[0].rstrip(".")


def _help(command: click.Command) -> str:
    return inspect.cleandoc(command.help or "").replace("``", "`")


def _option(option: click.Option) -> str:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    default = option.default
    plain = default in (None, False, (), "") or "Sentinel" in repr(default)
    return f"- {names}: {_about(option)}" + ("" if plain else f" Default: `{default}`.")


def _about(parameter: click.Parameter) -> str:
    """What a parameter is for, and its values if they are few."""
    values = parameter.type.get_metavar(parameter, click.Context(root)) or ""
    listed = ", ".join(f"`{value}`" for value in values.strip("[]").split("|"))
    return f"{parameter.help} One of {listed}." if "|" in values else f"{parameter.help}"


def _command(path: str, command: click.Command, common: dict[str, click.Option], overview: str) -> list[str]:
    lines = [f"## {path}", "", _help(command), ""]
    context = click.Context(command)
    shared: list[str] = []
    for parameter in command.params:
        if not isinstance(parameter, click.Option):
            lines.append(f"- `{parameter.make_metavar(context)}`: {_about(parameter)}")
        elif _option(parameter) in common:
            shared.append(f"`{parameter.opts[-1]}`")
        else:
            lines.append(_option(parameter))
    if shared:
        section = f"{overview}#options-of-every-command-that-speaks-to-a-fleet"
        every = len(shared) == len(common)
        lines.append(f"- [common options]({section}){'' if every else ': ' + ' '.join(shared)}")
    if command.params:
        lines.append("")
    if isinstance(command, click.Group):
        for name in sorted(command.commands):
            lines += _command(f"{path} {name}", command.commands[name], common, overview)
    return lines
