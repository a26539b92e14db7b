"""Word to systemd, as sd_notify(3) has it: that the server is ready, that it lives, and that it stops.

systemd passes a datagram socket in ``NOTIFY_SOCKET``. Without it nothing is sent.
"""

import contextlib
import os
import socket

#: systemd passes the longest time between two signs of life, in microseconds.
_WATCHDOG = "WATCHDOG_USEC"


def notify(state: str) -> None:
    """Sends a state such as ``READY=1``. A supervisor that does not take it is ignored."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel,
    ):
        channel.sendto(state.encode(), "\0" + path[1:] if path.startswith("@") else path)


def watchdog_s() -> float | None:
    """How often a sign of life is due: half of what systemd allows; None without a watchdog."""
    given = os.environ.get(_WATCHDOG, "")
    return int(given) / 2e6 if given.isascii() and given.isdigit() and int(given) else None
