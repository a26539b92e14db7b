"""A herd of devices, as the connect storms need it: all at once, or one after the other, whatever they speak."""

import asyncio
import json
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar

D = TypeVar("D")


class Herd(ABC, Generic[D]):
    """See the module; a protocol says how a device connects.

    Attributes:
        cut_off: how many attempts ended without a connection.
    """

    def __init__(self, devices: Sequence[D]) -> None:
        self._devices = devices
        self.cut_off = 0

    @abstractmethod
    async def connect(self, device: D) -> None:
        """Until the device is connected, however often it is cut off."""

    @abstractmethod
    def leave(self) -> None:
        """All disconnect."""

    async def one_after_the_other(self, count: int) -> None:
        """Until each of them is connected."""
        for device in self._devices[:count]:
            await self.connect(device)

    async def at_once(self, count: int) -> None:
        """All of them begin now; until each is connected."""
        await asyncio.gather(*map(self.connect, self._devices[:count]))


def say(**members: object) -> None:
    """A line to the parent process."""
    print(json.dumps(members), flush=True)


async def storm(herd: Herd[D]) -> None:
    """Each line says how (``one_after_the_other``, ``at_once``) and how many; answered when all are connected."""
    say(ready=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        how, count = line.split()
        herd.cut_off = 0
        begun = time.perf_counter()
        await (herd.at_once if how == "at_once" else herd.one_after_the_other)(int(count))
        seconds = time.perf_counter() - begun
        herd.leave()
        await asyncio.sleep(0.5)
        say(seconds=seconds, cut_off=herd.cut_off)
