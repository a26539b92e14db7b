"""Output formats: a table for people, json, jsonl and csv for programs."""

import csv
import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

from fleetcore.cli.encoding import escaped, takes_all
from fleetcore.cli.exits import printable

F = TypeVar("F", bound=Callable[..., Any])


def output_option(command: F) -> F:
    """Adds ``-o``."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(["table", "json", "jsonl", "csv"]),
        default="table",
        show_default=True,
        help="A table for people, the others for programs.",
    )(command)


def show(result: Any, output: str, columns: Sequence[str] = (), members: Mapping[str, str] = {}) -> None:
    """Prints one mapping or a list of mappings.

    ``columns`` selects and orders the columns of a table; ``members`` gives the kind of each, as in the catalogue.
    """
    if result is None and output != "json":  # a call without an answer
        if output == "table":
            click.echo("done")
        return
    rows: list[Mapping[str, Any]] = result if isinstance(result, list) else [result]
    match output:
        case "json":
            click.echo(json.dumps(result, indent=2, ensure_ascii=not takes_all()))
        case "jsonl":
            for row in rows:
                click.echo(json.dumps(row, ensure_ascii=not takes_all()))
        case "csv":
            click.echo(escaped(_csv(rows)), nl=False)
        case _:
            _people(result, columns, members)


def show_line(item: Mapping[str, Any], output: str, columns: Sequence[str] = ()) -> None:
    """Prints one item of a stream on one line: JSON for ``json`` and ``jsonl``, else its columns."""
    if output in ("json", "jsonl"):
        click.echo(json.dumps(item, ensure_ascii=not takes_all()))
        return
    names = list(columns) or list(item)
    if output == "csv":
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow([_harmless(item.get(name)) for name in names])
        click.echo(escaped(line.getvalue()), nl=False)
    else:
        from rich.console import Console

        from fleetcore.cli import tables

        console, text = Console(highlight=False), tables.line(item, names)
        if console.is_terminal:
            console.print(text, soft_wrap=True)
        else:
            click.echo(text.plain)


def _cell(value: object) -> str:
    if value is None:
        return ""
    return printable(json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list | tuple) else str(value))


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([_harmless(name) for name in names])
    for row in rows:
        writer.writerow([_harmless(row.get(name)) for name in names])
    return text.getvalue()


def _harmless(value: object) -> str:
    # A spreadsheet runs a cell that starts with these as a formula; a quote makes it text (OWASP, CSV injection).
    text = _cell(value)
    return f"'{text}" if isinstance(value, str) and text[:1] in "=+-@\t\r" and text else text


def _people(result: Any, columns: Sequence[str], members: Mapping[str, str]) -> None:
    """On a terminal in its width, with colours and relative times; in a file or a pipe complete, as stored."""
    from rich.console import Console

    from fleetcore.cli import tables

    console = Console(highlight=False)
    now_ms = round(time.time() * 1000)
    if not isinstance(result, list):
        for text in tables.sheet(result, members, now_ms=now_ms if console.is_terminal else None):
            click.echo(text)
        return
    if not result:
        click.echo("nothing")
        return
    width = console.width if console.is_terminal else None
    for line in tables.table(result, columns, members, now_ms=now_ms, width=width):
        if console.is_terminal:
            console.print(line, no_wrap=True, overflow="ignore", crop=False)
        else:
            click.echo(line.plain)
