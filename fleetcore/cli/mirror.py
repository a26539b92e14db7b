"""``fleetcore mirror``: the fleet at cloud hubs."""

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any

import click

from fleetcore.cli.connect import Target, connect
from fleetcore.cli.derived import command
from fleetcore.cli.exits import PARTLY, printable
from fleetcore.cli.operation import conclude, follow
from fleetcore.cli.output import show
from fleetcore.cli.progress import progress
from fleetcore.cli.root import NOUNS
from fleetcore.errors import NotFound
from fleetcore.frontends.catalogue import core
from fleetcore.model.parts import parts


@click.group(help=NOUNS["mirror"])
def mirror() -> None:
    """The noun."""


def _drift(at: Target, given: Mapping[str, Any], output: str) -> Any:
    """All parts, as a list; on a terminal with the number of compared entities."""

    async def run() -> tuple[list[dict[str, Any]], int, str]:
        found, compared, against, held = [], 0, "hub", 0
        async with connect(at) as caller:
            with contextlib.suppress(NotFound):  # the next call refuses it, and says all that is wrong
                held = (await caller.run("get_mirror", {"name": given["name"]}))["held"]

            async def ask(after: str | None) -> dict[str, Any]:
                more = {} if after is None else {"after": after}
                part: dict[str, Any] = await caller.run("list_mirror_drift", {**given, **more})
                return part

            with progress("Comparing", held) as step:
                async for part in parts(ask, lambda part: part["next"]):
                    found += part["differences"]
                    against = part["against"]
                    compared += part["compared"]
                    step(part["compared"])
        return found, compared, against

    found, compared, against = asyncio.run(run())
    if output != "table":
        return found
    if found:
        show(found, output, ("entity", "state"))
    with_what = " with what was sent, because this hub cannot be read" if against == "sent" else ""
    differ = "differs" if len(found) < 2 else "differ"
    click.echo(f"{compared:,} entities compared{with_what}, {len(found) or 'none'} {differ}")
    return None


def _importable(at: Target, given: Mapping[str, Any], output: str) -> Any:
    """All parts, as a list; on a terminal with how many would be created and skipped."""

    async def run() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        async with connect(at) as caller:

            async def ask(after: str | None) -> dict[str, Any]:
                more = {} if after is None else {"after": after}
                part: dict[str, Any] = await caller.run("list_mirror_import", {**given, **more})
                return part

            with progress("Reading the hub", None) as step:
                async for part in parts(ask, lambda part: part["next"]):
                    found += part["found"]
                    step(len(part["found"]))
        return found

    found = asyncio.run(run())
    if output != "table":
        return found
    if found:
        show(found, output, ("name", "entity", "action", "reason"))
    skipped = sum(each["action"] == "skip" for each in found)
    click.echo(f"{len(found) - skipped:,} would be imported, {skipped:,} skipped")
    return None


def _import(at: Target, given: Mapping[str, Any], output: str, *, wait: bool) -> Any:
    async def run() -> dict[str, Any]:
        async with connect(at) as caller:
            started: dict[str, Any] = await caller.run("import_mirror", dict(given))
            if not wait:
                return started
            with progress("Importing", None) as step:
                return await follow(caller, started, step)

    ended = asyncio.run(run())
    if not wait:
        return ended
    raise SystemExit(conclude(ended, output))


def _apply(at: Target, given: Mapping[str, Any], output: str, *, wait: bool) -> Any:
    async def run() -> dict[str, Any]:
        async with connect(at) as caller:
            started: dict[str, Any] = await caller.run("apply_mirror", dict(given))
            if not wait:
                return started
            held = (await caller.run("get_mirror", {"name": given["name"]}))["held"]
            with progress("Comparing", held) as step:
                return await follow(caller, started, step)

    ended = asyncio.run(run())
    if not wait:
        return ended
    raise SystemExit(conclude(ended, output))


def _checked(_at: Target, _given: Mapping[str, Any], answer: dict[str, Any], output: str) -> Any:
    if output != "table":
        return answer["findings"]
    for finding in answer["findings"]:
        remedy = f"  ({finding['remedy']})" if finding["remedy"] else ""
        click.echo(printable(f"{finding['state']:<8} {finding['what']}: {finding['detail']}{remedy}"))
    if not answer["findings"]:
        click.echo("This connector has nothing to try.")
    if any(finding["state"] == "problem" for finding in answer["findings"]):
        raise SystemExit(PARTLY)
    return None


def _policy(_at: Target, given: Mapping[str, Any], answer: dict[str, Any], output: str, *, form: str) -> Any:
    policy = answer["policy"]
    if output != "table":
        return policy
    if form not in policy:
        there = ", ".join(sorted(policy)) or "none"
        raise click.UsageError(f"{given['name']} has no policy as {form!r}; available: {there}")
    click.echo(policy[form].rstrip())
    return None


_WAIT = click.Option(["--wait/--no-wait"], default=True, help="Follow it to its end; the default.")
_FORM = click.Option(["--form"], default="json", show_default=True, help="json, terraform …, as the connector offers.")
for _name, _way in (
    ("list_mirror_drift", {"ask": _drift}),
    ("apply_mirror", {"ask": _apply, "options": [_WAIT]}),
    ("list_mirror_import", {"ask": _importable}),
    ("import_mirror", {"ask": _import, "options": [_WAIT]}),
    ("check_mirror", {"finish": _checked}),
    ("get_mirror_policy", {"finish": _policy, "options": [_FORM]}),
):
    _call = core()[_name]
    mirror.add_command(command(_call, _call.command, {}, **_way))
