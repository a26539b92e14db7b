"""What this process has open, for tests that something closes all that it opened."""

import contextlib
import os
from collections import Counter
from pathlib import Path


def open_files() -> Counter[str]:
    """What the descriptors of this process stand for, as Linux names it (``socket:[1234]``), with how many of each.

    ``open_files() - before`` is what was opened since and is still open. A number of descriptors alone would not tell:
    what an earlier test left to the garbage collector may be closed meanwhile.
    """
    names: Counter[str] = Counter()
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            names[os.readlink(descriptor)] += 1  # noqa: PTH115 - a socket's name is no path
    return names
