"""The line between the core and a plugin's code: what a plugin raises does not end more than the plugin."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from fleetcore.errors import PluginError

#: A plugin's sentence in a line of ours: longer ones are cut.
_LONGEST = 400


@contextmanager
def plugin_code(what: str) -> Iterator[None]:
    """Around a plugin's code: ``exit()`` in it is the plugin's failure. Everything else it raises passes as it is.

    An ``exit()`` that left a task would end the event loop, and the server. Ctrl-C is the operator's, and passes.

    Args:
        what: the piece, as the operator knows it: ``notifier 'mail'``.
    """
    try:
        yield
    except SystemExit as error:
        raise PluginError(f"{what} called exit({error.code!r})") from error


@asynccontextmanager
async def plugin_call(what: str, timeout_s: float) -> AsyncIterator[None]:
    """As :func:`plugin_code`, around a coroutine of a plugin that may take so long at most; else raises PluginError."""
    limit = asyncio.timeout(timeout_s)
    try:
        async with limit:
            with plugin_code(what):
                yield
    except TimeoutError as error:
        if not limit.expired():
            raise  # the plugin's own
        raise PluginError(f"{what} did not answer within {timeout_s:g} s") from error


def in_a_line(error: BaseException) -> str:
    """An exception of a plugin in one line: its type and what it says."""
    said = " ".join(str(error).split())
    said = said if len(said) <= _LONGEST else f"{said[:_LONGEST]}…"
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def as_error(error: BaseException, what: str) -> Exception:
    """What a plugin's own thread raised, as an error that ends no more than the plugin.

    Ctrl-C comes to the main thread alone, so what looks like it there is the plugin's.
    """
    if isinstance(error, Exception):
        return error
    failure = PluginError(f"{what} raised {in_a_line(error)}")
    failure.__cause__ = error
    return failure
