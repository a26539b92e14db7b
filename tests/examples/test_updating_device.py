"""The client that updates itself, against a real server: killed at each step, lied to, and updated from a file."""

import contextlib
import io
import os
import random
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from fleetcore.cli.root import run
from fleetcore.model.firmware import EXECUTION_ENDS

from .site import MODEL, Site, until

DEVICES = Path(__file__).parents[2] / "examples" / "devices"
LOADER = DEVICES / "boot_loader.py"
MODULES = ("boot_loader.py", "stdlib_http.py", "updating_device.py")
START = "import updating_device\nupdating_device.main()\n"
#: Incompressible, the same in each image: a delta leaves it out.
PAYLOAD = random.Random(7).randbytes(300_000)


def image(version, start=START):
    """A program that a slot holds, as zipapp makes it; ``start`` is its ``__main__``."""
    made = io.BytesIO(b"#!/usr/bin/env python3\n")
    made.seek(0, io.SEEK_END)
    with zipfile.ZipFile(made, "a") as archive:
        for name in MODULES:
            archive.writestr(zipfile.ZipInfo(name), (DEVICES / name).read_bytes())
        archive.writestr(zipfile.ZipInfo("payload"), PAYLOAD)
        archive.writestr(zipfile.ZipInfo("version"), version)
        archive.writestr(zipfile.ZipInfo("__main__.py"), start)
    return made.getvalue()


class Powered:
    """A device and its power supply, which starts it again whenever it resets by ending."""

    def __init__(self, folder, name, *, cut="", words=()):
        self.folder, self.name, self.starts = folder, name, 0
        self._said = folder / "said"
        self.start(cut, words)

    def start(self, cut="", words=()):
        self.starts += 1
        with self._said.open("ab") as out:
            self._process = subprocess.Popen(
                [sys.executable, str(LOADER), str(self.folder), *words],
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, "POWER_CUT": cut},
            )

    def said(self):
        return self._said.read_text(errors="replace")

    def tick(self):
        """Starts it again where it has ended; whether it was cut off at its step."""
        code = self._process.poll()
        if code is None:
            return False
        assert "Traceback" not in self.said(), self.said()[-4000:]
        assert "bricked" not in self.said(), self.said()[-4000:]
        self.start()
        return code == -signal.SIGKILL

    def until(self, condition):
        def checked():
            self.tick()
            return condition()

        return until(checked, lambda: self.said()[-4000:])

    def close(self):
        self._process.kill()
        self._process.wait()


class Bench:
    """A site with releases of the updating device."""

    def __init__(self, folder):
        self.site = Site(folder)
        self.names = iter(range(1000))

    def factory(self, folder, *, start=START, **changes):
        import json

        name = self.site.factory(folder)
        (folder / "slot-a.img").write_bytes(image("1.0.0", start))
        made = json.loads((folder / "factory.json").read_bytes())
        made["firmware"] = {"version": "1.0.0", "seq": 1}
        (folder / "factory.json").write_text(json.dumps(made | changes))
        return name

    def run(self, *lines):
        with contextlib.chdir(self.site.folder), contextlib.redirect_stdout(None):
            for words in lines:
                assert run(words.split()) == 0, words

    def release(self, content, version, seq, *, key="maker", model=MODEL, more=""):
        """Signs and uploads; the id of the release."""
        name = f"{version}.bin"
        (self.site.folder / name).write_bytes(content)
        self.run(
            f"firmware sign {name} --key {key}.key --name fw --version {version} --seq {seq} --model {model} {more}",
            f"firmware upload {name} --data fleet-data",
            f"firmware release add {name}.manifest.json --data fleet-data",
        )
        return f"fw:{seq}"


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    made = Bench(tmp_path_factory.mktemp("site"))
    yield made
    made.site.kill()


def test_spike(bench, tmp_path):
    import time
    t = time.time()
    release = bench.release(image("2.0.0"), "2.0.0", 2, more="--chunk 65536")
    print("release", time.time() - t)
    t = time.time()
    flash = tmp_path / "flash"
    name = bench.factory(flash)
    device = Powered(flash, name)
    try:
        device.until(lambda: bench.site.is_online(name))
        print("online", time.time() - t)
        t = time.time()
        bench.site("create_campaign", id="c", release="2.0.0", devices=[name], from_release=release)
        executions = lambda: bench.site("list_executions", campaign="c")["items"]
        device.until(lambda: executions()[0]["state"] in EXECUTION_ENDS)
        print("updated", time.time() - t)
        print(device.said())
        print(executions(), bench.site("get_twin", device_id=name)["reported"])
    finally:
        device.close()
