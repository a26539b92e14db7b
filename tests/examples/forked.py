"""A ``fleetcore`` for the shell blocks of the docs, which starts in a fortieth of the time.

A page runs dozens of commands, and each new interpreter would import all of fleetcore again. Here one process per
worker imports it once, and forks for each command: a process of its own, with the arguments, environment, folder and
files of the caller, which ends as any other. Servers, which tests kill, are started as readers start them, and so are
the commands of tests/cli: they show that a fresh interpreter works.
"""

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import pkgutil
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

#: The program on the PATH: passes on what it got, waits for the end, and ends likewise.
_CALLER = """\
import json, os, signal, socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect({at!r})
asked = json.dumps([sys.argv[1:], dict(os.environ), os.getcwd()]).encode()
socket.send_fds(connection, [len(asked).to_bytes(8, "big")], [0, 1, 2])
connection.sendall(asked)
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: connection.sendall(bytes([number])))
status = int.from_bytes(connection.recv(1), "big", signed=True)
if status < 0:
    signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
sys.exit(status)
"""


@functools.cache
def folder() -> str:
    """A folder for the front of the PATH, with this ``fleetcore``; the process behind it ends with the tests."""
    made = Path(tempfile.mkdtemp(prefix="fleetcore-forked-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    at = str(made / "socket")
    (made / "caller.py").write_text(_CALLER.format(at=at))
    program = made / "fleetcore"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -IS "{made}/caller.py" "$@"\n')
    program.chmod(0o755)
    server = subprocess.Popen([sys.executable, __file__, at], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    atexit.register(_end, server)
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"
    return str(made)


def _end(server: "subprocess.Popen[bytes]") -> None:
    server.kill()
    server.wait()
    for pipe in (server.stdin, server.stdout):
        assert pipe is not None
        pipe.close()


def _serve(at: str) -> None:
    """Forks for each command, until the tests have ended."""
    _import_all()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(at)
        listening.listen(16)
        print("ready", flush=True)
        while 0 not in select.select([listening, 0], [], [])[0]:
            connection, _ = listening.accept()
            if os.fork() == 0:
                listening.close()
                _follow(connection)
                return
            connection.close()


def _import_all() -> None:
    import fleetcore.cli
    from fleetcore.runtime.plugins import PluginHost

    for module in pkgutil.iter_modules(fleetcore.cli.__path__):
        if module.name != "plugin_template":
            importlib.import_module(f"fleetcore.cli.{module.name}")
    importlib.import_module("fleetcore.frontends.library")
    PluginHost()
    gc.freeze()


def _follow(connection: socket.socket) -> None:
    """Forks the command, tells its caller how it ended, and passes on signals; a caller that is killed takes it along."""
    head, files, _, _ = socket.recv_fds(connection, 8, 3)
    asked = b""
    while len(asked) < int.from_bytes(head, "big"):
        asked += connection.recv(1 << 16)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    process = os.fork()
    if process == 0:
        connection.close()
        _become(*json.loads(asked), files)
        return
    for file in (0, 1, 2, *files):
        os.close(file)
    ended = os.pidfd_open(process)
    while ended not in select.select([ended, connection], [], [])[0]:
        number = connection.recv(1)
        os.kill(process, number[0] if number else signal.SIGKILL)
        if not number:
            break
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    with contextlib.suppress(OSError):
        connection.sendall(status.to_bytes(1, "big", signed=True) if status < 128 else b"\x01")
    os._exit(0)


def _become(words: list[str], environment: dict[str, str], folder: str, files: list[int]) -> None:
    """Makes of this process what a new interpreter with these would be, and runs the command."""
    from fleetcore.cli import main

    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    # As a new interpreter opens them; the command ends with its process.
    sys.stdin = open(0, closefd=False, encoding="utf-8")  # noqa: SIM115
    sys.stdout = open(1, "w", closefd=False, encoding="utf-8")  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False, encoding="utf-8", errors="backslashreplace", buffering=1)  # noqa: SIM115
    sys.argv = ["fleetcore", *words]
    sys.exit(main())


if __name__ == "__main__":
    _serve(sys.argv[1])
