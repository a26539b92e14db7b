"""The mirror part of ``fleetcore demo``: mirrors the fleet to each connector's trial hub, through an outage."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Protocol

from fleetcore.cli.connect import Caller
from fleetcore.interfaces.provider import Provider
from fleetcore.interfaces.trial import Trial
from fleetcore.model.parts import parts

#: Every change must be visible at once.
_SETTINGS = {"metrics": ["*"], "write_every_s": 0}
_PATIENCE_S = 60.0
_LOOK_S = 0.05


class Told(Protocol):
    """Keeps the account of the demo."""

    def expect(self, holds: bool, text: str) -> None:
        """Prints an expectation, and whether it was met."""
        ...


@asynccontextmanager
async def trials_of(offers: Mapping[str, Provider[Any]]) -> AsyncIterator[Mapping[str, Trial]]:
    """The trial hubs of the connectors that have one, by name."""
    async with AsyncExitStack() as stack:
        yield {
            name: await stack.enter_async_context(offer.trial())
            for name, offer in sorted(offers.items())
            if offer.trial is not None
        }


def sections(trials: Mapping[str, Trial]) -> str:
    """Their sections of fleet.toml."""
    return "\n\n".join(
        "\n".join(
            [
                f"[clouds.{name}]",
                *(f"{key} = {json.dumps(value)}" for key, value in {**_SETTINGS, **item.settings}.items()),
            ]
        )
        for name, item in trials.items()
    )


async def show_mirrors(account: Told, caller: Caller, trials: Mapping[str, Trial], devices: Sequence[str]) -> None:
    """Shows each mirror in step, disconnected while every device is changed, and in step again."""
    for name, trial in trials.items():
        told, differ = await _in_step(caller, name, 2 * len(devices))
        account.expect(not differ, f"mirrored to {name}: {told}")
        trial.cut()
        try:
            for device in devices:
                await caller.run("set_desired", {"device_id": device, "patch": {"mirrored": {"to": name}}})
            waited = await _until(caller, name, lambda shown: _is_cut(shown, len(devices)))
        finally:
            trial.heal()
        waiting = waited["waiting"]
        account.expect(
            waiting == len(devices), f"{name} was disconnected: {waiting} changes waited, and the fleet kept running"
        )
        begun = time.monotonic()
        await caller.run("resume_mirror", {"name": name, "reason": "the demo restored it"})
        told, differ = await _in_step(caller, name, 2 * len(devices))
        took = time.monotonic() - begun
        account.expect(not differ, f"{name} caught up after {took:.1f} s: {told}")


def _is_cut(shown: Mapping[str, Any], changes: int) -> bool:
    return shown["state"] == "failing" and bool(shown["waiting"] >= changes)


def _counted(compared: int, differ: int, against: str) -> str:
    with_what = " with what was sent" if against == "sent" else ""
    return f"{compared} devices and twins compared{with_what}, {differ or 'none'} differ{'s' if differ < 2 else ''}"


async def _in_step(caller: Caller, name: str, held: int) -> tuple[str, int]:
    """Waits until no mark is left; returns the comparison as text, and how many entities differ.

    Devices keep reporting, so entities that differ at first are compared again.
    """
    until = time.monotonic() + _PATIENCE_S
    while True:
        await caller.run("wait_idle", {})
        await _until(caller, name, lambda shown: shown["waiting"] == 0 and shown["held"] >= held)
        compared, differ, against = await _compared(caller, name)
        if not differ or time.monotonic() > until:
            return _counted(compared, differ, against), differ


async def _compared(caller: Caller, name: str) -> tuple[int, int, str]:
    compared, differ, against = 0, 0, "hub"

    async def ask(after: str | None) -> dict[str, Any]:
        given = {"name": name} if after is None else {"name": name, "after": after}
        part: dict[str, Any] = await caller.run("list_mirror_drift", given)
        return part

    async for part in parts(ask, lambda part: part["next"]):
        compared += part["compared"]
        differ += len(part["differences"])
        against = part["against"]
    return compared, differ, against


async def _until(caller: Caller, name: str, holds: Any) -> dict[str, Any]:
    until = time.monotonic() + _PATIENCE_S
    while True:
        shown: dict[str, Any] = await caller.run("get_mirror", {"name": name})
        if holds(shown) or time.monotonic() > until:
            return shown
        await asyncio.sleep(_LOOK_S)
