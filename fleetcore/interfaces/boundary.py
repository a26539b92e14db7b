"""The boundary between the core and a plugin's code: what a plugin raises ends at most that plugin."""

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from fleetcore.errors import PluginError

#: The longest text of a plugin in one of our lines; longer texts are cut.
_MAX_LENGTH = 400


@contextmanager
def plugin_code(what: str) -> Iterator[None]:
    """Runs a plugin's code: an exit or an interrupt in it becomes a PluginError; errors pass as they are.

    An ``exit()`` that left a task would end the event loop, and the server; a ``GeneratorExit`` would end its task
    silently. Cancellation passes, and so does the operator's Ctrl-C.

    Args:
        what: the plugin's component, as the operator knows it: ``notifier 'mail'``.
    """
    try:
        yield
    except Exception:
        raise
    except BaseException as error:
        raise contained(error, what) from error


@asynccontextmanager
async def plugin_call(what: str, timeout_s: float) -> AsyncIterator[None]:
    """As :func:`plugin_code`, around a plugin's coroutine with a time-out; raises PluginError when it expires."""
    limit = asyncio.timeout(timeout_s)
    try:
        async with limit:
            with plugin_code(what):
                yield
    except TimeoutError as error:
        if not limit.expired():
            raise  # the plugin's own
        raise PluginError(f"{what} did not answer within {timeout_s:g} s") from error


def contained(error: BaseException, what: str) -> Exception:
    """An exception that left a plugin's code, as an error that ends at most the plugin.

    Raises ``error`` itself where it is not the plugin's: cancellation, and Ctrl-C.
    """
    if isinstance(error, Exception):
        return error
    if isinstance(error, asyncio.CancelledError) or (isinstance(error, KeyboardInterrupt) and _ctrl_c_raises(error)):
        raise error
    did = f"called exit({error.code!r})" if isinstance(error, SystemExit) else f"raised {in_a_line(error)}"
    failure = PluginError(f"{what} {did}")
    failure.__cause__ = error
    return failure


def _ctrl_c_raises(error: KeyboardInterrupt) -> bool:
    """Whether Ctrl-C may have raised it here: by Python's own handler, or as the second one of ``asyncio.run``.

    A server has its own handler, so an interrupt raised in one of its plugins is the plugin's.
    """
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is not None and trace.tb_frame.f_code.co_name == "_on_sigint":
        return True
    in_main = threading.current_thread() is threading.main_thread()
    return in_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def in_a_line(error: BaseException) -> str:
    """A plugin's exception in one line: its type and its message."""
    text = " ".join(str(error).split())
    text = text if len(text) <= _MAX_LENGTH else f"{text[:_MAX_LENGTH]}…"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def as_error(error: BaseException, what: str) -> Exception:
    """An exception of a plugin's own thread, as an error that ends at most the plugin.

    Ctrl-C reaches only the main thread, so an interrupt raised here is the plugin's.
    """
    if isinstance(error, Exception):
        return error
    failure = PluginError(f"{what} raised {in_a_line(error)}")
    failure.__cause__ = error
    return failure
