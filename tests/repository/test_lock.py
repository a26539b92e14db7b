"""What a package of the workspace requires is in the lock file, so that a fresh environment has it."""

import re

from scripts import lock


def name_of(requirement):
    return re.sub(r"[-_.]+", "-", re.match(r"[A-Za-z0-9._-]+", requirement)[0]).lower()


def test_every_requirement_is_locked():
    locked = {
        name_of(line) for line in (lock.ROOT / "requirements.lock").read_text().splitlines() if line[:1].isalpha()
    }

    assert {name_of(each) for each in lock.wanted()} - locked == set(), "run `make lock` and commit requirements.lock"
