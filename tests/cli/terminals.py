"""A real ``fleetcore`` on a terminal, whose screen the test reads."""

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time

import pyte

from fleetcore.testing.patience import PATIENCE_S


class Terminal:
    """The command on a terminal of a size; ``said`` is all that it printed."""

    def __init__(self, columns, rows, *words, **environment):
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        inherited = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        command = [sys.executable, "-m", "fleetcore", *map(str, words)]
        self.said, self._screen = b"", pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self._screen)
        self._child = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**inherited, "TERM": "xterm-256color", **environment},
        )
        os.close(theirs)
        self._until_s = time.monotonic() + PATIENCE_S

    @property
    def screen(self):
        """What it shows, line by line."""
        return "\n".join(line.rstrip() for line in self._screen.display)

    @property
    def colours(self):
        """The colours of the characters that it shows."""
        return {sign.fg for line in self._screen.buffer.values() for sign in line.values()} - {"default"}

    def _read(self):
        """Whether there may be more."""
        assert time.monotonic() < self._until_s, f"it shows:\n{self.screen}"
        if select.select([self._ours], [], [], 0.05)[0]:
            try:
                part = os.read(self._ours, 65536)
            except OSError:  # Linux: the other end is closed
                return False
            self.said += part
            self._stream.feed(part)
            return bool(part)
        return self._child.poll() is None

    def until(self, text, *, gone=""):
        """The screen once it shows a text, and no longer another."""
        while text not in self.screen or (gone and gone in self.screen):
            assert self._read(), f"it has ended, and shows:\n{self.screen}"
        return self.screen

    def press(self, keys):
        """Sends keys."""
        os.write(self._ours, keys.encode())

    def resize(self, columns, rows):
        """Gives the terminal another size."""
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self._screen.resize(rows, columns)
        self._child.send_signal(signal.SIGWINCH)

    def interrupt(self, number=signal.SIGINT):
        """What Ctrl-C does, or another signal."""
        self._child.send_signal(number)

    def ended(self):
        """The exit code, once it has ended by itself."""
        while self._read():
            pass
        return self._child.wait()

    def close(self):
        """Ends it, if it has not ended."""
        if self._child.poll() is None:
            self._child.kill()
        self._child.wait()
        os.close(self._ours)
