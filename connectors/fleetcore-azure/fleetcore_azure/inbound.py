"""Commands from the hub: a section of each device's desired properties, or cloud-to-device messages.

``desired``: ``properties.desired.fleetcore.commands.ID = {"name": …, "args": {…}}``. One query finds all devices with
commands; each of them is read, because the query's index lags. A stored command is removed there under the twin's ETag.
The hub's id of it is the member's name with its write time, so a name may be reused.

``c2d``: one call per device reads its messages, because the hub only delivers them to the device. A message is
``{"command": NAME, "args": {…}}`` and is completed once it was stored.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from typing import cast
from urllib.parse import quote

from attrs import frozen

from fleetcore.errors import Refused
from fleetcore.interfaces.call_failed import CallFailed, for_all, is_for_all
from fleetcore.interfaces.cloud import Arrived, CloudCommand
from fleetcore.model.patch import Document
from fleetcore.wire.times import parse_time
from fleetcore_azure.clients import Clients, DeviceAnswer
from fleetcore_azure.config import AzureConfig
from fleetcore_azure.held import OWN, TRIES, Devices, Held, section, with_own

_COMMANDS = "commands"
_RECEIVE = "messages/receive"
#: Devices read together.
_AT_ONCE = 100


@frozen(kw_only=True)
class _Found:
    """The found commands, and the data to remove them from the hub: member names by device, or lock tokens."""

    commands: Sequence[CloudCommand]
    invalid: Sequence[str]
    taken: Sequence[tuple[str, str]]


class Inbound:
    """See the module."""

    def __init__(self, clients: Clients, devices: Devices, config: AzureConfig) -> None:
        self._clients, self._devices = clients, devices
        self._by, self._poll_s = config.commands_by, config.commands_poll_s

    async def arriving(self) -> AsyncGenerator[Arrived, None]:
        """As in the interface; the hub itself tracks commands, so there are no positions."""
        by_messages = self._by == "c2d"
        while True:
            try:
                names = [there.name async for there in self._candidates()]
                for start in range(0, len(names), _AT_ONCE):
                    part = names[start : start + _AT_ONCE]
                    read = self._message if by_messages else self._section
                    found = [item for item in await asyncio.gather(*map(read, part)) if item is not None]
                    commands = [command for item in found for command in item.commands]
                    invalid = [sentence for item in found for sentence in item.invalid]
                    if not commands and not invalid:
                        continue
                    kept = False
                    try:
                        yield Arrived(events=commands, invalid=invalid)
                        kept = True
                    finally:
                        if not kept and by_messages:
                            await self._abandoned(found)
                    for item in found:
                        await (self._completed(item) if by_messages else self._removed(item))
            except CallFailed as failed:
                raise for_all(failed) from failed
            await self._clients.clock.sleep(self._poll_s)

    def _candidates(self) -> "AsyncGenerator[Held, None]":
        where = "" if self._by == "c2d" else f"is_defined(properties.desired.{OWN}.{_COMMANDS})"
        return cast("AsyncGenerator[Held, None]", self._devices.ours(where))

    # -- a section of the desired properties ------------------------------------------------------------------------

    async def _section(self, name: str) -> _Found | None:
        there = await self._devices.get(name)
        device = self._devices.device(name)
        if there is None or device is None or not self._devices.owns(there):
            return None
        commands: list[CloudCommand] = []
        invalid: list[str] = []
        given = _given(there)
        for key in given:
            written = _stamp(there, key).get("$lastUpdated")
            command = _command(_id(there, key), device, given[key], "name", _when(written))
            if isinstance(command, CloudCommand):
                commands.append(command)
            else:
                invalid.append(f"The command {key} of {device} cannot be read: {command}")
        taken = [(key, _id(there, key)) for key in given]
        return _Found(commands=commands, invalid=invalid, taken=[(name, ""), *taken]) if given else None

    async def _removed(self, found: _Found) -> None:
        """Removes stored commands; one that was written again meanwhile stays."""
        (name, _), *keys = found.taken
        for last in range(TRIES):
            there = await self._devices.get(name)
            if there is None:
                return
            going = {key for key, known in keys if key in _given(there) and _id(there, key) == known}
            left = {key: value for key, value in _given(there).items() if key not in going}
            own = {key: value for key, value in section(there.desired, OWN).items() if key != _COMMANDS}
            wanted = with_own(there.desired, {**own, _COMMANDS: left} if left else own)
            try:
                await self._devices.write(there, there.tags, wanted)
            except CallFailed as failed:
                if failed.kind == "conflict" and last < TRIES - 1:
                    continue
                # They come again, and the engine knows their ids; without the permission they would come forever.
                if is_for_all(failed):
                    raise
            return

    # -- cloud-to-device messages -----------------------------------------------------------------------------------

    async def _message(self, name: str) -> _Found | None:
        try:
            answer = await self._clients.for_device(_RECEIVE, "GET", name, "devicebound")
        except CallFailed as failed:
            if failed.kind == "credentials" and await self._is_closed(name):
                return None
            if failed.kind in {"missing", "throttled"}:
                return None
            raise
        device = self._devices.device(name)
        if answer.status == 204 or device is None:
            return None
        token = answer.headers.get("etag", "").strip('"')
        enqueued = answer.headers.get("iothub-enqueuedtime")
        command = _command(_message_id(name, answer), device, _document(answer.body), "command", _when(enqueued))
        if isinstance(command, CloudCommand):
            return _Found(commands=[command], invalid=(), taken=[(name, token)])
        invalid = f"A message to {device} cannot be read: {command}"
        return _Found(commands=(), invalid=[invalid], taken=[(name, token)])

    async def _is_closed(self, name: str) -> bool:
        """Whether the policy may not act for this device."""
        there = await self._devices.get(name)
        return there is None or there.authentication != "sas" or there.status != "enabled"

    async def _completed(self, found: _Found) -> None:
        for name, token in found.taken:
            try:
                await self._clients.for_device(_RECEIVE, "DELETE", name, f"devicebound/{quote(token, safe='')}")
            except CallFailed as failed:
                # It comes again, and the engine knows its id; without the permission it would come forever.
                if is_for_all(failed):
                    raise

    async def _abandoned(self, found: Sequence[_Found]) -> None:
        for name, token in (each for item in found for each in item.taken):
            path = f"devicebound/{quote(token, safe='')}/abandon"
            with suppress(CallFailed):
                await self._clients.for_device(_RECEIVE, "POST", name, path, body=b"")


def _given(there: Held) -> Document:
    return section(section(there.desired, OWN), _COMMANDS)


def _stamp(there: Held, key: str) -> Document:
    """The write time of a command, and its version."""
    return section(section(section(there.metadata, OWN), _COMMANDS), key)


def _id(there: Held, key: str) -> str:
    stamp = _stamp(there, key)
    return f"{there.name}/{key}@{stamp.get('$lastUpdated', '')}#{stamp.get('$lastUpdatedVersion', '')}"


def _when(text: object) -> int | None:
    """A time of the hub, ms since the epoch; None if it is missing."""
    try:
        return parse_time(text)
    except Refused:
        return None


def _message_id(name: str, answer: DeviceAnswer) -> str:
    return answer.headers.get("iothub-messageid") or f"{name}/{answer.headers.get('iothub-sequencenumber', '')}"


def _document(body: bytes) -> object:
    try:
        return json.loads(body)
    except ValueError:
        return None


def _command(id: str, device: str, given: object, called: str, time: int | None) -> CloudCommand | str:
    """A command, or the reason of its refusal."""
    if not isinstance(given, dict):
        return "it is not an object"
    name, args = given.get(called), given.get("args", {})
    if not isinstance(name, str) or not name or not isinstance(args, dict):
        return f"it has no {called} with args"
    return CloudCommand(id=id, device=device, name=name, args=cast("Document", args), given=time)
