"""The server: what runs in it, and what is configured."""

from fleetcore.calls.caller import Caller
from fleetcore.calls.responses.server import InstanceResponse, PluginResponse, StatusResponse
from fleetcore.calls.table import call
from fleetcore.calls.types import Page, to_response
from fleetcore.model.operator import Permission
from fleetcore.runtime.status import status


@call("GET /status", Permission.SERVER_READ, cli="health server")
async def get_status(caller: Caller) -> StatusResponse:
    """Shows what runs: protocols, queue, where readings went, consumers and where they are, failed tasks, plugins."""
    return StatusResponse(**await status(caller.fleet))


@call("GET /detectors", Permission.SERVER_READ, cli="plugin detectors")
async def list_detectors(caller: Caller) -> Page[InstanceResponse]:
    """Lists the configured detectors; fleet.toml says which there are."""
    return Page([to_response(InstanceResponse, one) for one in caller.fleet.config.detectors])


@call("GET /notifiers", Permission.SERVER_READ, cli="plugin notifiers")
async def list_notifiers(caller: Caller) -> Page[InstanceResponse]:
    """Lists the configured notifiers; fleet.toml says which there are."""
    return Page([to_response(InstanceResponse, one) for one in caller.fleet.config.notifiers])


@call("GET /plugins", Permission.SERVER_READ, no_cli="`fleetcore plugin list` shows those of its own installation")
async def list_plugins(caller: Caller) -> Page[PluginResponse]:
    """Lists the installed plugins; they are installed in a shell, never from here."""
    return Page([to_response(PluginResponse, one) for one in caller.fleet.host.plugins.values()])
