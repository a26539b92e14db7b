"""``fleetcore edge enroll``, ``run`` and ``try``: make a machine a gateway, run its agent, try a function."""

import asyncio
import json
from contextlib import aclosing
from pathlib import Path

import click

from fleetcore import files
from fleetcore.cli import serve
from fleetcore.cli.connect import data_option
from fleetcore.cli.init import make_data_folder
from fleetcore.errors import ConfigError
from fleetcore.model.names import check_device_id
from fleetcore_edge.agent.slots import FOLDER as AGENT
from fleetcore_edge.agent.slots import Slots
from fleetcore_edge.agent.starting import become, running_site
from fleetcore_edge.uplink.config import FOLDER

_THERE = click.Path(path_type=Path, dir_okay=False, exists=True)
#: A certificate begins before it is made, by so much at most.
_BACKDATED_MS = 3_600_000
_UPLINK = """
# The gateway's connection to the core.
[services.uplink]
"""


@click.group()
def edge() -> None:
    """Gateways, and the devices behind them."""


@edge.command()
@click.argument("gateway", help="The gateway's device id at the core.")
@click.option("--url", required=True, help="The core's endpoint for devices: mqtts://HOST:8883 or wss://HOST:8445.")
@click.option("--http", help="The core's HTTP endpoint, https://HOST:8443; needed with MQTT, and for functions.")
@click.option("--token-file", type=_THERE, required=True, help="A file with an enrolment token of the core.")
@click.option("--ca", type=_THERE, required=True, help="The core's CA, pki/ca.pem of its data folder.")
@click.option("--trust", type=_THERE, help="The firmware root, trust.json: functions are verified with it.")
@click.option("--model", help="The gateway's hardware model; functions are signed for it.")
@click.option("--name", default="site", show_default=True, help="The name of the gateway's own fleet.")
@click.option("--host", "hosts", multiple=True, help="A name or address by which leaves reach the gateway; repeatable.")
@click.option("--listen", default="0.0.0.0", show_default=True, help="The address to listen on for leaves.")  # noqa: S104 - leaves come from outside; every listener demands TLS
@data_option
def enroll(
    gateway: str,
    url: str,
    http: str | None,
    token_file: Path,
    ca: Path,
    trust: Path | None,
    model: str | None,
    name: str,
    hosts: tuple[str, ...],
    listen: str,
    data: Path,
) -> None:
    """Make the data folder of the gateway GATEWAY, and get its certificate from the core.

    A folder that is a gateway's already only gets a new certificate.
    """
    from fleetcore.runtime.plugins import PluginHost
    from fleetcore_edge.clock.gateway_clock import GatewayClock
    from fleetcore_edge.clock.machine import LinuxMachine
    from fleetcore_edge.functions.wanted import TRUST
    from fleetcore_edge.uplink import preflight
    from fleetcore_edge.uplink.clients import client_for
    from fleetcore_edge.uplink.credentials import Credentials, not_before_ms
    from fleetcore_edge.uplink.enrolling import enrol

    check_device_id(gateway)
    preflight.check_folder(data, gateway)
    preflight.check_endpoints(url, http)
    host, at = PluginHost(), http or url
    client_for(host, url)  # it must be there when the agent starts
    token, cas = preflight.read_token(token_file), preflight.read_ca(ca)
    root = None if trust is None else preflight.read_trust(trust)
    clock = GatewayClock(data, LinuxMachine())
    credentials = Credentials(data / FOLDER, gateway, clock)
    asyncio.run(enrol(credentials, client_for(host, at), at, token=token, ca=cas))
    # The core has just made the certificate: the machine's clock may be wrong.
    clock.told(not_before_ms(credentials.secrets().certificate or b""), half_ms=_BACKDATED_MS)
    if not (data / "fleet.toml").exists():
        given = {"url": url, "http": http, "gateway": gateway, "model": model}
        lines = [f"{key} = {json.dumps(value)}\n" for key, value in given.items() if value is not None]
        make_data_folder(data, name, hosts, listen, more=_UPLINK + "".join(lines), clock=clock)
    if root is not None:
        files.replace(data / FOLDER / TRUST, root)
    click.echo(f"{gateway} has its certificate in {data / FOLDER}.")
    click.echo(f"Next: fleetcore edge run --data {data}")


@edge.command()
@data_option
@click.option("--verbose", is_flag=True, help="Log more.")
def run(data: Path, verbose: bool) -> None:
    """Run the agent of a gateway: serve its leaves, run its functions, and keep the core up to date."""
    from fleetcore.runtime.config import load
    from fleetcore_edge.clock.opening import holding, open_clock

    data = data.resolve()
    if running_site() is None:  # first: a newer release may have settings that this one does not know
        slots = Slots(data / AGENT)
        site = slots.begin()
        if site is not None:
            become(site, data, verbose=verbose, on_trial=slots.memory.trial is not None)
    uplink = next((each for each in load(data / "fleet.toml").services if each.kind == "uplink"), None)
    if uplink is None:
        raise ConfigError(f"{data} is not a gateway's folder", remedy="Make one: fleetcore edge enroll")
    clock = open_clock(data, uplink.table)
    serve.run(data, verbose=verbose, clock=clock, opened=holding(clock, data, uplink.table))
    if Slots(data / AGENT).memory.restart:
        become(None, data, verbose=verbose)  # the installed agent chooses what starts


@edge.command("try")
@click.argument("module", type=_THERE, help="The function's WebAssembly module.")
@click.option("--readings", type=_THERE, required=True, help="CSV: time (ISO 8601 or ms), device, metric, value, unit.")
@click.option("--config", type=_THERE, help="Its configuration, a JSON document.")
@click.option("--batch", type=click.IntRange(1), default=1000, show_default=True, help="Readings at a time.")
def try_function(module: Path, readings: Path, config: Path | None, batch: int) -> None:
    """Try a function on a file of readings, as a gateway would run it."""
    from fleetcore_edge.runner.trying import tried

    async def show() -> None:
        async with aclosing(tried(module, readings, config, batch)) as lines:
            async for line in lines:
                click.echo(line)

    asyncio.run(show())
