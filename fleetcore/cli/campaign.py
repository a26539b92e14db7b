"""``fleetcore campaign``: firmware campaigns, and following one to its end."""

import asyncio
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from fleetcore.cli import envelopes, watching
from fleetcore.cli.connect import Target, fleet_option
from fleetcore.cli.derived import command, items, value
from fleetcore.cli.encoding import takes_all
from fleetcore.cli.exits import PARTLY, printable
from fleetcore.cli.output import output_option, show
from fleetcore.cli.plotting import Bucket, plot
from fleetcore.cli.watching import Watched
from fleetcore.frontends.catalogue import core
from fleetcore.model.firmware import EXECUTION_ENDS, EXECUTION_FAILURES, CampaignState, ExecutionState

#: Failed devices that are listed at the end.
_MAX_FAILED = 20


@click.group()
def campaign() -> None:
    """Send firmware to devices, and follow them."""


@campaign.group()
def freeze() -> None:
    """Times in which no device begins to install."""


_MANIFEST = click.Option(
    ["--manifest"],
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    callback=envelopes.text,
    help="The file with the signed manifest, which names digest and size.",
)
campaign.add_command(command(core()["create_campaign"], core()["create_campaign"].command, {}, options=[_MANIFEST]))


#: Lines of the picture of a plan.
_HEIGHT = 12


def _planned(at: Target, given: Mapping[str, Any], output: str) -> Any:
    """The plan; for people without the points, which are drawn below it."""
    call = core()["plan_campaign"]
    plan = value(at, call, given)
    if output != "table":
        return plan
    points = plan["points"]
    show({name: held for name, held in plan.items() if name != "points"}, output, members=call.members)
    if len(points) > 1:
        end = max(1, round(points[-1]["at_s"] * 1000))
        drawn = [Bucket(round(each["at_s"] * 1000), each["succeeded"], each["succeeded"]) for each in points]
        click.echo("devices that have succeeded")
        for line in plot(drawn, 0, end + 1, width=shutil.get_terminal_size().columns, height=_HEIGHT, dots=takes_all()):
            click.echo(line)
    return None


campaign.add_command(command(core()["plan_campaign"], core()["plan_campaign"].command, {}, ask=_planned))


def _evidence(at: Target, given: Mapping[str, Any], output: str) -> Any:
    """The evidence of a health gate; for people its parts as tables, and the course of the e-value below them."""
    call = core()["get_campaign_evidence"]
    found = value(at, call, given)
    if output != "table":
        return found
    parts = ("waves", "rules", "worst")
    show({name: held for name, held in found.items() if name not in (*parts, "points")}, output, members=call.members)
    for name in parts:
        if found[name]:
            click.echo(f"\n{name}")
            show(found[name], output)
    points = found["points"]
    if len(points) > 1:
        drawn = [Bucket(each["judged"], each["e_value"], each["e_value"]) for each in points]
        click.echo(f"\ne-value by judged devices; at {found['limit']:g} the campaign stops")
        for line in plot(
            drawn, 0, points[-1]["judged"] + 1, width=shutil.get_terminal_size().columns, height=_HEIGHT,
            dots=takes_all(), limits=(0.0, found["limit"]), counted=True,
        ):  # fmt: skip
            click.echo(line)
    return None


campaign.add_command(
    command(core()["get_campaign_evidence"], core()["get_campaign_evidence"].command, {}, ask=_evidence)
)

_FILE = click.Path(path_type=Path, dir_okay=False, writable=True)


@campaign.command()
@click.argument("campaign", help="The campaign's name.")
@click.option("--html", type=_FILE, help="Write a page with a picture into this file.")
@click.option("--csv", "devices", type=_FILE, help="Write a row for each device into this file.")
@fleet_option
@output_option
def report(campaign: str, html: Path | None, devices: Path | None, at: Target, output: str) -> None:
    """Show what became of CAMPAIGN: waves, failures by cause, slowest devices, and who did what."""
    from fleetcore.cli import campaign_report

    found = value(at, core()["report_campaign"], {"campaign": campaign})
    if html is not None:
        campaign_report.write_page(html, found)
    if devices is not None:
        campaign_report.write_devices(devices, items(at, core()["list_executions"], {"campaign": campaign}))
    if output != "table":
        show(found, output, members=core()["report_campaign"].members)
        return
    head = found["campaign"]
    click.echo(printable(f"{head['id']}: {_line(head)}; {found['per_minute']:g} a minute"))
    for name in ("waves", "failures", "slowest", "actions"):
        if found[name]:
            click.echo(f"\n{name}")
            show(found[name], output)


@campaign.command()
@click.argument("campaign", help="The campaign's name.")
@fleet_option
@output_option
def watch(campaign: str, at: Target, output: str) -> int:
    """Follow CAMPAIGN until it has ended and no device is under way; exit 7 if some devices failed or it was aborted.

    It prints a line for each change, or a bar on a terminal, and at the end the devices that failed. It can be
    interrupted and started again at any time, and waits while the server is away.
    """
    last = asyncio.run(watching.watch(at, _WATCHED, {"campaign": campaign}, output, campaign))
    if output != "jsonl":  # the last line of the command shows it
        show(last, output, members=core()["get_campaign"].members)
    if not _count(last, EXECUTION_FAILURES):
        return PARTLY if last["state"] in (CampaignState.ABORTED, CampaignState.ROLLED_BACK) else 0
    if output == "table":
        for item in _failed(at, campaign):
            reason = f": {item['reason']}" if item["reason"] else ""
            click.echo(printable(f"{item['device']} {item['state']} [{item['code'] or ''}]{reason}"), err=True)
    return PARTLY


def _has_ended(current: Mapping[str, Any]) -> bool:
    """Whether it has ended, and no device is under way."""
    return current["finished_at"] is not None and _count(current, EXECUTION_ENDS) == sum(current["counts"].values())


def _line(current: Mapping[str, Any]) -> str:
    counts = ", ".join(f"{name} {number}" for name, number in sorted(current["counts"].items()) if number)
    wave = f", wave {current['wave']}" if current["wave"] else ""
    paused = f" ({current['reason']})" if current["state"] == CampaignState.PAUSED and current["reason"] else ""
    left = _left(current)
    return f"{current['state']}{wave}{paused}: {counts or 'no devices yet'}" + (f"; {left}" if left else "")


def _left(current: Mapping[str, Any]) -> str:
    """When the wave ends, in the unit in which that is a small number: ``about 4 min left``; empty if unknown."""
    seconds = current.get("wave_left_s")  # an older server does not say it
    if not seconds:
        return ""
    units = (("days", 86_400), ("h", 3600), ("min", 60), ("s", 1))
    unit, length = next(each for each in units if seconds >= 2 * each[1] or each[1] == 1)
    return f"about {round(seconds / length)} {unit} left"


_WATCHED = Watched(
    call="get_campaign",
    seen=lambda current: (current["state"], current["code"], current["reason"], current["wave"], current["counts"]),
    ended=_has_ended,
    bar=lambda current: (_count(current, EXECUTION_ENDS), current["total"], current["counts"]),
    line=_line,
    remark=_left,
)


def _failed(at: Target, campaign: str) -> list[dict[str, Any]]:
    """The first devices that failed."""
    found = items(at, core()["list_executions"], {"campaign": campaign})
    return [item for item in found if item["state"] in EXECUTION_FAILURES][:_MAX_FAILED]


def _count(current: Mapping[str, Any], states: frozenset[ExecutionState]) -> int:
    """The number of devices in some states."""
    return sum(number for state, number in current["counts"].items() if state in states)
