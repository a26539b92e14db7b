"""The clients of examples/devices against a real server: each has the whole conversation, and survives its failures.

The test plays the operator's part and looks at the outcome from the server's side. Each client runs as its page says; those in C
are compiled first.
"""

import asyncio
import contextlib
import json
import os
import re
import select
import shutil
import socket
import socketserver
import subprocess
import sys
import threading
import time
from datetime import datetime
from pathlib import Path

import pytest
from attrs import frozen

from fleetcore.cli.root import run
from fleetcore.errors import NotFound
from fleetcore.frontends.control_client import ControlClient
from fleetcore.model.firmware import EXECUTION_ENDS
from fleetcore.testing.patience import PATIENCE_S
from fleetcore.testing.ports import free_port

ROOT = Path(__file__).parents[2]
DEVICES = ROOT / "examples" / "devices"
MODEL = "T-1000"
#: How long a message may be under way; a reading by its age is later by that.
AGE_MS = 5000
IMAGE = bytes(range(256)) * 1000


#: Makes a key and a request for a device, where it is flashed.
BENCH = """openssl ecparam -name prime256v1 -genkey -noout -out device.key
openssl req -new -key device.key -subj "/CN=$1" -out device.csr"""


class Site:
    """A server in a process of its own, and its operator."""

    def __init__(self, folder):
        self.folder, self.data = folder, folder / "fleet-data"
        self.http, self.mqtt = free_port(), free_port()
        self._names = iter(range(1, 1000))
        image = folder / "app.bin"
        image.write_bytes(IMAGE)
        with contextlib.chdir(folder):
            for words in (
                f"init {self.data} --host localhost",
                "firmware keygen root",
                "firmware keygen maker",
                "firmware trust init trust.json --root root.pub --firmware maker.pub",
                "firmware trust sign trust.json --key root.key",
                f"firmware sign app.bin --key maker.key --name app --version 2.0.0 --seq 2 --model {MODEL} --chunk 65536",
                f"firmware trust set trust.json --data {self.data}",
                f"firmware upload app.bin --data {self.data}",
                f"firmware release add app.bin.manifest.json --data {self.data}",
            ):
                assert run(words.split()) == 0, words
        toml = self.data / "fleet.toml"
        text = toml.read_text().replace("0.0.0.0", "127.0.0.1")
        toml.write_text(text.replace(":8443", f":{self.http}").replace(":8883", f":{self.mqtt}"))
        self.process = None

    def start(self):
        words = [sys.executable, "-m", "fleetcore", "serve", "--data", str(self.data)]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=log, text=True)
        assert "ready\n" in self.process.stdout, (self.folder / "log").read_text()[-4000:]

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def __call__(self, call, **given):
        return asyncio.run(ControlClient(self.data).run(call, given))

    def factory(self, folder, by_claim, host="localhost"):
        """The id of a device, and the flash with which it leaves its factory. One with a claim is not registered."""
        name, token = f"th-{next(self._names)}", None
        if not by_claim:
            self("create_device", id=name, type="thermometer", model=MODEL)
            token = self("create_enrollment_token", device=name)["token"]
        folder.mkdir()
        for source in (self.data / "pki" / "ca.pem", self.data / "pki" / "command.pub", self.folder / "trust.json"):
            shutil.copy(source, folder)
        for kind in ("pem", "key"):
            (folder / f"claim.{kind}").write_text(self.claim[{"pem": "certificate", "key": "key"}[kind]])
        # MicroPython makes no keys; the others ignore this one.
        subprocess.run(["sh", "-euc", BENCH, "bench", name], cwd=folder, check=True)
        made = {
            "device": name, "model": MODEL, "token": token, "claim": "spring",
            "http": f"https://{host}:{self.http}", "mqtt": f"mqtts://{host}:{self.mqtt}",
            "firmware": {"version": "1.0.0", "seq": 1, "highest_seq": 1, "sha256": ""},
        }  # fmt: skip
        (folder / "factory.json").write_text(json.dumps(made))
        return name

    def is_online(self, device):
        try:
            return self("get_device", device_id=device)["connectivity"] == "online"
        except NotFound:
            return False

    def stored(self, device):
        """Every reading of a device: time and value, in order of time."""
        try:
            (page,) = self("list_readings", metric="temperature", device=device, points=10_000)["items"]
        except NotFound:
            return []
        return [(milliseconds(at), value) for at, value in page["points"]]


def milliseconds(text):
    return text if isinstance(text, int) else round(datetime.fromisoformat(text).timestamp() * 1000)


def until(condition, what):
    """The first true value of a condition."""
    end = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < end, f"{what()}"
        time.sleep(0.02)
    return found


class Running:
    """A device that runs, and what it has said."""

    def __init__(self, words, folder, name):
        self.name, self.folder, self._said = name, folder, folder / "said"
        with self._said.open("wb") as out:
            self._process = subprocess.Popen(words, stdout=out, stderr=subprocess.STDOUT)

    def said(self):
        return self._said.read_text(errors="replace")

    def readings(self):
        """What it has measured: JSON objects, in order."""
        return [json.loads(found) for found in re.findall(r"^reading (\{.*\})$", self.said(), re.MULTILINE)]

    def until(self, condition):
        def checked():
            assert self._process.poll() is None, self.said()[-4000:]
            return condition()

        return until(checked, lambda: self.said()[-4000:])

    def close(self):
        self._process.terminate()
        self._process.wait()
        assert "Sanitizer" not in self.said(), self.said()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    made = Site(tmp_path_factory.mktemp("site"))
    made.start()
    made.claim = made("create_claim", batch="spring", quota=100, models=[MODEL])
    yield made
    made.kill()


def missing(what):
    (pytest.fail if os.environ.get("FLEETCORE_REQUIRE") == "all" else pytest.skip)(what)


def micropython():
    """The words that run MicroPython: the system's, or the Python package in build/ that holds it; none without both."""
    if found := shutil.which("micropython"):
        return (found,)
    folder = ROOT / "build" / "micropython"
    start = (
        f"import sys; sys.path.insert(0, {str(folder)!r}); import micropython_unix; sys.exit(micropython_unix.main())"
    )
    return (sys.executable, "-c", start) if folder.is_dir() else ()


@frozen
class Client:
    """How a client of examples/devices is run.

    Attributes:
        file: below that folder.
        libraries: what one in C is compiled with, by the names of pkg-config.
        by_claim: whether it enrols by the claim certificate of its batch, else by a token.
        interpreter: what runs one in Python.
        makes_keys: whether it can renew with a new key.
    """

    file: str
    libraries: tuple = ()
    by_claim: bool = False
    interpreter: tuple = (sys.executable, "-W", "error")
    makes_keys: bool = True

    @property
    def marks(self):
        return [pytest.mark.peer("openssl", *(("gcc", "pkg-config") if self.libraries else ()))]

    def command(self, folder):
        """The words that run it, before the name of its folder."""
        source = DEVICES / self.file
        if not self.libraries:
            if not self.interpreter:
                missing("the peer 'micropython' is not installed: make services")
            return [*self.interpreter, str(source)]
        if subprocess.run(["pkg-config", "--exists", *self.libraries], check=False).returncode:
            missing(f"the peer libraries {', '.join(self.libraries)} are not all installed: make services")
        gcc = "\n".join(re.findall(r"^ \* {3}((?:gcc|LIBRARIES).*)$", source.read_text(), re.MULTILINE))
        for old, new in (
            ("-Wextra", "-Wextra -Werror -g -fsanitize=address,undefined"),
            (f"-o {source.stem} {self.file}", f"-o {folder}/{source.stem} {source}"),
        ):
            assert old in gcc
            gcc = gcc.replace(old, new)
        done = subprocess.run(["sh", "-c", gcc], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        return [str(folder / source.stem)]


CLIENTS = {
    "stdlib": Client("stdlib_http.py"),
    "paho": Client("paho_mqtt.py"),
    "curl": Client("curl_device.c", ("libcurl", "libcrypto", "libcjson")),
    "mosquitto": Client("mosquitto_device.c", ("libmosquitto", "libcurl", "libcrypto", "libcjson"), by_claim=True),
    "micropython": Client("micropython_style.py", interpreter=micropython(), makes_keys=False),
    "micropython by cpython": Client("micropython_style.py", makes_keys=False),
}


@pytest.fixture(scope="module", params=[pytest.param(name, marks=CLIENTS[name].marks) for name in CLIENTS])
def client(request, tmp_path_factory):
    """A client, and the words that run it."""
    found = CLIENTS[request.param]
    return found, found.command(tmp_path_factory.mktemp(request.param))


@pytest.fixture
def device(client, site, tmp_path):
    """A client that has enrolled and is online, and measures ten times a second."""
    kind, words = client
    name = site.factory(tmp_path / "flash", kind.by_claim)
    running = Running([*words, str(tmp_path / "flash")], tmp_path / "flash", name)
    try:
        running.until(lambda: site.is_online(name))
        site("set_desired", device_id=name, patch={"interval_s": 0.1})
        running.until(lambda: site.stored(name)[3:])
        yield running
    finally:
        running.close()


def all_stored(site, device):
    """Has it measure no more; returns once what it has measured is stored, as it says and once each."""
    site("set_desired", device_id=device.name, patch={"interval_s": 86_400})
    device.until(lambda: site("get_twin", device_id=device.name)["reported"].get("interval_s") == 86_400)
    device.until(lambda: len(site.stored(device.name)) >= len(device.readings()))
    measured, stored = device.readings(), site.stored(device.name)

    assert [value for _, value in stored] == [reading["values"]["temperature"] for reading in measured]
    if "time" in measured[0]:
        assert [at for at, _ in stored] == [reading["time"] for reading in measured]
    else:  # by its age: exact but for the way to the server
        apart = [at - reading["ticks"] for (at, _), reading in zip(stored, measured, strict=True)]
        assert max(apart) - min(apart) < AGE_MS


def test_a_client_has_the_whole_conversation(client, device, site):
    twin = lambda: site("get_twin", device_id=device.name)  # noqa: E731

    site("set_desired", device_id=device.name, patch={"colour": "red"})
    version = twin()["desired_version"]
    device.until(lambda: twin()["acknowledged"] == version)
    assert twin()["reported"]["interval_s"] == 0.1
    assert twin()["refused"].keys() == {"/colour"}

    ran = site("send_command", device_id=device.name, name="identify", args={"times": 3}, wait_s=60)
    assert (ran["state"], ran["output"]) == ("succeeded", {"blinked": 3}), device.said()
    unknown = site("send_command", device_id=device.name, name="dance", wait_s=60)
    assert (unknown["state"], unknown["code"]) == ("rejected", "unknown_command")

    site("create_campaign", id=f"to {device.name}", release="2.0.0", devices=[device.name], from_release="app:2")
    executions = lambda: site("list_executions", campaign=f"to {device.name}")["items"]  # noqa: E731
    device.until(lambda: executions()[0]["state"] in EXECUTION_ENDS)
    assert [(each["state"], each["code"]) for each in executions()] == [("succeeded", None)], device.said()
    said = twin()["reported"]["firmware"]
    assert (said["version"], said["seq"], said["highest_seq"], said["trust"]) == ("2.0.0", 2, 2, 1)
    assert (device.folder / "image").read_bytes() == IMAGE

    operation = site("reissue_certificate", device_id=device.name)
    ended = device.until(
        lambda: (now := site("get_operation", operation=operation["id"]))["state"] != "running" and now
    )
    held = site("list_device_certificates", device_id=device.name)["items"]
    if client[0].makes_keys:
        assert ended["state"] == "succeeded"
        assert sorted(each["state"] for each in held) == ["active", "superseded"]
    else:
        assert twin()["refused"]["/fleetcore/renew"]["code"] == "unsupported"
        assert [each["state"] for each in held] == ["active"]

    all_stored(site, device)


def test_no_reading_is_lost_or_doubled_while_the_server_is_killed(device, site):
    for _ in range(2):
        before = len(device.readings())
        device.until(lambda before=before: len(device.readings()) > before + 5)
        site.kill()
        down = len(device.readings())
        device.until(lambda down=down: len(device.readings()) > down + 5)
        site.start()
        device.until(lambda: len(site.stored(device.name)) > len(device.readings()) - 5)

    all_stored(site, device)


class Relay(socketserver.BaseRequestHandler):
    """Passes bytes on to the same port of 127.0.0.1, as if the server were at another address too."""

    def handle(self):
        with socket.create_connection(("127.0.0.1", self.server.server_address[1])) as server:
            ends = {self.request: server, server: self.request}
            while all(ends.values()):
                for end in select.select(list(ends), (), ())[0]:
                    piece = end.recv(65_536)
                    if not piece:
                        return
                    ends[end].sendall(piece)


@pytest.fixture
def elsewhere(site):
    """An address of the server that is not in its certificate."""
    with contextlib.ExitStack() as stack:
        for port in (site.http, site.mqtt):
            relay = stack.enter_context(socketserver.ThreadingTCPServer(("127.0.0.2", port), Relay))
            relay.daemon_threads = True
            threading.Thread(target=relay.serve_forever, args=(0.05,), daemon=True).start()
            stack.callback(relay.shutdown)
        yield "127.0.0.2"


@pytest.mark.parametrize("wrong", ["CA", "name"])
def test_a_client_gives_nothing_to_a_server_that_it_cannot_verify(client, site, elsewhere, tmp_path, wrong):
    kind, words = client
    flash = tmp_path / "flash"
    name = site.factory(flash, kind.by_claim, elsewhere if wrong == "name" else "localhost")
    if wrong == "CA":  # an attacker's, with a certificate for the right name
        subprocess.run(["sh", "-euc", f"{BENCH} -x509", "bench", "another"], cwd=tmp_path, check=True)
        shutil.copy(tmp_path / "device.csr", flash / "ca.pem")
    running = Running([*words, str(flash)], flash, name)
    try:
        running.until(lambda: running.said().count("offline") == 2)
    finally:
        running.close()

    assert not (flash / "device.pem").exists()
    assert re.search("(?i)certificate|TLS", running.said()), running.said()
