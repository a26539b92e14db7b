"""Commands to one device, or to many by a plan, and their results."""

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Annotated, Any, Literal

from msgspec import Meta

from fleetcore.calls.caller import Caller, CallerLeft, answered
from fleetcore.calls.cursors import decode
from fleetcore.calls.operations import OperationId, operation_response, own_operation
from fleetcore.calls.responses.commands import CommandCountsResponse, CommandResponse, PlanResponse
from fleetcore.calls.responses.operations import OperationResponse
from fleetcore.calls.table import BY_CALL, call, on
from fleetcore.calls.types import (
    Cursor,
    DeviceId,
    IdempotencyKey,
    Json,
    Limit,
    Names,
    Page,
    Reason,
    Where,
    Word,
    to_response,
)
from fleetcore.errors import Refused
from fleetcore.fleet.commands import selection
from fleetcore.model.command import Command
from fleetcore.model.days import DAY_MS
from fleetcore.model.operator import Permission
from fleetcore.query.ast import Clause
from fleetcore.query.fitting import parse_new

_TEN_YEARS_S = 315_360_000

CommandName = Annotated[
    str, Meta(min_length=1, max_length=128, description="The command's name, as the device knows it.")
]
CommandId = Annotated[
    str, Meta(min_length=1, max_length=128, description="The command's id."), Names("list_commands", short=True)
]
Arguments = Annotated[Json, Meta(description="The arguments for the device."), Word("arg")]
Lane = Annotated[str, Meta(min_length=1, max_length=128, description="Commands of one lane run one after another.")]
Respond = Annotated[Literal["result", "ack", "none"], Meta(description="The answer that the device must give.")]
DeliverWithin = Annotated[
    float,
    Meta(gt=0, le=_TEN_YEARS_S, description="Seconds after which it is not sent any more."),
    Word("deliver-within"),
]
ExecuteWithin = Annotated[
    float,
    Meta(gt=0, le=_TEN_YEARS_S, description="Seconds after which the device must not start it."),
    Word("execute-within"),
]
ResultWithin = Annotated[
    float,
    Meta(gt=0, le=_TEN_YEARS_S, description="Seconds after which it has timed out, without an end state by then."),
    Word("result-within"),
]
Supersede = Annotated[
    str, Meta(min_length=1, max_length=128, description="The command replaces queued commands with the same key.")
]
Precondition = Annotated[
    str,
    Meta(max_length=4096, description="A query that must select a device when the command is sent to it."),
]
WaitS = Annotated[
    float,
    Meta(ge=0, le=_TEN_YEARS_S, description="Seconds to wait for its end; the API may wait less."),
    Word("wait"),
]
Unfinished = Annotated[bool, Meta(description="Only commands without an end state.")]
DeviceChoice = Annotated[Sequence[DeviceId], Meta(max_length=10_000, description="The devices, by id."), Word("device")]
Cap = Annotated[int, Meta(ge=1, le=1_000_000, description="Refuse more devices than this.")]
PlanDigest = Annotated[
    str, Meta(pattern=r"^sha256:[0-9a-f]{64}$(?!\n)", description="The `plan` from the answer of the dry run.")
]
RatePerS = Annotated[float, Meta(gt=0, le=1_000_000, description="The most devices a second."), Word("rate")]


def _command(command: Command) -> CommandResponse:
    return to_response(CommandResponse, command)


async def _key(caller: Caller, key: str | None, first: Callable[[str], Coroutine[Any, Any, int | None]]) -> str | None:
    """The stored idempotency key: per caller, and free again after a day. ``first`` is the time of its first use."""
    if key is None:
        return None
    now = caller.fleet.clock.now_ms()
    yesterday, today = (f"{caller.actor}/{day}/{key}" for day in (now // DAY_MS - 1, now // DAY_MS))
    used = await first(yesterday)
    return yesterday if used is not None and now - used < DAY_MS else today


@call(
    "GET /commands", Permission.DEVICES_READ, scope=BY_CALL, cli="command list",
    columns=("id", "device", "name", "state", "sequence", "attempt", "issued_at", "code"),
)  # fmt: skip
async def list_commands(
    caller: Caller, *, unfinished: Unfinished = False, limit: Limit = 100, cursor: Cursor | None = None
) -> Page[CommandResponse]:
    """Lists commands in the order in which they were issued."""
    return await caller.page(
        caller.fleet.commands.records,
        lambda command: command.device,
        _command,
        cursor,
        limit,
        ref=selection(None, unfinished=unfinished),
    )


@call(
    "GET /devices/{device_id}/commands", Permission.DEVICES_READ, scope=on("device_id"), cli="command of DEVICE_ID",
    columns=("id", "device", "name", "state", "sequence", "attempt", "issued_at", "code"),
)  # fmt: skip
async def list_device_commands(
    caller: Caller,
    device_id: DeviceId,
    *,
    unfinished: Unfinished = False,
    limit: Limit = 100,
    cursor: Cursor | None = None,
) -> Page[CommandResponse]:
    """Lists the commands of a device in the order in which they were issued.

    Raises:
        NotFound: there is no such device.
    """
    ref = selection(device_id, unfinished=unfinished)
    return answered(await caller.fleet.commands.records.page(ref=ref, after=decode(cursor), limit=limit), _command)


@call(
    "POST /devices/{device_id}/commands", Permission.COMMANDS_SEND, scope=on("device_id"),
    cli="command send DEVICE_ID NAME ARGS", status=201, location="/commands/{id}",
)  # fmt: skip
async def send_command(
    caller: Caller,
    device_id: DeviceId,
    name: CommandName,
    args: Arguments | None = None,
    *,
    lane: Lane = "default",
    respond: Respond = "result",
    deliver_within_s: DeliverWithin = 86_400.0,
    execute_within_s: ExecuteWithin = 86_400.0,
    result_within_s: ResultWithin = 90_000.0,
    supersede: Supersede | None = None,
    precondition: Precondition | None = None,
    wait_s: WaitS = 0.0,
    idempotency_key: IdempotencyKey | None = None,
    reason: Reason = "",
) -> CommandResponse:
    """Queues a command to a device; with ``wait_s`` waits that long for its end.

    The answer is the command in its state by then. Waiting ends at once if the caller may no longer send it. The
    command stores its key, so that it is sent once even if a crash lost the answer.

    Raises:
        NotFound: there is no such device.
        Conflict: the device is retired.
        QuerySyntaxError: the precondition cannot be read.
        Refused: the arguments exceed a limit, or the key was used with another command.
    """
    commands = caller.fleet.commands

    async def issued(key: str) -> int | None:
        found = await commands.keyed(device_id, key)
        return None if found is None else found.issued_at

    command = await commands.send(
        device_id, name, args, lane=lane, respond=respond, deliver_within_s=deliver_within_s,
        execute_within_s=execute_within_s, result_within_s=result_within_s, supersede=supersede,
        precondition=precondition, idempotency_key=await _key(caller, idempotency_key, issued), actor=caller.actor,
        reason=reason,
    )  # fmt: skip
    try:
        with caller.waiting() as news:
            pause = pausing(caller, device_id, news)
            command = await commands.wait(command, min(wait_s, caller.max_wait_s), pause=pause)
    except CallerLeft:
        command = await commands.get(command.id)
    return _command(command)


def pausing(
    caller: Caller, device: str | None, wait: Callable[[Coroutine[Any, Any, object]], Awaitable[None]]
) -> Callable[[Coroutine[Any, Any, bool]], Awaitable[None]]:
    """Waits for news, and checks the caller's right on the device, or on the whole fleet, after that."""

    async def pause(news: Coroutine[Any, Any, bool]) -> None:
        await wait(news)
        await caller.still(device=device)

    return pause


async def _selected(caller: Caller, where: str | None, devices: Sequence[str]) -> Clause | None:
    """The query within the caller's rights; checks the right on each named device. Raises NotFound, NotAuthorised."""
    for device in devices:
        await caller.device(device)
    return None if where is None else caller.narrowed(parse_new(where))


@call(
    "POST /commands", Permission.COMMANDS_SEND, scope=BY_CALL, selected_by="dry_run", no_cli="`command bulk --dry-run`"
)
async def plan_commands(
    caller: Caller,
    name: CommandName,
    args: Arguments | None = None,
    *,
    where: Where | None = None,
    devices: DeviceChoice = (),
    cap: Cap = 1000,
    lane: Lane = "default",
    respond: Respond = "result",
    deliver_within_s: DeliverWithin = 86_400.0,
    execute_within_s: ExecuteWithin = 86_400.0,
    result_within_s: ResultWithin = 90_000.0,
    supersede: Supersede | None = None,
    precondition: Precondition | None = None,
    rate_per_s: RatePerS | None = None,
    reason: Reason = "",
) -> PlanResponse:
    """Shows which devices a command would reach: those selected to which the caller may send commands.

    It takes the parameters of ``send_commands``; the rate and the reason do not change the plan.

    Raises:
        NotFound: there is no such device.
        QuerySyntaxError: the query or the precondition cannot be read.
        Refused: neither or both of ``where`` and ``devices``, or the arguments exceed a limit.
    """
    del rate_per_s, reason
    plan = await caller.fleet.bulk_commands.plan(
        name, args, where=await _selected(caller, where, devices), devices=devices, cap=cap, lane=lane,
        respond=respond, deliver_within_s=deliver_within_s, execute_within_s=execute_within_s,
        result_within_s=result_within_s, supersede=supersede, precondition=precondition,
    )  # fmt: skip
    return to_response(PlanResponse, plan)


@call("POST /commands", Permission.COMMANDS_SEND, scope=BY_CALL, status=202, cli="command bulk NAME ARGS")
async def send_commands(
    caller: Caller,
    name: CommandName,
    args: Arguments | None = None,
    *,
    where: Where | None = None,
    devices: DeviceChoice = (),
    plan: PlanDigest | None = None,
    cap: Cap = 1000,
    rate_per_s: RatePerS | None = None,
    lane: Lane = "default",
    respond: Respond = "result",
    deliver_within_s: DeliverWithin = 86_400.0,
    execute_within_s: ExecuteWithin = 86_400.0,
    result_within_s: ResultWithin = 90_000.0,
    supersede: Supersede | None = None,
    precondition: Precondition | None = None,
    idempotency_key: IdempotencyKey | None = None,
    reason: Reason = "",
) -> OperationResponse:
    """Sends a command to the devices of ``plan_commands``, in the background.

    Raises:
        NotFound: there is no such device.
        Conflict: ``plan_changed``, other devices are selected now.
        Refused: ``precondition_required`` without a plan, ``limit_exceeded`` beyond the cap, and as
            ``plan_commands``.
    """
    selected = await _selected(caller, where, devices)
    if plan is None:
        raise Refused(
            "A command to many devices requires its plan",
            code="precondition_required",
            remedy="Request the plan first (dry_run=true), check it, and send the same request with its `plan`",
        )

    async def begun(key: str) -> int | None:
        found = await caller.fleet.operations.keyed(key)
        return None if found is None else found.created

    operation = await caller.fleet.bulk_commands.send(
        name, args, where=selected, devices=devices, plan=plan, cap=cap, rate_per_s=rate_per_s,
        key=await _key(caller, idempotency_key, begun), actor=caller.actor, reason=reason, lane=lane, respond=respond,
        deliver_within_s=deliver_within_s, execute_within_s=execute_within_s, result_within_s=result_within_s,
        supersede=supersede, precondition=precondition,
    )  # fmt: skip
    return await operation_response(caller, operation)


async def _found(caller: Caller, command: str) -> Command:
    found = await caller.fleet.commands.get(command)
    await caller.item(found.device, "command", command, "command_unknown")
    return found


@call("GET /commands/{command}", Permission.DEVICES_READ, scope=BY_CALL, cli="command show COMMAND")
async def get_command(caller: Caller, command: CommandId) -> CommandResponse:
    """Shows a command and its state.

    Raises:
        NotFound: there is no such command.
    """
    return _command(await _found(caller, command))


@call("POST /commands/{command}/cancel", Permission.COMMANDS_SEND, scope=BY_CALL, cli="command cancel COMMAND")
async def cancel_command(caller: Caller, command: CommandId, *, reason: Reason = "") -> CommandResponse:
    """Cancels a command: at once if it was not sent, else by asking the device. Repeating it changes nothing.

    Raises:
        NotFound: there is no such command.
        Conflict: it has another end state.
    """
    await _found(caller, command)
    return _command(await caller.fleet.commands.cancel(command, actor=caller.actor, reason=reason))


@call("GET /operations/{operation}/commands", Permission.DEVICES_READ, scope=BY_CALL, cli="command counts OPERATION")
async def count_commands(caller: Caller, operation: OperationId) -> CommandCountsResponse:
    """Counts the commands that an operation sent, by state.

    Raises:
        NotFound: there is no such operation.
    """
    found = await own_operation(caller, operation)
    return CommandCountsResponse(operation=found.id, counts=dict(await caller.fleet.bulk_commands.counts(found.id)))
