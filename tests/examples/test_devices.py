"""The clients of examples/devices against a real server: each has the whole conversation, and survives its failures.

The tests play the operator's part and look at the outcome from the server's side. The clients run as they stand; those in C are
compiled with the command at their top, and the sanitizers.
"""

import ast
import contextlib
import hashlib
import importlib.util
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
from pathlib import Path

import pytest
from attrs import frozen
from cryptography.hazmat.primitives.asymmetric import ed25519

from fleetcore.model.firmware import EXECUTION_ENDS

from .site import BENCH, IMAGE, Running, Site

ROOT = Path(__file__).parents[2]
DEVICES = ROOT / "examples" / "devices"
#: How long a message may be under way; a reading that comes with its age is later by that.
UNDER_WAY_MS = 5000


CPYTHON = (sys.executable, "-W", "error")


def missing(what):
    (pytest.fail if os.environ.get("FLEETCORE_REQUIRE") == "all" else pytest.skip)(what)


def micropython():
    """The words that run MicroPython: the system's, or the Python package that holds it; none without both."""
    if found := shutil.which("micropython"):
        return (found,)
    folder = ROOT / "build" / "micropython"
    start = (
        f"import sys; sys.path.insert(0, {str(folder)!r}); import micropython_unix; sys.exit(micropython_unix.main())"
    )
    return (sys.executable, "-c", start) if (folder / "micropython_unix.py").exists() else ()


@frozen
class Client:
    """How a client is run.

    Attributes:
        libraries: what one in C is compiled with, by the names of pkg-config.
        by_claim: whether it enrols by the claim certificate of its batch, else by a token.
        interpreter: what runs one in Python.
        makes_keys: whether it can renew with a new key.
    """

    file: str
    libraries: tuple = ()
    by_claim: bool = False
    interpreter: tuple = CPYTHON
    makes_keys: bool = True

    def command(self, folder):
        """The words that run it, before the name of its flash."""
        source = DEVICES / self.file
        if not self.libraries:
            if not self.makes_keys and not micropython() and os.environ.get("FLEETCORE_REQUIRE") == "all":
                pytest.fail("the peer 'micropython' is not installed, and FLEETCORE_REQUIRE=all")
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
    # Where MicroPython is not installed, CPython runs it.
    "micropython": Client("micropython_style.py", interpreter=micropython() or CPYTHON, makes_keys=False),
}


def params():
    for name, client in CLIENTS.items():
        peers = ("openssl", "gcc", "pkg-config") if client.libraries else ("openssl",)
        yield pytest.param(name, marks=pytest.mark.peer(*peers))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    made = Site(tmp_path_factory.mktemp("site"))
    yield made
    made.kill()


@pytest.fixture(scope="module", params=params())
def client(request, tmp_path_factory):
    """A client, and the words that run it."""
    found = CLIENTS[request.param]
    return found, found.command(tmp_path_factory.mktemp(request.param))


@pytest.fixture
def flash(tmp_path):
    return tmp_path / "flash"


@contextlib.contextmanager
def running(client, site, flash, change=lambda _flash: None, host="localhost"):
    """A device that has left its factory; ``change`` is made to its flash there."""
    kind, words = client
    name = site.factory(flash, by_claim=kind.by_claim, host=host)
    change(flash)
    device = Running(words, flash, name)
    try:
        yield device
    finally:
        device.close()


@pytest.fixture
def device(client, site, flash):
    """A client that has enrolled and is online, and measures ten times a second."""
    with running(client, site, flash) as device:
        device.until(lambda: site.is_online(device.name))
        site("set_desired", device_id=device.name, patch={"interval_s": 0.1})
        device.until(lambda: site.stored(device.name)[3:])
        yield device


def update(site, device):
    """Starts a campaign for a device; how it has ended for it, as state and code."""
    campaign = f"to {device.name}"
    site("create_campaign", id=campaign, release="2.0.0", devices=[device.name], from_release="app:2")
    executions = lambda: site("list_executions", campaign=campaign)["items"]  # noqa: E731
    device.until(lambda: executions()[0]["state"] in EXECUTION_ENDS)
    (ended,) = executions()
    return ended["state"], ended["code"]


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
        assert max(apart) - min(apart) < UNDER_WAY_MS


def test_a_client_has_the_whole_conversation(client, device, site):
    twin = lambda: site("get_twin", device_id=device.name)  # noqa: E731

    site("set_desired", device_id=device.name, patch={"colour/1": "red"})
    version = twin()["desired_version"]
    device.until(lambda: twin()["acknowledged"] == version)
    assert twin()["reported"]["interval_s"] == 0.1
    assert twin()["refused"].keys() == {"/colour~11"}

    ran = site("send_command", device_id=device.name, name="identify", args={"times": 3}, wait_s=60)
    assert (ran["state"], ran["output"]) == ("succeeded", {"blinked": 3}), device.said()
    unknown = site("send_command", device_id=device.name, name="dance", wait_s=60)
    assert (unknown["state"], unknown["code"]) == ("rejected", "unknown_command")

    assert update(site, device) == ("succeeded", None), device.said()
    said = twin()["reported"]["firmware"]
    assert [said[name] for name in ("version", "seq", "highest_seq", "trust")] == ["2.0.0", 2, 2, 2]
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
    secret = "claim.key" if client[0].by_claim else "fc_enr_"
    assert not [
        file.name for file in device.folder.iterdir() if secret in file.name or secret in file.read_text("latin-1")
    ]


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


@pytest.mark.parametrize("there", [IMAGE[:100_000], bytes(100_000)], ids=["intact", "damaged"])
def test_a_download_goes_on_after_a_loss_of_power(client, site, flash, there):
    with running(client, site, flash) as device:
        device.until(lambda: site.is_online(device.name))
        device.kill()
        state = json.loads((flash / "state.json").read_text())
        state["loading"] = hashlib.sha256(IMAGE).hexdigest()
        (flash / "state.json").write_text(json.dumps(state))
        (flash / "image.part").write_bytes(there)
        device.start()

        assert update(site, device) == ("succeeded", None), device.said()

    assert (flash / "image").read_bytes() == IMAGE


def test_a_client_neither_runs_nor_installs_what_others_have_signed(client, site, flash):
    def change(flash):
        shutil.copy(site.folder / "forged.json", flash / "trust.json")
        shutil.copy(site.folder / "another.pub", flash / "command.pub")

    with running(client, site, flash, change) as device:
        device.until(lambda: site.is_online(device.name))
        ran = site("send_command", device_id=device.name, name="identify", wait_s=60)

        assert (ran["state"], ran["code"]) == ("rejected", "signature_invalid")
        assert update(site, device) == ("rejected", "signature_invalid")
    assert not (flash / "image").exists()


class Relay(socketserver.BaseRequestHandler):
    """Passes bytes on to the same port of 127.0.0.1, as if the server were at another address too."""

    def handle(self):
        with socket.create_connection(("127.0.0.1", self.server.server_address[1])) as server:
            ends = {self.request: server, server: self.request}
            while True:
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
def test_a_client_gives_nothing_to_a_server_that_it_cannot_verify(client, site, elsewhere, flash, wrong):
    def change(flash):
        if wrong == "CA":  # an attacker's, with a certificate for the right name
            subprocess.run(["sh", "-euc", f"{BENCH} -x509", "bench", "another"], cwd=flash.parent, check=True)
            shutil.copy(flash.parent / "device.csr", flash / "ca.pem")

    with running(client, site, flash, change, elsewhere if wrong == "name" else "localhost") as device:
        device.until(lambda: device.said().count("offline") == 2)

        assert re.search("(?i)certificate|TLS", device.said()), device.said()
    assert not (flash / "device.pem").exists()


# --- what only MicroPython's client does itself -------------------------------------------------------------------------

#: Modules that MicroPython has on each board with a network.
_IN_MICROPYTHON = {
    "binascii", "errno", "hashlib", "json", "os", "select", "socket", "ssl", "struct", "sys", "time",
}  # fmt: skip
#: What of the grammar it lacks, or has only on large boards.
_NOT_IN_MICROPYTHON = (ast.Match, ast.AnnAssign, ast.AsyncFunctionDef, ast.NamedExpr, ast.TryStar)


def is_in_micropython(node):
    if isinstance(node, ast.List | ast.Tuple) and isinstance(node.ctx, ast.Load):
        return not any(isinstance(one, ast.Starred) for one in node.elts)
    return not isinstance(node, _NOT_IN_MICROPYTHON)


@pytest.fixture(scope="module")
def small():
    """The client for MicroPython, as a module."""
    spec = importlib.util.spec_from_file_location("micropython_style", DEVICES / "micropython_style.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_client_for_micropython_has_only_what_micropython_has():
    nodes = list(ast.walk(ast.parse((DEVICES / "micropython_style.py").read_text())))

    imported = {name.name for node in nodes if isinstance(node, ast.Import | ast.ImportFrom) for name in node.names}
    assert imported <= _IN_MICROPYTHON
    assert not [node.lineno for node in nodes if isinstance(node, _NOT_IN_MICROPYTHON)]
    assert not [
        node.lineno for node in nodes if isinstance(node, ast.List) for one in node.elts if isinstance(one, ast.Starred)
    ]


@pytest.mark.parametrize("length", [0, 1, 111, 112, 127, 128, 240, 1000])
def test_its_sha512_is_the_one_of_others(small, length):
    message = bytes(at * 7 % 256 for at in range(length))

    assert small.sha512(message) == hashlib.sha512(message).digest()


def test_its_ed25519_accepts_what_was_signed_and_nothing_else(small):
    key = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    raw, order = key.public_key().public_bytes_raw(), small.L
    for length in range(0, 200, 33):
        message = bytes(length)
        signature = key.sign(message)
        assert small.is_signed(raw, signature, message)
        assert not small.is_signed(raw, signature, message + b"x")
        for at in range(0, 64, 7):
            assert not small.is_signed(raw, signature[:at] + bytes([signature[at] ^ 1]) + signature[at + 1 :], message)
        more = (int.from_bytes(signature[32:], "little") + order).to_bytes(32, "little")
        assert not small.is_signed(raw, signature[:32] + more, message), "a second signature from the first"
        assert not small.is_signed(raw, signature[:63], message)
        assert not small.is_signed(b"\xff" * 32, signature, message)


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2026-11-30T14:46:22.894Z", 1796049982894),
        ("2024-02-29T00:00:00.000Z", 1709164800000),
        ("2027-03-01T00:00:00.001Z", 1803859200001),
        ("2099-12-31T23:59:59Z", 4102444799000),
    ],
)
def test_its_times_are_those_of_the_calendar(small, text, time):
    assert small.ms(text) == time
