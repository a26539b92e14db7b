"""kill -9 in the middle of a step from one root to the next: the folder opens, in one phase or the other."""

import asyncio
import json
import random
import subprocess
import sys
import time

from fleetcore.testing.patience import PATIENCE_S

STEPS = ("begin", "issue", "back", "issue", "retire")


def words(data, *more):
    return [sys.executable, "-m", "fleetcore", "ca", *more, "--data", str(data), "-o", "json"]


def looked(data):
    done = subprocess.run(
        words(data, "rotate", "status"), capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["phase"]


#: Of a step, each killed but where it is done by then. On a machine that slows down while it runs, all of them are.
_TRIES = 10


async def timed(data):
    """The phase, and how long a command takes now: what else runs on the machine changes meanwhile."""
    begun = time.monotonic()
    return await asyncio.to_thread(looked, data), time.monotonic() - begun


async def test_a_killed_step_is_done_or_not_done(tmp_path):
    data = tmp_path / "data"
    await asyncio.to_thread(
        subprocess.run, [sys.executable, "-m", "fleetcore", "init", str(data)], check=True, capture_output=True
    )
    before, whole_s = await timed(data)
    chance = random.Random(7)
    ends = {"begin": "announced", "issue": "issuing", "back": "announced", "retire": "settled"}
    killed = 0

    for step in STEPS:
        for left in reversed(range(_TRIES)):
            process = await asyncio.create_subprocess_exec(
                *words(data, "rotate", step), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
            )
            # Most of the time goes into starting: the last part of it is where the step is. The last try is let end.
            waiting = asyncio.create_task(process.wait())
            within_s = whole_s * (0.6 + 0.5 * chance.random()) if left else None
            await asyncio.wait({waiting}, timeout=within_s)
            if not waiting.done():
                process.kill()
                killed += 1
            await waiting
            after, whole_s = await timed(data)
            assert after in (before, ends[step])
            if after == ends[step]:
                break
        assert after == ends[step]
        before = after

    assert killed
