"""The client that updates itself, against a real server: cut off at each step, lied to, and updated from a file.

The images are real: a slot holds the program that runs, so an update replaces it, and a bad image really does not start.
"""

import contextlib
import hashlib
import http.server
import importlib
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import bsdiff4
import pytest

from fleetcore.cli.bundling import write_bundle
from fleetcore.cli.root import run
from fleetcore.model.firmware import EXECUTION_ENDS
from fleetcore.testing.patience import PATIENCE_S
from fleetcore.testing.ports import free_port

from .site import MODEL, Site, until

ROOT = Path(__file__).parents[2]
DEVICES = ROOT / "examples" / "devices"
LOADER = DEVICES / "boot_loader.py"
MODULES = ("boot_loader.py", "image_sources.py", "stdlib_http.py", "updating_device.py")
START = "import updating_device\nupdating_device.main()\n"
#: Incompressible, the same in each image: a delta leaves it out.
PAYLOAD = random.Random(7).randbytes(300_000)

#: Each moment at which the power is cut, in their order; the one before it has been done.
STEPS = (
    "offer seen",
    "verified",
    "job saved: half written",
    "job saved",
    "spare erased",
    "accepted reported",
    "downloading reported",
    "piece written",
    "half of it written",
    "last piece written",
    "image synced",
    "image verified",
    "slot filled: half written",
    "slot filled",
    "downloaded reported",
    "installing reported",
    "trial begun: half written",
    "trial begun",
    "rebooting reported",
    "start counted: half written",
    "start counted",
    "trial started",
    "version reported",
    "self-test passed",
    "confirmed: half written",
    "confirmed",
    "numbers reported",
    "succeeded reported",
    "end reported",
    "job forgotten: half written",
    "job forgotten",
)
#: Further moments, of updates that do not succeed; the tests of those pass them.
NOT_OF_A_SUCCESS = {"given up", "other slot", "refused"}


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


def client(module):
    """A module of the client."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(DEVICES)
        return importlib.import_module(module)


class Powered:
    """A device and its power supply, which starts it again whenever it ends; ``cut`` is where the power fails once."""

    def __init__(self, folder, name, *, cut="", words=()):
        self.folder, self.name, self.was_cut = folder, name, False
        self._said = folder / "said"
        self.start(cut, words)

    def start(self, cut="", words=()):
        environment = {**os.environ, "POWER_CUT": cut, "PYTHONWARNINGS": "error"}
        line = [sys.executable, str(LOADER), str(self.folder), *map(str, words)]
        with self._said.open("ab") as out:
            self._process = subprocess.Popen(line, stdout=out, stderr=subprocess.STDOUT, env=environment)

    def said(self):
        return self._said.read_text(errors="replace")

    def tick(self):
        """Starts it again where it has ended."""
        code = self._process.poll()
        if code is None:
            return
        self.was_cut |= code == -signal.SIGKILL
        assert not re.search("Traceback|bricked", self.said()), self.said()[-4000:]
        self.start()

    def until(self, condition):
        def checked():
            self.tick()
            return condition()

        return until(checked, lambda: self.said()[-4000:])

    def until_said(self, text):
        return self.until(lambda: text in self.said())

    def record(self):
        """What its flash remembers."""
        return client("boot_loader").Record(self.folder).now

    def kill(self):
        self._process.kill()
        self._process.wait()


class Bench:
    """A site with releases of the updating device; what it starts ends with :meth:`close`."""

    def __init__(self, folder):
        self.coap = free_port()
        self.site = Site(folder, f'\n[protocols.coap]\nlisten = "coaps+tcp://127.0.0.1:{self.coap}"\n')
        self._campaigns = (f"c{number}" for number in range(1000))
        self._seqs = iter(range(2, 1000))

    def run(self, *lines):
        with contextlib.chdir(self.site.folder), contextlib.redirect_stdout(None):
            for words in lines:
                assert run(words.split()) == 0, words

    def factory(self, folder, *, start=START, **changes):
        """A device that leaves its factory with 1.0.0; its name."""
        name = self.site.factory(folder)
        (folder / "slot-a.img").write_bytes(image("1.0.0", start))
        made = json.loads((folder / "factory.json").read_bytes())
        made["firmware"] = {"version": "1.0.0", "seq": 1}
        (folder / "factory.json").write_text(json.dumps(made | changes))
        return name

    def sign(self, content, *, model=MODEL, days=90.0, more="--chunk 65536"):
        """Signs an image under the next seq; its version, seq and manifest."""
        seq = next(self._seqs)
        version = f"{seq}.0.0"
        file = self.site.folder / f"{version}.bin"
        file.write_bytes(content(version) if callable(content) else content)
        self.run(
            f"firmware sign {file.name} --key maker.key --name fw --version {version} --seq {seq} --model {model}"
            f" --days {days} {more}"
        )
        return version, seq, json.loads(Path(f"{file}.manifest.json").read_bytes())

    def release(self, content=image, **given):
        """Signs, uploads and releases an image; its version and the release."""
        version, seq, _ = self.sign(content, **given)
        self.run(
            f"firmware upload {version}.bin --data fleet-data",
            f"firmware release add {version}.bin.manifest.json --data fleet-data",
        )
        return version, f"fw:{seq}"

    def campaign(self, version, devices, **given):
        name = next(self._campaigns)
        self.site("create_campaign", id=name, release=version, devices=devices, **given)
        return name

    def executions(self, campaign):
        return self.site("list_executions", campaign=campaign)["items"]

    def ended(self, campaign, device):
        """How a campaign ended for one device; the reasons that an operator is shown say the same."""

        def found():
            (execution,) = self.executions(campaign)
            return execution["state"] in EXECUTION_ENDS and execution

        execution = device.until(found)
        why = self.site("why_execution", campaign=campaign, device_id=device.name)
        assert (why["state"], why["code"], why["reason"]) == tuple(execution[it] for it in ("state", "code", "reason"))
        return execution["state"], execution["code"], execution["reason"]

    def firmware(self, name):
        """What it reports to run."""
        return self.site("get_twin", device_id=name)["reported"].get("firmware", {})


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    made = Bench(tmp_path_factory.mktemp("site"))
    yield made
    made.site.kill()


@pytest.fixture
def powered():
    """Starts devices, which end with the test."""
    with contextlib.ExitStack() as stack:

        def make(*given, **more):
            device = Powered(*given, **more)
            stack.callback(device.kill)
            return device

        yield make


@pytest.fixture
def device(bench, powered, tmp_path):
    """A device that is online with 1.0.0."""
    name = bench.factory(tmp_path / "flash")
    device = powered(tmp_path / "flash", name)
    device.until(lambda: bench.site.is_online(name))
    return device


def changed(device, **members):
    """Restarts a device after members of its ``factory.json`` have been changed."""
    device.kill()
    file = device.folder / "factory.json"
    file.write_text(json.dumps(json.loads(file.read_bytes()) | members))
    device.start()


# --- a loss of power -----------------------------------------------------------------------------------------------------


def test_the_steps_are_those_of_the_client():
    sources = "".join((DEVICES / name).read_text() for name in ("boot_loader.py", "updating_device.py"))
    named = set(re.findall(r'\bstep\("([^"{]+)"\)', sources))
    saved = set(re.findall(r'\.save\(\s*"([^"]+)"', sources))
    reported = {"accepted", "downloading", "downloaded", "installing", "rebooting", "succeeded"}

    assert (
        named | saved | {f"{state} reported" for state in reported}
        == {step.removesuffix(": half written") for step in STEPS} | NOT_OF_A_SUCCESS
    )


def test_a_device_cut_off_at_any_step_ends_on_the_new_image_and_counts_once(bench, powered, tmp_path):
    version, release = bench.release()
    devices = {}
    for number, cut in enumerate(STEPS):
        flash = tmp_path / str(number)
        name = bench.factory(flash)
        devices[cut] = powered(flash, name, cut=cut)
    names = [device.name for device in devices.values()]

    def all_ticked(condition):
        def checked():
            for device in devices.values():
                device.tick()
            return condition()

        return until(checked, lambda: str({cut: device.said()[-400:] for cut, device in devices.items()}))

    all_ticked(lambda: all(bench.site.is_online(name) for name in names))
    campaign = bench.campaign(version, names, from_release=release)
    all_ticked(lambda: all(it["state"] in EXECUTION_ENDS for it in bench.executions(campaign)))
    all_ticked(lambda: all(device.was_cut and device.record()["job"] is None for device in devices.values()))
    executions = bench.executions(campaign)
    shown = bench.site("get_campaign", campaign=campaign)

    assert {(it["state"], it["attempt"], it["code"]) for it in executions} == {("succeeded", 1, None)}
    assert shown["counts"] == {"succeeded": len(STEPS)}
    assert shown["state"] == "succeeded"
    for cut, device in devices.items():
        record = device.record()
        assert (record["trying"], record["highest_seq"]) == (None, int(version.partition(".")[0])), cut
        assert record["slots"][record["active"]]["version"] == version, cut
        assert bench.firmware(device.name)["version"] == version, cut


def test_a_torn_copy_of_the_record_is_not_believed(bench, device):
    for highest in (2, 3):
        edit_record(device, highest_seq=highest)
    device.kill()
    copies = sorted((device.folder / name for name in ("record-0", "record-1")), key=lambda it: it.stat().st_mtime_ns)
    copies[1].write_bytes(copies[1].read_bytes()[:-20])
    edit_record(device)
    device.until(lambda: bench.firmware(device.name).get("highest_seq") == 2)
    device.kill()
    for copy in copies:
        copy.write_bytes(copy.read_bytes()[:-20])
    line = [sys.executable, LOADER, device.folder]
    said = subprocess.run(line, capture_output=True, text=True, check=False, timeout=PATIENCE_S)

    assert (said.returncode, said.stderr) == (1, "bricked: both copies of the record are damaged\n")


def test_the_page_shows_what_an_update_says(bench, device):
    version, release = bench.release()
    bench.ended(bench.campaign(version, [device.name], from_release=release), device)
    page = (ROOT / "docs" / "how-to" / "update-with-two-slots.md").read_text(encoding="utf-8")
    (shown,) = (text for text in re.findall(r"^```text\n(.*?)^```", page, re.MULTILINE | re.DOTALL) if "boot a" in text)

    said = [line for line in device.said().splitlines() if not re.match("enrolled|reading", line)]
    assert [line.replace(version, "2.0.0") for line in said] == shown.splitlines()
    assert f"each of its {len(STEPS)} steps" in page


# --- images that do not prove themselves ---------------------------------------------------------------------------------

SICK = "import updating_device\nupdating_device.UpdatingDevice.self_test = lambda self: 'no sensor'\n" + START


@pytest.mark.parametrize(
    ("start", "code", "reason"),
    [
        ("raise SystemExit('it crashes')\n", "boot_failed", "it did not come up 3 times"),
        ("import time\nprint('hangs', flush=True)\ntime.sleep(600)\n", "boot_failed", "it did not come up 3 times"),
        (SICK, "health_failed", "no sensor"),
    ],
    ids=["crashes", "hangs", "sick"],
)
def test_an_image_that_does_not_prove_itself_is_left_again_and_told(bench, powered, tmp_path, start, code, reason):
    name = bench.factory(tmp_path / "flash", watchdog_s=1.0 if "hangs" in start else 60)
    device = powered(tmp_path / "flash", name)
    device.until(lambda: bench.site.is_online(name))
    version, release = bench.release(lambda version: image(version, start))
    campaign = bench.campaign(version, [name], from_release=release)

    assert bench.ended(campaign, device) == ("failed", code, reason)
    device.until(lambda: bench.site.is_online(name))
    assert bench.firmware(name)["version"] == "1.0.0"
    assert bench.firmware(name)["highest_seq"] == 1
    # The old image still takes a good one.
    version, release = bench.release()
    campaign = bench.campaign(version, [name], from_release=release)
    assert bench.ended(campaign, device)[0] == "succeeded"


# --- what it refuses -----------------------------------------------------------------------------------------------------


class Mirror(http.server.BaseHTTPRequestHandler):
    """A server that is not the fleet's: it has any content under one path, knows ranges if it wants, and may stop."""

    content, ranges, stops_after = b"", True, None
    asked: tuple = ()

    def do_GET(self):
        type(self).asked = (*self.asked, dict(self.headers))
        start = int(re.findall(r"\d+", self.headers["Range"])[0]) if self.ranges else 0
        rest = self.content[start:]
        self.send_response(206 if self.ranges else 200)
        if self.ranges:
            self.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest[: self.stops_after])

    def log_message(self, *_given):
        pass


@pytest.fixture
def mirror():
    """Serves content: ``mirror(content)`` is its address."""
    kind = type("OneMirror", (Mirror,), {})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()

        def serve(content, **behaviour):
            kind.content, kind.asked = content, ()
            for name, value in behaviour.items():
                setattr(kind, name, value)
            return kind, f"http://127.0.0.1:{server.server_address[1]}/image"

        yield serve
        server.shutdown()


LIES = {
    "truncated": (lambda content: content[:-1], "size_mismatch", "{less} bytes; the manifest says {size}"),
    "oversized": (lambda content: content + b"x", "size_mismatch", "{more} bytes; the manifest says {size}"),
    "poisoned": (lambda content: content[:9] + b"!" + content[10:], "hash_mismatch", "piece at byte 0 does not match"),
}


@pytest.mark.parametrize("lie", LIES)
def test_an_image_that_is_not_the_signed_one_is_refused_with_its_reason(bench, device, mirror, lie):
    change, code, reason = LIES[lie]
    version, _, manifest = bench.sign(image)
    content = (bench.site.folder / f"{version}.bin").read_bytes()
    _, url = mirror(change(content))
    campaign = bench.campaign(version, [device.name], url=url, manifest=manifest)

    state, found, why = bench.ended(campaign, device)
    size = len(content)
    assert (state, found) == ("rejected", code)
    assert reason.format(less=size - 1, more=size + 1, size=size) in why
    assert device.record()["active"] == "a"


def test_an_image_without_digests_of_its_pieces_is_compared_as_a_whole(bench, device, mirror):
    version, _, manifest = bench.sign(image, more="")
    content = (bench.site.folder / f"{version}.bin").read_bytes()
    _, url = mirror(content[:-1] + b"!", ranges=False)
    campaign = bench.campaign(version, [device.name], url=url, manifest=manifest)

    assert bench.ended(campaign, device)[:2] == ("rejected", "hash_mismatch")
    assert not (device.folder / "slot-b.img").exists()


def test_a_device_refuses_what_its_server_was_wrong_to_offer(bench, device):
    version, release = bench.release()
    refused = []

    def offered(**given):
        campaign = bench.campaign(version, [device.name], from_release=release, **given)
        refused.append(bench.ended(campaign, device)[:2])

    changed(device, model="T-2000")
    offered()
    changed(device, model=MODEL, slot_bytes=1000)
    offered()
    changed(device, slot_bytes=1 << 30)
    device.kill()
    shutil.copy(device.folder / "trust.json", device.folder / "kept.json")
    shutil.copy(bench.site.folder / "forged.json", device.folder / "trust.json")
    device.start()
    offered()
    device.kill()
    shutil.copy(device.folder / "kept.json", device.folder / "trust.json")
    shutil.copy(device.folder / "command.pub", device.folder / "kept.pub")
    shutil.copy(bench.site.folder / "another.pub", device.folder / "command.pub")
    device.start()
    offered()
    device.kill()
    shutil.copy(device.folder / "kept.pub", device.folder / "command.pub")
    edit_state(device, signed_ms=lambda was: was + 100 * 86_400_000)
    changed(device, clock=False)
    offered()
    edit_state(device, signed_ms=lambda was: was - 100 * 86_400_000)
    edit_record(device, highest_seq=900)
    offered(allow_downgrade=True)

    assert refused == [
        ("rejected", "model_mismatch"),
        ("rejected", "no_space"),
        ("rejected", "signature_invalid"),
        ("rejected", "signature_invalid"),
        ("rejected", "manifest_expired"),
        ("rejected", "rollback_refused"),
    ]
    assert device.record()["active"] == "a"
    assert not (device.folder / "slot-b.img").exists()


def edit_state(device, **changes):
    device.kill()
    file = device.folder / "state.json"
    state = json.loads(file.read_bytes())
    file.write_text(json.dumps(state | {name: change(state[name]) for name, change in changes.items()}))
    device.start()


def edit_record(device, **changes):
    device.kill()
    client("boot_loader").Record(device.folder).save("edited", **changes)
    device.start()


# --- where the image comes from --------------------------------------------------------------------------------------------


def test_a_download_goes_on_from_another_server_and_gives_it_no_credentials(bench, powered, tmp_path, mirror):
    version, _, manifest = bench.sign(image)
    content = (bench.site.folder / f"{version}.bin").read_bytes()
    served, url = mirror(content, stops_after=100_000)
    name = bench.factory(tmp_path / "flash")
    device = powered(tmp_path / "flash", name)
    device.until(lambda: bench.site.is_online(name))
    campaign = bench.campaign(version, [name], url=url, manifest=manifest)
    device.until_said("broken off url")
    served.stops_after = None

    assert bench.ended(campaign, device)[0] == "succeeded"
    assert (device.folder / "slot-b.img").read_bytes() == content
    ranges = [headers["Range"] for headers in served.asked]
    assert ranges[0] == "bytes=0-"
    assert ranges[1] == f"bytes={100_000 // 65_536 * 65_536}-", "only complete pieces were verified, and kept"
    assert not [headers for headers in served.asked if headers.keys() & {"Authorization", "Cookie"}]


def test_a_download_goes_on_over_coap_where_https_broke_off(bench, powered, tmp_path):
    version, release = bench.release()
    # An image whose HTTPS gives up after some pieces of each download.
    broken = (
        "import image_sources, updating_device\n"
        "whole = updating_device.over_http\n"
        "def some(server, path, at, size):\n"
        "    for number, piece in enumerate(whole(server, path, at, size)):\n"
        "        if number == 3:\n"
        "            server.close()\n"
        "            raise ConnectionError('the line is dead')\n"
        "        yield piece\n"
        "updating_device.over_http = some\n"
        "updating_device.main()\n"
    )
    name = bench.factory(tmp_path / "flash", start=broken, coap=f"coaps+tcp://localhost:{bench.coap}")
    device = powered(tmp_path / "flash", name)
    device.until(lambda: bench.site.is_online(name))
    campaign = bench.campaign(version, [name], from_release=release)

    assert bench.ended(campaign, device)[0] == "succeeded"
    assert re.findall(r"loading (\w+) from byte (\d+)", device.said()) == [("https", "0"), ("coap", str(3 * 65_536))]


def test_a_delta_is_used_where_it_fits_the_running_slot_and_else_the_whole_is_loaded(bench, powered, tmp_path):
    base, base_release = bench.release()
    version, release = bench.release()
    bench.run(f"firmware delta make {base_release} {release} --data fleet-data")
    file = bench.site.folder / f"{base}.bin"
    digest = subprocess.run(["sha256sum", file], capture_output=True, text=True, check=True).stdout.split()[0]
    # One runs the base of the delta. The other says so, and runs another image.
    liar = (
        "import updating_device\n"
        "class Liar(updating_device.UpdatingDevice):\n"
        "    def report(self):\n"
        "        true = self.state['firmware']['sha256']\n"
        f"        self.state['firmware']['sha256'] = '{digest}'\n"
        "        super().report()\n"
        "        self.state['firmware']['sha256'] = true\n"
        "updating_device.UpdatingDevice = Liar\n"
        "updating_device.main()\n"
    )
    said = {}
    for flash, start in ((tmp_path / "fits", START), (tmp_path / "lies", liar)):
        name = bench.factory(flash, start=start)
        if start == START:
            shutil.copy(file, flash / "slot-a.img")
        device = powered(flash, name)
        device.until(lambda name=name: bench.firmware(name).get("sha256") == digest)
        campaign = bench.campaign(version, [name], from_release=release)
        assert bench.ended(campaign, device)[0] == "succeeded", device.said()
        said[flash.name] = re.findall(r"^(delta|loading) .*", device.said(), re.MULTILINE)

    assert said == {"fits": ["delta"], "lies": ["loading"]}


def test_a_delta_that_is_damaged_is_dropped():
    patched = client("image_sources").patched
    old, new = image("1.0.0"), image("2.0.0")
    delta = bsdiff4.diff(old, new)
    assert b"".join(patched(old, delta, len(new))) == new
    for at in range(0, len(delta), 7):
        damaged = delta[:at] + bytes([delta[at] ^ 0x41]) + delta[at + 1 :]
        made = b""
        with contextlib.suppress(ValueError, OSError):
            for piece in patched(old, damaged, len(new)):
                made += piece
        assert len(made) <= len(new)
    for wrong in (old[: len(old) // 3], b""):
        with pytest.raises(ValueError, match="it says more than there is"):
            b"".join(patched(wrong, delta, len(new)))


# --- from a file -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def bundle(bench):
    """Makes a release and its bundle: version, release and file."""

    def make(**given):
        version, release = bench.release(**given)
        bench.run(f"firmware bundle {release} {version}.bin --data fleet-data")
        return version, release, bench.site.folder / f"{version}.bin.update"

    return make


@pytest.fixture
def offline(bench, powered, tmp_path):
    """A device that has been online once, and has no network now."""
    name = bench.factory(tmp_path / "flash")
    device = powered(tmp_path / "flash", name)
    device.until(lambda: bench.site.is_online(name))
    changed(device, http="https://localhost:9")
    device.until_said("offline")
    device.kill()
    return device


def test_a_device_without_a_network_is_updated_from_a_file_and_a_waiting_campaign_counts_it_once(
    bench, offline, bundle
):
    version, release, file = bundle()
    campaign = bench.campaign(version, [offline.name], from_release=release)
    offline.start(words=["--from-file", file])
    offline.until_said(f"confirmed {version}")
    changed(offline, http=f"https://localhost:{bench.site.http}")

    assert bench.ended(campaign, offline)[:2] == ("skipped", "same_version")
    assert bench.site("get_campaign", campaign=campaign)["counts"] == {"skipped": 1}
    assert bench.firmware(offline.name)["version"] == version
    assert offline.said().count("firmware downloading") == 0


def test_a_file_of_a_newer_image_ends_a_waiting_campaign_with_its_reason(bench, offline, bundle):
    older, release = bench.release()
    campaign = bench.campaign(older, [offline.name], from_release=release)
    version, _, file = bundle()
    offline.start(words=["--from-file", file])
    offline.until_said(f"confirmed {version}")
    changed(offline, http=f"https://localhost:{bench.site.http}")

    assert bench.ended(campaign, offline)[:2] == ("rejected", "rollback_refused")


def test_a_file_is_refused_as_an_offer_is(bench, offline, bundle, tmp_path):
    _, _, file = bundle()
    content = file.read_bytes()
    at = {
        "an envelope": content.index(b'"payload"') + 200,
        "the image": len(content) - 20_000,
    }
    refused = {}
    for what, place in at.items():
        (tmp_path / "flipped").write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        refused[what] = refusal(offline, tmp_path / "flipped")
    (tmp_path / "cut").write_bytes(content[: len(content) // 2])
    refused["a part"] = refusal(offline, tmp_path / "cut")
    (tmp_path / "none").write_bytes(b"no archive")
    refused["no archive"] = refusal(offline, tmp_path / "none")
    _, _, other = bundle(model="T-2000")
    refused["another model"] = refusal(offline, other)
    edit_record(offline, highest_seq=900)
    offline.kill()
    refused["an older one"] = refusal(offline, file)

    assert refused == {
        "an envelope": "signature_invalid",
        "the image": "hash_mismatch",
        "a part": "schema_invalid",
        "no archive": "schema_invalid",
        "another model": "model_mismatch",
        "an older one": "rollback_refused",
    }
    assert offline.record()["active"] == "a"


def refusal(device, file):
    """The code with which a device refuses a file."""
    device.kill()
    before = device.said().count("file refused")
    device.start(words=["--from-file", file])
    device.until(lambda: device.said().count("file refused") > before)
    device.kill()
    return re.findall(r"^file refused (\w+)", device.said(), re.MULTILINE)[-1]


def test_a_device_without_a_clock_refuses_what_had_expired_when_the_server_last_signed(bench, powered, tmp_path):
    version, _, manifest = bench.sign(image, days=0.000002)
    expired, file = bench.site.folder / f"{version}.bin", tmp_path / "expired.update"
    roots = [root["envelope"] for root in bench.site("list_firmware_roots")["items"]]
    digest = hashlib.sha256(expired.read_bytes()).hexdigest()
    write_bundle(file, manifest, roots, expired, digest, expired.stat().st_size)
    name = bench.factory(tmp_path / "flash", clock=False)
    device = powered(tmp_path / "flash", name)
    device.until(lambda: bench.site.is_online(name))
    # It learns the server's time from an update.
    good, release = bench.release()
    assert bench.ended(bench.campaign(good, [name], from_release=release), device)[0] == "succeeded"
    edit_record(device, highest_seq=1)
    signed_ms = json.loads((device.folder / "state.json").read_bytes())["signed_ms"]

    assert refusal(device, file) == "manifest_expired"
    edit_state(device, signed_ms=lambda _was: 0)
    device.kill()
    assert abs(signed_ms - time.time() * 1000) < 60_000
    # Nothing but that time refuses it.
    device.start(words=["--from-file", file])
    device.until_said(f"confirmed {version}")
