"""How results are shown: a table for people, json, jsonl and csv for programs."""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

from fleetcore.cli.exits import printable

F = TypeVar("F", bound=Callable[..., Any])

#: Columns of a table that no terminal limits; rich makes it no wider than it has to be.
_WHOLE_LINES = 100_000


def output_option(command: F) -> F:
    """Adds ``-o``."""
    return click.option(
        "-o", "--output", type=click.Choice(["table", "json", "jsonl", "csv"]), default="table", show_default=True
    )(command)


def show(result: Any, output: str, columns: Sequence[str] = ()) -> None:
    """Prints one mapping or a list of mappings; ``columns`` chooses and orders a table's."""
    if result is None and output != "json":  # a call without an answer
        if output == "table":
            click.echo("done")
        return
    rows: list[Mapping[str, Any]] = result if isinstance(result, list) else [result]
    match output:
        case "json":
            click.echo(json.dumps(result, indent=2, ensure_ascii=False))
        case "jsonl":
            for row in rows:
                click.echo(json.dumps(row, ensure_ascii=False))
        case "csv":
            click.echo(_csv(rows), nl=False)
        case _:
            if isinstance(result, list):
                _table(rows, columns)
            else:
                _sheet(result)


def show_line(item: Mapping[str, Any], output: str, columns: Sequence[str] = ()) -> None:
    """Prints one item of a stream on one line: JSON for ``json`` and ``jsonl``, else its columns."""
    if output in ("json", "jsonl"):
        click.echo(json.dumps(item, ensure_ascii=False))
        return
    names = list(columns) or list(item)
    if output == "csv":
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow([_harmless(item.get(name)) for name in names])
        click.echo(line.getvalue(), nl=False)
    else:
        click.echo("  ".join(cell for cell in (_cell(item.get(name)) for name in names) if cell))


def _cell(value: object) -> str:
    if value is None:
        return ""
    return printable(json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list | tuple) else str(value))


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow([_harmless(row.get(name)) for name in names])
    return text.getvalue()


def _harmless(value: object) -> str:
    # A spreadsheet runs a cell that starts so as a formula; a quote makes it text (OWASP, CSV injection).
    text = _cell(value)
    return f"'{text}" if isinstance(value, str) and text[:1] in "=+-@\t\r" and text else text


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    names = list(columns) or list(dict.fromkeys(name for row in rows for name in row))
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in names:
        table.add_column(name)
    for row in rows:
        table.add_row(*(Text(_cell(row.get(name))) for name in names))
    console = Console()
    if not console.is_terminal:  # whoever reads a file or a pipe wants whole values
        console.width = _WHOLE_LINES
    console.print(table if rows else "nothing")


def _sheet(result: Mapping[str, Any]) -> None:
    width = max((len(name) for name in result), default=0)
    for name, value in result.items():
        click.echo(f"{name:<{width}}  {_cell(value)}")
