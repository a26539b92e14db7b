"""The repository speaks of the project alone."""

import re
import subprocess
from pathlib import Path

from fleetcore.testing.patience import PATIENCE_S

ROOT = Path(__file__).parents[2]


def tracked() -> list[Path]:
    out = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    return [ROOT / name for name in out.stdout.split()]


def test_no_package_registry_is_named() -> None:
    hosts = re.compile("py" + r"pi\.org|python" + r"hosted\.org|registry\.np" + r"mjs|deb\.deb" + r"ian\.org")

    named = [
        file.name for file in tracked() if file.is_file() and hosts.search(file.read_bytes().decode("utf-8", "ignore"))
    ]

    assert named == []


def test_the_lock_pins_every_package_by_hash() -> None:
    lines = (ROOT / "requirements.lock").read_text().replace("\\\n", " ").splitlines()

    loose = [line for line in lines if line.strip() and not line.startswith("#") and "--hash=sha256:" not in line]

    assert loose == []
