"""Measurements in processes of their own, also on an earlier state of the repository.

``FLEETCORE_BEFORE`` names a checkout of that state (``git worktree add PATH COMMIT``); without it nothing is compared.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent


def checkout() -> Path | None:
    """The state to compare with, or None."""
    named = os.environ.get("FLEETCORE_BEFORE")
    return None if not named else Path(named)


def measure(module: str, task: Mapping[str, Any], state: Path | None = None) -> dict[str, Any]:
    """What a module of ours prints for a task, run with our packages or with those of another state."""
    environment = dict(os.environ)
    if state is not None:
        environment["PYTHONPATH"] = os.pathsep.join(map(str, (state, *sorted((state / "plugins").glob("*")))))
    command = [sys.executable, str(_HERE / f"{module}.py"), json.dumps(task)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
