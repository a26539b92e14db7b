"""The defaults are offered like everybody's, and importing them costs nothing."""

import subprocess
import sys
from pathlib import Path

import fleetcore
from fleetcore.builtin import plugin
from fleetcore.interfaces.provider import Limits
from fleetcore.testing import context

ROOT = Path(fleetcore.__file__).parents[1]


def test_all_kinds_have_their_defaults():
    offers = {
        hook: [offer.name for offer in getattr(plugin, f"fleetcore_{hook}")()]
        for hook in ("storages", "codecs", "protocols", "detectors", "notifiers")
    }

    assert offers == {
        "storages": ["sqlite"],
        "codecs": ["json", "senml", "cbor"],
        "protocols": ["local"],
        "detectors": ["threshold", "statistical", "silence"],
        "notifiers": ["log"],
    }


def test_importing_the_plugin_imports_nothing_heavy():
    code = (
        "import sys; import fleetcore.builtin.plugin;"
        "print(*sorted({'cbor2', 'sqlite3', 'cryptography', 'click', 'rich'} & set(sys.modules)))"
    )

    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)

    assert run.stdout.strip() == ""


async def test_codecs_take_the_fleet_and_its_limits():
    payloads = {
        "json": b'{"a":[[1]]}',
        "senml": b'[{"n":"a","v":[[1]]}]',
        "cbor": bytes.fromhex("a16161818101"),
    }
    for offer in plugin.fleetcore_codecs():
        async with offer.opener(offer.config_class(), context(fleet="lab", limits=Limits(json_depth=2))) as codec:
            assert codec.decode(payloads[offer.name], 0).limit == 2

        if offer.name == "senml":
            pack = b'[{"n":"urn:fleetcore:device:lab:d/x","v":1}]'
            assert codec.decode(pack, 0).readings[0].subject == "d"


async def test_detectors_and_notifiers_open():
    for offer in plugin.fleetcore_detectors():
        config = offer.config_class(**({"above": 1} if offer.name == "threshold" else {}))
        async with offer.opener(config, context()) as detector:
            detector.restore(detector.snapshot())
    for offer in plugin.fleetcore_notifiers():
        async with offer.opener(offer.config_class(), context()) as notifier:
            await notifier.notify([])
