"""Commands: to one device, to many by a plan; followed, cancelled."""

from collections.abc import Coroutine
from typing import Annotated, Any

from litestar import Response, get, post
from litestar.openapi import ResponseSpec
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter
from msgspec import structs

from fleetcore.calls.cursors import decode
from fleetcore.errors import Refused
from fleetcore.fleet.commands import selection
from fleetcore.model.command import Command
from fleetcore.model.operator import Permission
from fleetcore.query.parse import parse
from fleetcore_api.access import Access, ApiRequest
from fleetcore_api.answers import KEPT_MS
from fleetcore_api.models import shown
from fleetcore_api.models_state import BulkIn, CommandIn, CommandOut, OperationOut, PlanOut, ReasonIn
from fleetcore_api.pages import Cursor, Limit, Page, answered
from fleetcore_api.parameters import Caller
from fleetcore_api.routes.operations import show_operation

_BULK = ("where", "devices", "plan", "cap", "rate_per_s")


def _show(command: Command) -> CommandOut:
    return shown(CommandOut, command)


@get("/commands", permission=Permission.DEVICES_READ)
async def list_commands(
    access: Caller, unfinished: FromQuery[bool] = False, limit: Limit = 100, cursor: Cursor = None
) -> Page[CommandOut]:
    """Commands in the order in which they were issued."""
    return await access.page(
        access.fleet.commands.records,
        lambda command: command.device,
        _show,
        cursor,
        limit,
        ref=selection(None, unfinished=unfinished),
    )


@get("/devices/{device_id:str}/commands", permission=Permission.DEVICES_READ)
async def list_of_device(
    access: Caller,
    device_id: FromPath[str],
    unfinished: FromQuery[bool] = False,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Page[CommandOut]:
    """One device's commands by sequence."""
    await access.device(device_id)
    ref = selection(device_id, unfinished=unfinished)
    return answered(await access.fleet.commands.records.page(ref=ref, after=decode(cursor), limit=limit), _show)


@post("/devices/{device_id:str}/commands", permission=Permission.COMMANDS_SEND)
async def send_command(
    access: Caller,
    request: ApiRequest,
    device_id: FromPath[str],
    data: JSONBody[CommandIn],
    wait: Annotated[float, QueryParameter(ge=0, le=60, description="Seconds to wait for its end.")] = 0,
) -> Response[CommandOut]:
    """Queues a command; with ``wait`` the answer comes with its end, or after the time as it then stands.

    Waiting ends as soon as the caller may not send it any more.
    """
    await access.device(device_id, Permission.COMMANDS_SEND)
    key = request.headers.get("idempotency-key")
    command = await access.fleet.commands.send(
        device_id,
        # The command carries the key itself: after a crash before the answer was kept it is still the same one.
        idempotency_key=None if key is None else await _own_key(access, key, device_id),
        actor=access.actor,
        **{name: getattr(data, name) for name in data.__struct_fields__},
    )
    wait_s = min(wait, access.site.config.command_wait_s)
    with access.fleet.operators.watch(access.token) as watch:

        async def pause(news: Coroutine[Any, Any, bool]) -> None:
            await watch.first(news)
            await access.still(Permission.COMMANDS_SEND, device_id)

        command = await access.fleet.commands.wait(command, wait_s, pause=pause)
    return Response(_show(command), status_code=201, headers={"Location": f"/api/v1/commands/{command.id}"})


async def _own_key(access: Access, key: str, device: str | None = None) -> str:
    """The command's key of a caller's, which is free again after a day: that of the day on which it was used first.

    Of a device's command, or of a bulk's operation.
    """
    now = access.fleet.clock.now_ms()
    yesterday, today = (f"api/{access.rights.principal}/{day}/{key}" for day in (now // KEPT_MS - 1, now // KEPT_MS))
    if device is not None:
        command = await access.fleet.commands.keyed(device, yesterday)
        first = None if command is None else command.issued_at
    else:
        operation = await access.fleet.operations.keyed(yesterday)
        first = None if operation is None else operation.created
    return yesterday if first is not None and now - first < KEPT_MS else today


@post(
    "/commands",
    permission=Permission.COMMANDS_SEND,
    status_code=202,
    responses={200: ResponseSpec(PlanOut, description="What it would do (dry_run).", generate_examples=False)},
)
async def send_bulk(
    access: Caller, request: ApiRequest, data: JSONBody[BulkIn], dry_run: FromQuery[bool] = False
) -> Response[PlanOut] | Response[OperationOut]:
    """A command to many devices: first ``dry_run=true`` for a plan, then the same body with the plan.

    It reaches only devices on which the caller may send commands.
    """
    options: dict[str, Any] = {
        name: value for name, value in structs.asdict(data).items() if name not in (*_BULK, "name", "args", "reason")
    }
    where = data.where and access.rights.selectable(Permission.COMMANDS_SEND).narrowed(parse(data.where))
    for device in data.devices:
        await access.device(device, Permission.COMMANDS_SEND)
    bulk = access.fleet.bulk_commands
    if dry_run:
        plan = await bulk.plan(data.name, data.args, where=where, devices=data.devices, cap=data.cap, **options)
        return Response(shown(PlanOut, plan), status_code=200)
    if data.plan is None:
        raise Refused(
            "A bulk command needs its plan",
            code="precondition_required",
            remedy="Ask with ?dry_run=true first, look at it, and send the same body with its plan",
        )
    key = request.headers.get("idempotency-key")
    operation = await bulk.send(
        data.name,
        data.args,
        where=where,
        devices=data.devices,
        plan=data.plan,
        cap=data.cap,
        rate_per_s=data.rate_per_s,
        # As for one command: the operation itself carries the key.
        key=None if key is None else await _own_key(access, key),
        actor=access.actor,
        reason=data.reason,
        **options,
    )
    body = await show_operation(access, operation)
    return Response(body, status_code=202, headers={"Location": f"/api/v1/operations/{operation.id}"})


async def _found(access: Access, command: str, permission: Permission) -> Command:
    found = await access.fleet.commands.get(command)
    await access.item(found.device, "command", command, permission, "command_unknown")
    return found


@get("/commands/{command:str}", permission=Permission.DEVICES_READ)
async def get_command(access: Caller, command: FromPath[str]) -> CommandOut:
    """One command."""
    return _show(await _found(access, command, Permission.DEVICES_READ))


@post("/commands/{command:str}/cancel", permission=Permission.COMMANDS_SEND, status_code=200)
async def cancel_command(access: Caller, command: FromPath[str], data: JSONBody[ReasonIn]) -> CommandOut:
    """Cancels a command: at once where it was not sent, else by asking the device. Again does nothing more."""
    await _found(access, command, Permission.COMMANDS_SEND)
    return _show(await access.fleet.commands.cancel(command, actor=access.actor, reason=data.reason))


HANDLERS = [list_commands, list_of_device, send_command, send_bulk, get_command, cancel_command]
