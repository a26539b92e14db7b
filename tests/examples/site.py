"""A server in a process of its own with its operator, and devices that run beside it: for tests of examples/devices."""

import asyncio
import contextlib
import json
import re
import shutil
import subprocess
import sys
import time
from datetime import datetime

from fleetcore.cli.root import run
from fleetcore.errors import NotFound
from fleetcore.frontends.control_client import ControlClient
from fleetcore.testing.patience import PATIENCE_S
from fleetcore.testing.ports import free_port

MODEL = "T-1000"
IMAGE = bytes(range(256)) * 1000

#: Makes a key and a request for a device, where it is flashed.
BENCH = """openssl ecparam -name prime256v1 -genkey -noout -out device.key
openssl req -new -key device.key -subj "/CN=$1" -out device.csr"""

#: A signed image; a trust root, which devices leave the factory with, and the next one, which the fleet has.
_SIGNING = f"""
firmware keygen root
firmware keygen next
firmware keygen maker
firmware trust init trust.json --root root.pub --firmware maker.pub
firmware trust sign trust.json --key root.key
firmware trust init trust-2.json --after trust.json --root next.pub
firmware trust sign trust-2.json --key root.key
firmware trust sign trust-2.json --key next.key
firmware sign app.bin --key maker.key --name app --version 2.0.0 --seq 2 --model {MODEL} --chunk 65536
firmware trust set trust.json --data fleet-data
firmware trust set trust-2.json --data fleet-data
firmware upload app.bin --data fleet-data
firmware release add app.bin.manifest.json --data fleet-data
"""
#: The same for an attacker, whom no device trusts.
_FORGED = """
firmware keygen another
firmware trust init forged.json --root another.pub --firmware another.pub
firmware trust sign forged.json --key another.key
"""


def until(condition, told):
    """The first true value of a condition; ``told`` explains why it did not come."""
    end = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < end, told()
        time.sleep(0.02)
    return found


class Site:
    """The server, whose name is localhost, and calls of its operator: ``site("get_device", device_id=…)``.

    ``settings`` is more of its fleet.toml.
    """

    def __init__(self, folder, settings=""):
        self.folder, self.data = folder, folder / "fleet-data"
        self.http, self.mqtt = free_port(), free_port()
        self._names = iter(range(1, 1000))
        (folder / "app.bin").write_bytes(IMAGE)
        with contextlib.chdir(folder), contextlib.redirect_stdout(None):
            for words in ("init fleet-data --host localhost", *(_SIGNING + _FORGED).split("\n")):
                assert not words or run(words.split()) == 0, words
        toml = self.data / "fleet.toml"
        text = toml.read_text().replace("0.0.0.0", "127.0.0.1")
        toml.write_text(text.replace(":8443", f":{self.http}").replace(":8883", f":{self.mqtt}") + settings)
        self.start()
        self._claim = self("create_claim", batch="spring", quota=100, models=[MODEL])

    def start(self):
        words = [sys.executable, "-m", "fleetcore", "serve", "--data", str(self.data)]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=log, text=True)
        assert "ready\n" in self._process.stdout, (self.folder / "log").read_text()[-4000:]

    def kill(self):
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()

    def __call__(self, call, **given):
        return asyncio.run(ControlClient(self.data).run(call, given))

    def factory(self, folder, *, by_claim=False, host="localhost"):
        """The id of a device, and the flash with which it leaves its factory; one with a claim is not registered."""
        name, token = f"th-{next(self._names)}", None
        if not by_claim:
            self("create_device", id=name, type="thermometer", model=MODEL)
            token = self("create_enrollment_token", device=name)["token"]
        folder.mkdir()
        for source in (self.data / "pki" / "ca.pem", self.data / "pki" / "command.pub", self.folder / "trust.json"):
            shutil.copy(source, folder)
        for file, member in (("claim.pem", "certificate"), ("claim.key", "key")):
            (folder / file).write_text(self._claim[member])
        subprocess.run(["sh", "-euc", BENCH, "bench", name], cwd=folder, check=True, stderr=subprocess.DEVNULL)
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
        """Every reading of a device: time in ms and value, in order of time."""
        try:
            (page,) = self("list_readings", metric="temperature", device=device, points=10_000)["items"]
        except NotFound:
            return []
        return [(round(datetime.fromisoformat(at).timestamp() * 1000), value) for at, value in page["points"]]


class Running:
    """A device that runs, and what it says."""

    def __init__(self, words, folder, name):
        self.name, self.folder, self._said = name, folder, folder / "said"
        self._words = [*words, str(folder)]
        self.start()

    def start(self):
        with self._said.open("ab") as out:
            self._process = subprocess.Popen(self._words, stdout=out, stderr=subprocess.STDOUT)

    def kill(self):
        """As a loss of power."""
        self._process.kill()
        self._process.wait()

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
        """Asks it to end; a program in C is compiled so that it then reports memory that it has lost."""
        self._process.terminate()
        self._process.wait()
        assert "Sanitizer" not in self.said(), self.said()
