"""The open files and sockets of this process, for tests that everything opened is closed."""

import contextlib
import os
from collections import Counter
from pathlib import Path


def open_files() -> Counter[str]:
    """The targets of this process's descriptors, as Linux names them (``socket:[1234]``), with the number of each.

    ``open_files() - before`` is what was opened since and is still open. Counting descriptors would not do: the garbage
    collector may meanwhile close those of an earlier test.
    """
    names: Counter[str] = Counter()
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the listing's own descriptor
            names[os.readlink(descriptor)] += 1  # noqa: PTH115 - a socket's name is no path
    return names
