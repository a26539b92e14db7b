"""The tutorial of the gateway, literally: a core, a gateway and its function as a reader makes them, and an outage.

As in the first ten minutes, the ports differ, and how long the simulated devices send.
"""

import itertools
import re
import shutil
import signal
import time
from pathlib import Path

import pytest

from fleetcore.testing.patience import PATIENCE_S
from tests.examples.test_tutorial import Reader

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "tutorials" / "a-gateway.md"
VALUE = re.compile(r"^\d{4}-.*Z +(-?[\d.]+)", re.MULTILINE)


def values(text):
    return [float(value) for value in VALUE.findall(text)]


def until(look):
    deadline = time.monotonic() + PATIENCE_S
    while not (found := look()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return found


@pytest.mark.peer("clang-14", "wasm-ld-14")
def test_every_block_of_the_gateways_tutorial_does_what_the_page_says(tmp_path):
    reader = Reader(tmp_path, PAGE, ("8443", "8883", "9443", "9883"))
    shutil.copy(ROOT / "plugins/fleetcore-edge/sdk/c/fleetcore_function.h", tmp_path)
    (source,) = re.findall(r"^```c\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    (tmp_path / "quiet.c").write_text(source)
    reader.types(reader.block("fleetcore init core"))
    ports(reader, tmp_path / "core")

    with reader.serving(signal.SIGTERM, "fleetcore serve --data core"):
        enrol = reader.block("edge enroll").split("sed -i")
        assert "gw-1 has its certificate" in reader.types(enrol[0])
        ports(reader, tmp_path / "gateway", {"8443": "9443", "8883": "9883"})
        with reader.serving(signal.SIGTERM, "fleetcore edge run"):
            reader.types(reader.block("clang-14 --target"))
            until(lambda: "engine" in reader.types("fleetcore twin show gw-1 --data core -o json"))
            assert re.search(r"quiet +1\.0\.0 +1\.0\.0 +running +yes", reader.types(reader.block("edge deploy")))
            sent, shown = reader.block("--prefix pump").splitlines()
            reader.types(sent)
            found = until(lambda: values(reader.types(shown)))
            assert all(abs(after - before) > 0.1 for before, after in itertools.pairwise(found))
    with reader.serving(signal.SIGTERM, "fleetcore edge run"):
        here = values(reader.types(reader.block("--prefix valve")))
        assert here
        shown = reader.block("telemetry query valve-0001 temperature --data core")
        with reader.serving(signal.SIGTERM, "fleetcore serve --data core"):
            there = until(lambda: values(reader.types(f"{shown.strip()} || true")))
    assert set(there) <= set(here)


def ports(reader, folder, more=None):
    """The ports of a fleet.toml, as in the page's sed lines; the uplink's are the core's."""
    file = folder / "fleet.toml"
    listeners, uplink, rest = file.read_text().partition("[services.uplink]")
    for old, new in (more or {}).items():
        listeners = listeners.replace(f":{old}", f":{new}")
    for port in ("8443", "8883", "9443", "9883"):
        listeners, rest = (text.replace(f":{port}", f":{reader.changed[port]}") for text in (listeners, rest))
    file.write_text(listeners + uplink + rest)
