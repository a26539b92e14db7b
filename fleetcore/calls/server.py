"""The server: what runs, what is configured, and its data."""

import asyncio
import contextlib
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from fleetcore.calls.caller import Caller, CallerLeft
from fleetcore.calls.responses.server import (
    BackupResponse,
    FindingResponse,
    InstanceResponse,
    ListenersCheckResponse,
    PluginResponse,
    StatusResponse,
    StorageCheckResponse,
    StorageVerifyResponse,
)
from fleetcore.calls.table import call
from fleetcore.calls.types import Page, to_response
from fleetcore.model.operator import Permission
from fleetcore.runtime.listener_trial import try_listeners
from fleetcore.runtime.recount import recount
from fleetcore.runtime.status import status

VerifyPlace = Annotated[str, Meta(min_length=1, max_length=4096, description="``next`` of the answer before.")]
BackupFolder = Annotated[str, Meta(min_length=1, max_length=4096, description="A new or empty folder.")]


@call("GET /status", Permission.SERVER_READ, cli="health server")
async def get_status(caller: Caller) -> StatusResponse:
    """Shows what runs: protocols, queue, counts of readings, consumers and their positions, failed tasks, plugins."""
    return StatusResponse(**await status(caller.fleet))


@call("GET /detectors", Permission.SERVER_READ, cli="plugin detectors")
async def list_detectors(caller: Caller) -> Page[InstanceResponse]:
    """Lists the detectors configured in fleet.toml."""
    return Page([to_response(InstanceResponse, detector) for detector in caller.fleet.config.detectors])


@call("GET /notifiers", Permission.SERVER_READ, cli="plugin notifiers")
async def list_notifiers(caller: Caller) -> Page[InstanceResponse]:
    """Lists the notifiers configured in fleet.toml."""
    return Page([to_response(InstanceResponse, notifier) for notifier in caller.fleet.config.notifiers])


@call("GET /plugins", Permission.SERVER_READ, no_cli="`fleetcore plugin list` also lists those of a folder at rest")
async def list_plugins(caller: Caller) -> Page[PluginResponse]:
    """Lists the plugins that the server has loaded, or tried to. Plugins are installed from a shell, not by calls."""
    host = caller.fleet.host
    await asyncio.to_thread(host.survey)  # a plugin's hook may take its time
    return Page([to_response(PluginResponse, plugin) for plugin in host.plugins.values()])


@call(None, Permission.CA_WRITE, cli="backup make TARGET")
async def back_up(caller: Caller, target: BackupFolder) -> BackupResponse:
    """Copies the data folder into a new or empty folder on the server's machine, consistent as of one moment.

    The copy holds the CA's keys: guard it. ``problems`` lists damage in the copied data.

    Raises:
        Conflict: the folder is not empty, or lies in the data folder.
        Refused: the fleet is in memory.
    """
    from fleetcore.runtime.backup import backup

    return BackupResponse(backup=target, problems=await backup(caller.fleet, Path(target)))


@call(None, Permission.SERVER_READ, no_cli="`fleetcore doctor` shows what it finds")
async def check_storage(caller: Caller) -> StorageCheckResponse:
    """Checks the stored data for consistency and lists problems; ``verify_storage`` reads everything.

    Counters that differ from what they count are corrected; ``recounted`` lists them.
    """
    fleet = caller.fleet
    fleet.problems = tuple(await fleet.storage.check())
    fleet.recounted = tuple(await recount(fleet.storage, fleet.counted))
    return StorageCheckResponse(problems=list(fleet.problems), recounted=list(fleet.recounted))


@call(None, Permission.SERVER_READ, no_cli="`fleetcore doctor` shows what it finds")
async def check_listeners(caller: Caller) -> ListenersCheckResponse:
    """Tries every device listener as an unknown device, and returns the results.

    Each attempt is counted, and recorded in the audit log, as a refused certificate.
    """
    found = await try_listeners(caller.fleet)
    return ListenersCheckResponse(findings=[to_response(FindingResponse, finding) for finding in found])


@call(None, Permission.SERVER_READ, no_cli="`fleetcore doctor --deep` shows what it finds")
async def verify_storage(caller: Caller, after: VerifyPlace | None = None) -> StorageVerifyResponse:
    """Reads a part of all stored data, about a second's worth, and compares it with its checksums.

    Call it again with the answer's ``next`` as ``after``, until that is null.

    Raises:
        Refused: ``after`` does not name a part.
    """
    verified = await caller.fleet.storage.verify(after)
    return StorageVerifyResponse(
        problems=list(verified.problems), done=verified.done, total=verified.total, next=verified.after
    )


@call(None, Permission.SERVER_READ, no_cli="commands see what was accepted before them")
async def wait_idle(caller: Caller) -> None:
    """Returns when every detector and notifier has processed all accepted data; for a remote client, its own writes."""
    with contextlib.suppress(CallerLeft), caller.waiting() as wait:
        await wait(caller.fleet.wait_idle())
