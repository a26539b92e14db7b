"""Starting the agent as the release that is to run."""

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

#: The folder of packages of the release that runs; absent for the installed agent.
SITE = "FLEETCORE_AGENT_SITE"
#: A release on trial that hangs is killed after so long.
TRIAL_LIMIT_S = 720


def running_site() -> Path | None:
    """The folder of the release that this process runs; None for the installed agent."""
    site = os.environ.get(SITE)
    return Path(site) if site else None


def become(site: Path | None, data: Path, *, verbose: bool, on_trial: bool = False) -> NoReturn:
    """Replaces this process by the agent of a release, or by the installed one.

    A release on trial is killed by an alarm where it does not end its trial by itself.
    """
    signal.alarm(TRIAL_LIMIT_S if on_trial else 0)
    words = ["-P", "-m", "fleetcore", "edge", "run", "--data", str(data), *(["--verbose"] if verbose else [])]
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, [sys.executable, *words], _environment(site))  # noqa: S606 - this same interpreter


def _environment(site: Path | None) -> Mapping[str, str]:
    before = os.environ.get(SITE)
    paths = [each for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each and each != before]
    left = {name: value for name, value in os.environ.items() if name not in (SITE, "PYTHONPATH")}
    if site is not None:
        left[SITE] = str(site)
        paths.insert(0, str(site))
    return {**left, "PYTHONPATH": os.pathsep.join(paths)} if paths else left


def isolated() -> tuple[list[str], dict[str, str]]:
    """The interpreter and the environment for a process that takes nothing of this one's but the release."""
    site = running_site()
    if site is None:
        return [sys.executable, "-I"], {}
    return [sys.executable, "-P", "-s"], {"PYTHONPATH": str(site)}
