"""A call that hangs until it is let go: what a plugin's thread does when the other end of a cable is gone."""

import threading
from types import TracebackType
from typing import Self

from fleetcore.testing.patience import PATIENCE_S


class Stuck:
    """Put it where a blocking function is called; it hangs in the thread of its caller, whatever it is given.

    As a context manager it lets everybody go at the end, so that no test leaves a thread behind.

    Attributes:
        returned: how many calls have gone on.
    """

    def __init__(self) -> None:
        self._entered, self._let_go = threading.Event(), threading.Event()
        self.returned = 0

    def __call__(self, *_: object, **__: object) -> None:
        self._entered.set()
        self._let_go.wait()
        self.returned += 1

    def wait_entered(self, timeout_s: float = PATIENCE_S) -> None:
        """Blocks until some call hangs; raises TimeoutError where none comes."""
        if not self._entered.wait(timeout_s):
            raise TimeoutError(f"nothing called it within {timeout_s:g} s")

    def release(self) -> None:
        """Lets all calls go on, also those to come."""
        self._let_go.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
