"""Keys of a terminal, as names: ``a``, ``up``, ``enter``."""

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

#: What a terminal sends → the key's name. Longer sequences come first.
_SEQUENCES = {
    "\x1b[5~": "page up", "\x1b[6~": "page down", "\x1b[A": "up", "\x1b[B": "down", "\x1bOA": "up", "\x1bOB": "down",
    "\x1b": "escape", "\r": "enter", "\n": "enter", "\x7f": "backspace", "\x08": "backspace", "\x15": "clear",
    "\x03": "quit", "\x04": "quit",
}  # fmt: skip


def names(sent: str) -> Iterator[str]:
    """The keys in what a terminal sent; sequences without a name are left out."""
    while sent:
        known = next((sequence for sequence in _SEQUENCES if sent.startswith(sequence)), None)
        if known == "\x1b" and sent[1:2] in ("[", "O"):
            end = next((at for at, sign in enumerate(sent[2:], 3) if "@" <= sign <= "~"), len(sent))
            sent = sent[end:]
        elif known is not None:
            yield _SEQUENCES[known]
            sent = sent[len(known) :]
        else:
            if sent[0].isprintable():
                yield sent[0]
            sent = sent[1:]


@contextmanager
def pressed() -> Iterator["asyncio.Queue[str] | None"]:
    """The keys that are pressed, one at a time and without Enter; None if standard input has no keys.

    ``resize`` is among them each time the terminal gets another size, and ``quit`` when the process is asked to end:
    the terminal has to be as it was before.
    """
    if sys.stdin is None or not sys.stdin.isatty() or os.name != "posix":
        yield None
        return
    import termios
    import tty

    signals = {signal.SIGWINCH: "resize", signal.SIGTERM: "quit", signal.SIGHUP: "quit"}
    file, queue, loop = sys.stdin.fileno(), asyncio.Queue[str](), asyncio.get_running_loop()
    before = termios.tcgetattr(file)

    def read() -> None:
        sent = os.read(file, 1024)
        if not sent:  # the terminal is gone
            loop.remove_reader(file)
            queue.put_nowait("quit")
        for name in names(sent.decode(errors="replace")):
            queue.put_nowait(name)

    tty.setcbreak(file)
    try:
        loop.add_reader(file, read)
        for number, name in signals.items():
            loop.add_signal_handler(number, queue.put_nowait, name)
        yield queue
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
        loop.remove_reader(file)
        termios.tcsetattr(file, termios.TCSADRAIN, before)
