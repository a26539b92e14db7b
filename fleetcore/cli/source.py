"""A fleet that a command watches for long: its server may end and come back meanwhile."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from fleetcore.calls.events import POSITION
from fleetcore.cli.connect import Caller, Target, connect
from fleetcore.errors import Unavailable
from fleetcore.frontends.catalogue import core

_log = logging.getLogger(__name__)

#: How often a failed connection is tried again.
_AGAIN_S = 1.0


class Source:
    """Calls a fleet again and again; after a failure it connects anew.

    Reading a folder that no server has open opens it, and meanwhile a server could not. So it is read at the start and
    on request; after a server had it, only once :attr:`served` is False again.

    Args:
        keeps: whether a folder that no server has open stays open here, so that its operations go on.

    Attributes:
        served: whether a server gave the last answer.
    """

    def __init__(self, at: Target, *, keeps: bool = False) -> None:
        self._at, self._keeps, self._stack = at, keeps, AsyncExitStack()
        self._caller: Caller | None = None
        self.served = False

    @property
    def remote(self) -> bool:
        """Whether it is reached over a network, and has no folder here."""
        return not isinstance(self._at, Path)

    async def rests(self) -> bool:
        """Whether no server has the folder open."""
        from fleetcore.runtime import lease

        return isinstance(self._at, Path) and await asyncio.to_thread(lease.holder, self._at) is None

    async def ask(self, name: str, given: Mapping[str, Any]) -> Any:
        """The answer of a call."""
        resting = await self.rests()
        if resting and self.served:
            await self.aclose()
            raise Unavailable("The server has ended")
        if resting or self._caller is None:
            await self.aclose()
            # The server may have ended just now: then it must not find the folder open when it comes back.
            self._caller = await self._stack.enter_async_context(connect(self._at, opens=resting))
        try:
            answer = await self._caller.run(name, given)
        except Unavailable:
            await self.aclose()
            raise
        else:
            self.served = not resting
            return answer
        finally:
            if resting and not self._keeps:
                await self.aclose()

    async def aclose(self) -> None:
        """Ends the connection."""
        self._caller = None
        await self._stack.aclose()


def again(error: Unavailable) -> str:
    """What is said once while a server is away."""
    return f"{error}{'' if str(error).endswith(('.', '?')) else '.'} It is tried again"


async def followed(at: Target, name: str, given: Mapping[str, Any]) -> AsyncGenerator[Any, None]:
    """The items of a streaming call; while the server is away it waits, and goes on after the last position.

    No item comes twice: those of an unfinished position, which the server sends again, are left out. None is missed
    that was committed while the server was away, even where none had come before. A folder is opened
    at the start if no server has it open, and never once a server had it: the server could not come back.
    """
    after, since, begun, told = given.get("after"), 0, False, False
    marks = any(each.name == "marks" for each in core()[name].parameters) and not given.get("marks")
    if marks:
        given = {**given, "marks": True}
    clock = asyncio.get_running_loop().time
    while True:
        asked = given if after is None else {**given, "after": after}
        skipped, since, connected_s = since, 0, clock()
        try:
            async with connect(at, opens=not begun) as caller, contextlib.aclosing(caller.stream(name, asked)) as items:
                async for item in items:
                    begun, told = True, False
                    if marks and item.get("type") == POSITION:
                        after, since, skipped = item["position"], 0, 0
                        continue
                    since += 1
                    if since > skipped:
                        yield item
                    if item.get("position") is not None:
                        after, since, skipped = item["position"], 0, 0
                return
        except Unavailable as error:
            if not begun and clock() - connected_s < _AGAIN_S:  # else nothing had happened yet
                raise
            if not told:
                _log.warning("%s", again(error))
            begun, told, since = True, True, max(since, skipped)
            await asyncio.sleep(_AGAIN_S)
