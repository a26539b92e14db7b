"""An earlier state of the repository to compare with: unpacked into a folder, its packages used from there.

A module of ours runs in a process of its own, with our packages or with those of that state.
"""

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

_HERE = Path(__file__).parent

#: Before open commands were kept in memory and a group of commits was written as one.
COMMIT = "e460a49"


@contextmanager
def earlier(commit: str = COMMIT) -> Iterator[Path | None]:
    """A folder with the files of ``commit``; None outside a git checkout, or in one that does not reach back."""
    with TemporaryDirectory() as folder:
        packed = Path(folder) / "earlier.tar"
        asked = ["git", "-C", str(_HERE.parent), "archive", "-o", str(packed), commit]
        try:
            subprocess.run(asked, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            yield None
            return
        with tarfile.open(packed) as archive:
            archive.extractall(Path(folder) / "tree", filter="data")
        yield Path(folder) / "tree"


def command(module: str, checkout: Path | None) -> tuple[list[str], dict[str, str]]:
    """How a module of ours is run with the packages of a checkout, or with our own: its command and environment."""
    if checkout is None:
        return [sys.executable, "-m", f"benchmarks.{module}"], dict(os.environ)
    # By its path: ``benchmarks`` itself would be the checkout's.
    packages = (checkout, *sorted((checkout / "plugins").glob("*")))
    path = os.pathsep.join(map(str, packages))
    return [sys.executable, str(_HERE / f"{module}.py")], {**os.environ, "PYTHONPATH": path}


def measure(module: str, task: Mapping[str, Any], checkout: Path | None = None) -> dict[str, Any]:
    """What a module prints last for a task."""
    words, environment = command(module, checkout)
    done = subprocess.run(
        [*words, json.dumps(task)], env=environment, cwd=_HERE.parent, stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
