"""The processes of a benchmark: started, talked to line by line in JSON, and always ended."""

import json
import os
import resource
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from attrs import frozen

from benchmarks.earlier import command

_PATIENCE_S = 60.0
#: A process that has not answered by then is ended: the largest piece of work takes a tenth of it.
_ANSWER_S = 900.0


def allow_connections(count: int) -> None:
    """Lets the processes that are started from now on have so many connections open.

    Raises RuntimeError where the machine's hard limit is below that.
    """
    wanted, (soft, hard) = count + 1000, resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise RuntimeError(f"{count} connections need {wanted} open files, and the hard limit is {hard}")
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class Child:
    """One process that answers a line with a line.

    ``checkout`` is a folder with another state of the repository, whose packages it is to use; None for our own. The
    module is ours in either case.
    """

    def __init__(self, module: str, task: dict[str, Any], checkout: Path | None = None) -> None:
        root = Path(__file__).parent.parent
        words, environment = command(module, checkout)
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=root
        )
        self.told = self.ask(json.dumps(task))

    def ask(self, line: str = "") -> dict[str, Any]:
        """Sends a line and gives the answer; raises RuntimeError where the process has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        late = threading.Timer(_ANSWER_S, self._process.kill)
        late.start()
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        finally:
            late.cancel()
        if not answer:
            raise RuntimeError(f"{self._process.args!r} ended with {self._process.wait()}")
        found: dict[str, Any] = json.loads(answer)
        return found

    @property
    def pid(self) -> int:
        """The process, by its id."""
        return self._process.pid

    def wait_for(self, count: int) -> None:
        """Returns once the process has counted ``count`` messages."""
        until = time.monotonic() + _PATIENCE_S
        while (seen := self.ask()["count"]) < count:
            if time.monotonic() > until:
                raise RuntimeError(f"only {seen} of {count} messages arrived")
            time.sleep(0.02)

    def end(self) -> None:
        """Closes its input, which ends it, and waits."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def child(module: str, task: dict[str, Any], checkout: Path | None = None) -> Iterator[Child]:
    """A process while the context lasts."""
    item = Child(module, task, checkout)
    try:
        yield item
    finally:
        item.end()


@contextmanager
def tls_fleet(
    devices: list[str], load: str, *, loop: str, protocol: str = "mqtt", **more: Any
) -> Iterator[tuple[Child, dict[str, Any]]]:
    """A server with a certificate for each device, listening over TLS or DTLS; and the task of a ``load`` of them."""
    scheme = {"websocket": "wss"}.get(protocol, f"{protocol}s")
    with tempfile.TemporaryDirectory() as data, tempfile.TemporaryDirectory() as certificates:
        task: dict[str, Any] = {
            "kind": "fleet",
            "loop": loop,
            "data": data,
            "protocols": {protocol: {"listen": f"{scheme}://127.0.0.1:0"}},
            "devices": devices,
            "certificates": certificates,
            **more,
        }
        with child("serving", task) as server:
            yield (
                server,
                {
                    "kind": load,
                    "protocol": protocol,
                    "host": "127.0.0.1",
                    "port": urlsplit(server.told["endpoints"][protocol][0]).port,
                    "devices": devices,
                    "folder": certificates,
                    "ca": str(Path(certificates) / "ca.pem"),
                },
            )


@frozen(kw_only=True)
class Program:
    """A server that others wrote, on loopback."""

    port: int
    pid: int

    def cpu_s(self) -> float:
        """Its processor time so far; the kernel counts in hundredths of a second."""
        fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def coap_server() -> Iterator[Program]:
    """Libcoap's server, in plain; it makes the resources that are put."""
    program = shutil.which("coap-server-notls")
    assert program is not None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    process = subprocess.Popen([program, "-A", "127.0.0.1", "-p", str(port), "-d", "4", "-v", "0"])
    try:
        yield Program(port=port, pid=process.pid)
    finally:
        process.terminate()
        process.wait()


def has_mosquitto() -> bool:
    """Whether the broker is installed, where Debian puts it or on the path."""
    return _mosquitto() is not None


def _mosquitto() -> str | None:
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")


@contextmanager
def mosquitto(folder: Path) -> Iterator[Program]:
    """A broker that keeps nothing on disk and asks nobody who they are: the cheapest it can be."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = folder / "mosquitto.conf"
    config.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nmax_inflight_messages 1000\n"
        "max_queued_messages 0\nset_tcp_nodelay true\nlog_type error\n",
        encoding="ascii",
    )
    program = _mosquitto()
    assert program is not None
    process = subprocess.Popen([program, "-c", str(config)], stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)
        yield Program(port=port, pid=process.pid)
    finally:
        process.terminate()
        process.wait()
