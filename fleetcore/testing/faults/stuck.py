"""A call that hangs until it is released, like a plugin's thread whose connection is dead."""

import threading
from types import TracebackType
from typing import Self

from fleetcore.testing.patience import PATIENCE_S


class Stuck:
    """Use it in place of a blocking function; it hangs in the calling thread, with any arguments.

    As a context manager it releases all callers at the end, so that no test leaves a thread behind.

    Attributes:
        returned: how many calls have returned.
    """

    def __init__(self) -> None:
        self._entered, self._let_go = threading.Event(), threading.Event()
        self.returned = 0

    def __call__(self, *_: object, **__: object) -> None:
        self._entered.set()
        self._let_go.wait()
        self.returned += 1

    def wait_entered(self, timeout_s: float = PATIENCE_S) -> None:
        """Blocks until some call hangs; raises TimeoutError if none does."""
        if not self._entered.wait(timeout_s):
            raise TimeoutError(f"nothing called it within {timeout_s:g} s")

    def release(self) -> None:
        """Releases all calls, also later ones."""
        self._let_go.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
